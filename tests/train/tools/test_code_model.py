"""Codes of the splits of a manifest: which clips, in which order, and how they are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from bench.entropy import corpus
from mimotok.io.audio import load_audio
from mimotok.tokenizer import Tokenizer
from tests.helpers.models import STREAMABLE, make_tokenizer
from train.tools import code_model
from train.tools.code_model import codes_of_splits, train_code_model

SPLITS = {"train": 6, "dev": 2, "test": 1}


@pytest.fixture
def tokenizer() -> Tokenizer:
    return make_tokenizer(STREAMABLE)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for split, count in SPLITS.items():
        for index in range(count):
            name = f"{split}-{index}.wav"
            seconds = 0.5 + 0.1 * index
            sf.write(tmp_path / name, 0.1 * rng.standard_normal(round(24_000 * seconds)), 24_000)
            lines.append(json.dumps({"audio": name, "duration": seconds, "split": split}))
    (tmp_path / "train-2.wav").write_bytes(b"no sound")
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_each_split_has_its_clips_until_they_reach_its_hours(
    tokenizer: Tokenizer, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(manifest.parent)
    whole = codes_of_splits(tokenizer, str(manifest), root, dict.fromkeys(("test", "dev", "train", "none"), math.inf))
    assert {split: len(clips) for split, clips in whole.items()} == {"test": 1, "dev": 2, "train": 5}
    assert "left out: " in capsys.readouterr().out
    wanted = {
        tokenizer.encode(load_audio(manifest.parent / f"dev-{i}.wav", 24_000))[0].numpy().tobytes() for i in (0, 1)
    }
    assert {clip.astype(np.int64).tobytes() for clip in whole["dev"]} == wanted
    some = codes_of_splits(tokenizer, str(manifest), root, {"train": 1.3 / 3600, "dev": 0})
    assert list(some) == ["train"]
    assert 1 < len(some["train"]) < 5
    for clip, same in zip(some["train"], whole["train"], strict=False):
        assert np.array_equal(clip, same)


def test_codes_are_kept_clip_by_clip(
    tokenizer: Tokenizer, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "codes.npz"
    hours = {"train": math.inf, "dev": math.inf}
    first = codes_of_splits(tokenizer, str(manifest), str(tmp_path), hours, cache=cache)
    monkeypatch.setattr(code_model, "read_manifest", None)
    again = codes_of_splits(tokenizer, "none", ".", {**hours, "test": 1.0}, cache=cache)
    assert list(again) == ["train", "dev"]
    for split, clips in first.items():
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(clips, again[split], strict=True))
    joined = corpus(first["dev"])
    assert np.array_equal(np.flatnonzero(joined.starts), [0, first["dev"][0].shape[1]])
    assert joined.codes.shape[1] == sum(clip.shape[1] for clip in first["dev"])


def test_a_file_that_does_not_know_its_clips_holds_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    codes = torch.randint(4, (2, 9)).numpy().astype(np.uint16)
    np.savez(tmp_path / "codes.npz", train=codes)
    (clip,) = codes_of_splits(tokenizer, "none", ".", {"train": 1.0}, cache=tmp_path / "codes.npz")["train"]
    assert np.array_equal(clip, codes)


def test_codes_of_another_model_and_half_a_file_are_refused(
    tokenizer: Tokenizer, manifest: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "codes"
    hours = {"train": math.inf}
    first = codes_of_splits(tokenizer, str(manifest), str(tmp_path), hours, cache=cache, made_by="one")
    again = codes_of_splits(tokenizer, "none", ".", hours, cache=cache, made_by="one")
    assert all(np.array_equal(a, b) for a, b in zip(first["train"], again["train"], strict=True))
    with pytest.raises(ValueError, match="holds codes of inf hours of train, not 1; name another file"):
        codes_of_splits(tokenizer, "none", ".", {"train": 1.0}, cache=cache, made_by="one")
    with pytest.raises(ValueError, match="codes that another model made"):
        codes_of_splits(tokenizer, "none", ".", hours, cache=cache, made_by="two")
    cache.write_bytes(cache.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"no \.npz of codes"):
        codes_of_splits(tokenizer, "none", ".", hours, cache=cache, made_by="one")


def test_a_file_that_cannot_be_written_is_told_before_the_work(
    tokenizer: Tokenizer, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(code_model, "codes_of_splits", lambda *_, **__: pytest.fail("it encoded first"))
    with pytest.raises(ValueError, match=r"its folder .*nowhere does not exist: create it first"):
        train_code_model(
            str(manifest), model=str(tmp_path / "model"), out=tmp_path / "nowhere" / "code_model.safetensors"
        )


@pytest.mark.parametrize(("minutes", "steps"), [(0, None), (-1, None), (float("nan"), None), (6, 0)])
def test_no_time_to_train_is_told_before_the_work(tmp_path: Path, minutes: float, steps: int | None) -> None:
    with pytest.raises(ValueError, match=r"give more than 0 minutes, or 1 or more steps"):
        train_code_model(str(tmp_path / "none.jsonl"), minutes=minutes, steps=steps)
