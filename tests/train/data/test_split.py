"""The held-out part: whole speakers, the same for a seed, near the fraction that is asked for, reported in one line."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.io.clips.clip import Clip
from train.data.manifest import manifest_row, read_manifest
from train.data.module import SpeechDataModule
from train.data.split import choose_held_out


def clips_of(lengths: dict[str, list[float]]) -> list[Clip]:
    return [
        Clip(f"{speaker}{k}", f"{speaker}{k}.wav", speaker=speaker, duration=seconds, split="train")
        for speaker, durations in lengths.items()
        for k, seconds in enumerate(durations)
    ]


corpora = st.dictionaries(
    st.text("abcdefg", min_size=1, max_size=3),
    st.lists(st.floats(0.1, 20), min_size=1, max_size=4),
    min_size=2,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(lengths=corpora, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5), order=st.randoms())
def test_no_speaker_is_on_both_sides_and_a_seed_decides(lengths, fraction, seed, order) -> None:
    clips = clips_of(lengths)
    marked = choose_held_out(clips, fraction=fraction, seed=seed).mark(clips)
    assert [replace(clip, split="train") for clip in marked] == clips
    sides = {split: {clip.speaker for clip in marked if clip.split == split} for split in ("train", "dev")}
    assert sides["train"]
    assert sides["dev"]
    assert not sides["train"] & sides["dev"]
    # whatever the order of the corpus
    order.shuffle(clips)
    again = choose_held_out(clips, fraction=fraction, seed=seed)
    assert {clip.speaker for clip in again.mark(clips) if clip.split == "dev"} == sides["dev"]


def test_the_share_comes_near_and_seeds_differ() -> None:
    clips = clips_of({f"s{k}": [1.0 + k % 3] for k in range(100)})
    total = sum(clip.duration for clip in clips)
    chosen = set()
    for seed in range(5):
        for fraction in (0.05, 0.2, 0.5):
            held = choose_held_out(clips, fraction=fraction, seed=seed)
            seconds = sum(clip.duration for clip in clips if held.has(clip))
            assert seconds / total == pytest.approx(fraction, abs=0.02)
            assert f"{seconds / total:.1%} of the data" in held.message
            assert "\n" not in held.message
        chosen.add(held.names)
    assert len(chosen) == 5


def test_speakers_by_name_and_clips_without_one() -> None:
    clips = [*clips_of({"a": [1.0], "b": [2.0], "c": [3.0]}), Clip("x", "x.wav", duration=4.0, split="train")]
    held = choose_held_out(clips, speakers=["a", "c"])
    assert [clip.split for clip in held.mark(clips)] == ["dev", "train", "dev", "train"]
    assert "2 speakers (a, c); 1 clips of unknown speakers stay in training" in held.message
    nameless = [replace(clip, speaker=None) for clip in clips]
    by_clip = choose_held_out(nameless, fraction=0.1)
    assert sum(clip.split == "dev" for clip in by_clip.mark(nameless)) == 1
    assert "no speakers are named" in by_clip.message
    # the only voice is on both sides, but no recording
    alone = clips_of({"anna": [1.0] * 20})
    by_clip = choose_held_out(alone, fraction=0.1)
    assert sum(clip.split == "dev" for clip in by_clip.mark(alone)) == 2
    assert "one speaker only, anna" in by_clip.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, r"val_fraction=0\.0: expected a share .* between 0 and 1"),
        ({"fraction": 1.0}, r"val_fraction=1\.0: expected a share"),
        ({"fraction": float("nan")}, r"val_fraction=nan"),
        ({"fraction": 0.1, "speakers": ["anna"]}, "give one of them"),
        ({"speakers": []}, "val_speakers is empty"),
        ({"speakers": ["ana"]}, r"nobody is called ana; did you mean anna\? The data has anna, bert"),
        ({"speakers": ["anna", "bert"]}, "nobody is left for training"),
        ({"fraction": 0.1, "dev": "bert"}, "a split of its own, 1 clips in dev"),
        ({"speakers": ["anna"], "nameless": True}, "the data names no speakers"),
    ],
)
def test_what_cannot_be_held_out_is_reported(options, message: str) -> None:
    clips = clips_of({"anna": [1.0, 2.0], "bert": [3.0]})
    clips = [replace(clip, split="dev") if clip.speaker == options.get("dev") else clip for clip in clips]
    if options.get("nameless"):
        clips = [replace(clip, speaker=None) for clip in clips]
    with pytest.raises(ValueError, match=message) as caught:
        choose_held_out(clips, fraction=options.get("fraction"), speakers=options.get("speakers"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cached", [True, False])
def test_the_data_module_validates_on_the_held_out_speakers(tmp_path: Path, cached: bool) -> None:
    speakers = defaultdict(list)
    rows = []
    for k in range(9):
        wav = 0.1 * np.random.default_rng(k).standard_normal(8000)
        soundfile.write(tmp_path / f"{k}.wav", wav, 8000)
        rows.append({"audio": f"{k}.wav", "speaker": f"s{k % 3}"})
        speakers[f"s{k % 3}"].append(f"{k}.wav")
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files: dict[str, Any] = {"manifest": str(tmp_path / "m.jsonl"), "root": str(tmp_path)}
    cache = str(tmp_path / "cache") if cached else None
    data = SpeechDataModule(**files, cache_dir=cache, val_fraction=0.3)
    data.setup()
    (speaker,) = {clip.speaker for clip in data.val_clips}
    assert sorted(clip.id for clip in data.val_clips) == speakers[speaker]
    assert not {clip.speaker for clip in data.train_clips} & {speaker}
    assert sorted(clip.id for clip in data.held_out) == speakers[speaker]
    with pytest.raises(ValueError, match=r"val_manifest=.*: give it, or one of"):
        SpeechDataModule(**files, val_manifest="dev.jsonl", val_fraction=0.3)
    (tmp_path / "cuts.000000.jsonl").touch()
    with pytest.raises(ValueError, match="a Shar folder is streamed"):
        SpeechDataModule(str(tmp_path), val_speakers=["s1"])


def test_a_held_out_cut_is_of_no_split(corpus: Path, prepared: str) -> None:
    """Of one that `prepare` or `clean` wrote for training, too: it is not trained on any more."""
    (folder,) = Path(prepared).iterdir()
    clip = next(clip for clip in read_manifest(str(folder / "cuts.jsonl.gz"), str(corpus)) if clip.split == "train")
    row = manifest_row(clip)
    assert "split" not in row["custom"]
    assert row["custom"]["source"] == clip.source
