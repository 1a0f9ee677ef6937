"""Speech-like recordings for the evaluation's tests, and codecs that misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from eval.codecs.base import Codec, CodecResult, CodecSpec
from eval.codecs.registry import make_codec
from eval.metrics.base import MISSING, Column, Metric
from eval.protocol import SAMPLE_RATE
from eval.run import steps
from mimotok.io.clips.clip import Clip
from tests.helpers.evaluation_speech import speech


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """Use one thread, as workers do: small matrices on several busy ones wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of three recordings, a.wav, b.wav and c.wav."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        soundfile.write(folder / f"{name}.wav", speech(1.5 + 0.25 * seed, seed), SAMPLE_RATE)
    return folder


class FakeCodec:
    """Calls a function on each recording; counts them."""

    sample_rate = SAMPLE_RATE
    nominal_bitrate: float | None = 100.0
    codebook_sizes: tuple[int, ...] = (4,)

    def __init__(self, label: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.label = label
        self.change = change
        self.calls = 0
        self.identity: dict[str, Any] = {"kind": "fake", "label": label}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        self.calls += 1
        codes = np.arange(len(wav) // 480)[None] % 4
        return CodecResult(self.change(wav), codes, 2.0 * codes.shape[1], 8 * codes.size, 0.1, 0.2)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[np.ndarray], np.ndarray]], FakeCodec]]:
    """fake(name, change): from now on `name` is a codec that does `change` to a recording."""
    fakes: dict[str, FakeCodec] = {}

    def fake_codec(spec: CodecSpec, device: str) -> Codec:
        return fakes.get(spec.name) or make_codec(spec, device)

    monkeypatch.setattr(steps, "make_codec", fake_codec)
    steps.open_codec.cache_clear()

    def add(name: str, change: Callable[[np.ndarray], np.ndarray]) -> FakeCodec:
        fakes[name] = FakeCodec(name, change)
        steps.open_codec.cache_clear()
        return fakes[name]

    yield add
    steps.open_codec.cache_clear()


class FakeMetric:
    """The mean absolute difference; nothing where the reconstruction is silent; and one wrong word in every two."""

    identity: dict[str, Any] = {"kind": "fake"}  # noqa: RUF012
    columns: tuple[Column, ...] = (
        Column("error", "Error", "mean absolute difference", higher_is_better=False, headline=True),
        Column("wer", "WER", "invented", higher_is_better=False, pooled=("word_errors", "words"), headline=True),
    )

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        words = {"wer": 0.5, "word_errors": 1.0, "words": 2.0}
        if not np.abs(reconstruction).max() > 0.01:
            return {"error": MISSING, **words}
        return {"error": float(np.abs(original - reconstruction).mean()), **words}


@pytest.fixture
def fake_metric(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every metric is the fake one, until the test is over."""

    def fake_metric(*_: object) -> Metric:
        return FakeMetric()

    monkeypatch.setattr(steps, "make_metric", fake_metric)
    steps.open_metric.cache_clear()
    yield
    steps.open_metric.cache_clear()
