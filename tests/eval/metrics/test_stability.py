"""Token stability: what a change does to the codes of codecs whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.codecs.base import CodecSpec, TokenCodec
from eval.codecs.registry import make_codec
from eval.metrics.stability import MP3_RATE, TokenStability, mp3_bytes, share_changed, through_mp3, with_noise
from eval.protocol import SAMPLE_RATE
from tests.helpers.evaluation_speech import CLIP, speech
from tests.helpers.models import TINY, make_tokenizer

FRAME = 240


class Frames:
    """A codec whose code of a frame is a constant, the sign of its first sample, or its energy in dB."""

    label = "frames"
    sample_rate = SAMPLE_RATE
    nominal_bitrate = None
    codebook_sizes = (64,)
    frame_size = float(FRAME)

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.identity: dict[str, Any] = {"kind": kind}

    def tokens(self, wav: np.ndarray) -> np.ndarray:
        frames = wav[: len(wav) // FRAME * FRAME].reshape(-1, FRAME)
        codes = {
            "constant": np.full(len(frames), 3),
            "sign": frames[:, 0] > 0,
            "energy": np.floor(20 * np.log10(frames.std(1) + 1e-4)),
        }
        return codes[self.kind].astype(int)[None]


def measure(codec: Any, wav: np.ndarray) -> dict[str, float]:
    return TokenStability().measure_tokens(codec, wav, CLIP)


def test_each_change_changes_what_it_must() -> None:
    wav = speech(1.0)
    assert set(measure(Frames("constant"), wav).values()) == {0.0}
    energy = measure(Frames("energy"), wav)
    assert energy["changed_frame"] == 0
    assert energy["changed_gain"] > 0.9
    assert energy["changed_sample"] < energy["changed_half_frame"]
    sign = measure(Frames("sign"), wav)
    assert sign["changed_gain"] == sign["changed_frame"] == 0
    assert sign["changed_half_frame"] > 0.2
    with pytest.raises(ValueError, match="no tokens"):
        measure(make_codec(CodecSpec("copy")), wav)


def test_our_model_is_measured_and_the_same_every_time(tmp_path: Path) -> None:
    make_tokenizer(TINY).save_pretrained(tmp_path / "tiny")
    codec = make_codec(CodecSpec(str(tmp_path / "tiny"), 2))
    assert isinstance(codec, TokenCodec)
    figures = measure(codec, speech(0.6))
    assert figures == measure(codec, speech(0.6))
    assert all(0 <= value <= 1 for value in figures.values())


def test_a_clip_of_less_than_two_frames_has_no_figures() -> None:
    assert all(np.isnan(value) for value in measure(Frames("sign"), speech(0.5)[: 2 * FRAME - 1]).values())
    assert np.isnan(share_changed(np.zeros((1, 0)), np.zeros((1, 3))))
    assert share_changed(np.array([[0, 1], [0, 1]]), np.array([[0, 1, 5], [1, 1, 5]])) == 0.25


def test_mp3_has_its_rate_and_no_delay_and_noise_its_level() -> None:
    wav = speech(4.0)
    assert 8 * len(mp3_bytes(wav)) / 4 == pytest.approx(MP3_RATE, rel=0.03)
    coded = through_mp3(wav)
    assert coded.shape == wav.shape
    lags = [float(wav[2000:-2000] @ coded[2000 + lag : len(coded) - 2000 + lag]) for lag in range(-1200, 1200)]
    assert int(np.argmax(lags)) == 1200
    noise = with_noise(wav, 20) - wav
    assert 10 * np.log10((wav**2).mean() / (noise**2).mean()) == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("kind", ["sign", "energy"])
def test_mp3_that_changes_nothing_changes_no_codes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.metrics.stability.through_mp3", lambda wav: wav)
    assert measure(Frames(kind), speech(1.0))["changed_mp3"] == 0
