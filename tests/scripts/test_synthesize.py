"""Synthetic speech: a stopped call goes on to the same corpus, and a shorter vocal tract changes pitch, not length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from scripts.synthesize import SAMPLE_RATE, Recipe, Voice, plan, read_texts, run, synthesize, voice_alone

PITCH = 200.0


def hum(text: str, speed: float, seed: int) -> np.ndarray:
    """A voice that hums a tenth of a second per letter, with breath that depends on the seed."""
    time = np.arange(round(0.1 * len(text) / speed * SAMPLE_RATE)) / SAMPLE_RATE
    breath = np.random.default_rng(seed).normal(0, 0.01, len(time))
    return 0.5 * np.sin(2 * np.pi * PITCH * time) + breath


def voice(name: str) -> Voice:
    return Voice(name, f"{name} (synthetic)", "none", 0.5, lambda: hum)


VOICES = (voice("a"), voice("b"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        {"audio": "a", "text": " Two  words. ", "language": "en", "split": "train"},
        {"audio": "b", "text": "Two words.", "language": "en-GB", "split": "train"},
        {"audio": "b2", "text": "Two words.", "language": "English", "split": "train"},
        {"audio": "c", "text": "Zwei Worte.", "language": "de", "split": "train"},
        {"audio": "d", "text": "Held out.", "language": "en", "split": "test"},
        {"audio": "e", "text": None, "split": "train"},
        {"audio": "f", "text": "1 2 3", "split": "train"},
        {"audio": "g", "text": "No split at all."},
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_only_english_texts_of_the_training_part_are_read(manifest: Path, tmp_path: Path) -> None:
    assert read_texts([manifest]) == ["Two words.", "No split at all."]
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"audio": "a", "text": "Ja.", "language": "de"}\n')
    with pytest.raises(ValueError, match=r"empty\.jsonl: no English text"):
        read_texts([empty])


def test_texts_of_a_corpus_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "LJ001-0001.wav").touch()
    (tmp_path / "metadata.csv").write_text("LJ001-0001|Dr. A|Doctor A\n")
    assert read_texts([tmp_path]) == ["Doctor A"]


def test_lines_of_a_text_file_are_texts(manifest: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("Two words.\n\n  An\town line \n7\n", encoding="utf-8")
    assert read_texts([lines, manifest]) == ["Two words.", "An own line", "No split at all."]
    lines.write_bytes(b"good\n\xff\n")
    with pytest.raises(ValueError, match=r"lines\.txt: not UTF-8 text .* at byte 5"):
        read_texts([lines])


def test_one_voice_alone_is_neither_faster_nor_higher() -> None:
    alone = voice_alone("piper-joe")
    recipes = [plan(["Two words.", "Three"], number, 0, [alone]) for number in range(20)]
    assert {(recipe.voice.name, recipe.speed, recipe.tract) for recipe in recipes} == {("piper-joe", 1.0, 1.0)}
    with pytest.raises(ValueError, match=r"voice=jack: give one of hibari-heart, piper-joe"):
        voice_alone("jack")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_stopped_call_goes_on_to_the_same_corpus(manifest: Path, tmp_path: Path) -> None:
    hours = 20 / 3600
    whole = tmp_path / "whole"
    assert "manifest" in run([manifest], whole, hours, 3, VOICES)
    parts = tmp_path / "parts"
    run([manifest], parts, hours / 3, 3, VOICES)
    index = parts / "manifest.jsonl"
    lines = index.read_bytes()
    # a kill in the middle of a line: the clip is made again
    index.write_bytes(lines[: lines.rstrip().rfind(b"\n") + 20])
    run([manifest], parts, hours, 3, VOICES)
    assert contents(parts) == {name: data.replace(b"whole/", b"parts/") for name, data in contents(whole).items()}
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    assert {row["source"] for row in rows} == {"a (synthetic)", "b (synthetic)"}
    for row in rows:
        assert sf.info(tmp_path / row["audio"]).duration == pytest.approx(row["duration"], abs=1e-3)
    # another seed is another corpus
    assert [plan(["x", "y"], n, 3, VOICES)[1:] for n in range(9)] != [
        plan(["x", "y"], n, 4, VOICES)[1:] for n in range(9)
    ]


@pytest.mark.parametrize("tract", [0.88, 1.14])
def test_a_shorter_vocal_tract_raises_the_pitch_and_keeps_the_length(tract: float) -> None:
    recipe = Recipe(0, "ten letter", VOICES[0], 1.0, 1.0)
    plain = synthesize(recipe, hum)
    other = synthesize(recipe._replace(tract=tract), hum)
    assert len(other) == pytest.approx(len(plain), rel=1e-3)
    peaks = [np.argmax(np.abs(np.fft.rfft(wav))) * SAMPLE_RATE / len(wav) for wav in (plain, other)]
    assert peaks == pytest.approx([PITCH, PITCH * tract], abs=1.0)
