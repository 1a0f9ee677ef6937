"""The reader of tokens: it reads what is there, and nothing where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.codecs.base import CodecSpec
from eval.probe.model import Budget, Reading, train_probe
from eval.probe.run import run_probe
from mimotok.io.clips.clip import Clip
from tests.helpers.evaluation_speech import no_progress

pytest.importorskip("jiwer", reason="jiwer is not installed")


def spelled(text, generator):
    """Make vectors in which three frames for each letter are near that letter's own vector."""
    letters = np.random.default_rng(9).standard_normal((8, 6))
    codes = np.repeat([ord(c) - 96 if c != " " else 0 for c in text], 3)
    vectors = letters[codes] + 0.1 * generator.standard_normal((len(codes), 6))
    return Reading(torch.tensor(vectors, dtype=torch.float32), text)


@pytest.mark.slow
def test_the_reader_reads_vectors_that_spell_and_none_that_do_not() -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join("".join(generator.choice(list("abcd "), 6)).split()) for _ in range(60)]
    spelling = [spelled(text, generator) for text in texts if text]
    options: dict[str, Any] = {
        "budget": Budget(steps=200, width=24, learning_rate=2e-2, batch_size=8),
        "device": "cpu",
        "progress": no_progress,
    }
    result = train_probe(spelling[:44], spelling[44:], 25.0, **options)
    mute = [reading._replace(vectors=torch.randn(reading.vectors.shape)) for reading in spelling]
    nothing = train_probe(mute[:44], mute[44:], 25.0, **options)
    assert result.cer.mean < 0.3 < nothing.cer.mean
    assert (result.clips, result.train_clips) == (len(spelling) - 44, 44)


def test_the_seed_decides_what_the_reader_learns() -> None:
    generator = np.random.default_rng(0)
    spelling = [spelled("abc de", generator) for _ in range(8)]

    def score(seed):
        budget = Budget(steps=12, width=8, learning_rate=1e-2, seed=seed)
        return train_probe(spelling, spelling, 25.0, budget=budget, device="cpu", progress=no_progress)

    assert score(1) == score(1)


def test_scale_and_offset_of_vectors_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    spelling = [spelled("abc de", generator) for _ in range(8)]
    moved = [reading._replace(vectors=4 * reading.vectors + 8) for reading in spelling]
    budget = Budget(steps=12, width=8, learning_rate=1e-2)
    scores = [
        train_probe(side, side, 25.0, budget=budget, device="cpu", progress=no_progress).cer.mean
        for side in (spelling, moved)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_unreadable_recordings_are_reported_and_a_codec_without_tokens_is_refused(corpus, parity_dir) -> None:
    clips = [Clip(path.name, str(path), "a b") for path in sorted(corpus.iterdir())]
    messages: list[str] = []
    options: dict[str, Any] = {"budget": Budget(steps=2, width=8), "notify": messages.append, "progress": no_progress}
    missing = Clip("gone", str(corpus / "gone.wav"), "a")
    result = run_probe(CodecSpec(str(parity_dir), 2), [*clips[:2], missing], clips[2:], **options)
    assert (result.train_clips, result.clips) == (2, 1)
    assert len(messages) == 1
    assert "gone" in messages[0]
    with pytest.raises(ValueError, match="no tokens"):
        run_probe(CodecSpec("copy"), clips, clips, **options)


def test_recordings_are_not_learnt_from_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from eval.__main__ import main

    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps({"audio": f"{n}.wav", "text": "a"}) + "\n" for n in range(3)))
    with pytest.raises(SystemExit) as exited:
        main(["probe", "--manifest", str(path), "--codec", "default", "--out", str(tmp_path / "out")])
    assert exited.value.code == 2
    assert "0.wav is to learn from and to be read, as are 3 in all" in capsys.readouterr().err
