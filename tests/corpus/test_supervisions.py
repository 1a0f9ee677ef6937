"""The text of a cut is what is said in it, in tokens as in training: windows and truncated cuts have not all of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.corpus.inputs import read_input
from train.data.manifest import read_manifest

lhotse = pytest.importorskip("lhotse")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuts") / "four.wav"
    soundfile.write(path, np.sin(np.arange(32000) * 0.1), 8000)
    return path


def cut_of(path: Path, spans: list[tuple[float, float]], start: float, duration: float, *, padded: bool) -> dict:
    """A part of four seconds in which `spans` are spoken, padded by a second or not."""
    recording = lhotse.Recording.from_file(path, recording_id="four")
    supervisions = [
        lhotse.SupervisionSegment(f"s{i}", "four", at, length, text=f"text {i}", speaker="she", language="en")
        for i, (at, length) in enumerate(spans)
    ]
    whole = lhotse.MonoCut("whole", start=0, duration=4.0, channel=0, recording=recording, supervisions=supervisions)
    cut = whole.truncate(offset=start, duration=duration).with_id("part")
    return (cut.pad(duration=duration + 1) if padded else cut).with_id("part").to_dict()


QUARTERS = st.integers(0, 15).map(lambda n: n / 4)


@settings(max_examples=40, deadline=None)
@given(
    spans=st.lists(st.tuples(QUARTERS, st.sampled_from([0.25, 1.0, 4.0])), max_size=2),
    start=QUARTERS,
    duration=st.sampled_from([0.25, 1.0, 2.0, 4.0]),
    padded=st.booleans(),
)
def test_a_cut_has_the_text_of_the_one_supervision_that_lies_in_it_as_a_whole(
    recording: Path, spans: list[tuple[float, float]], start: float, duration: float, padded: bool
) -> None:
    spans = [(at, min(length, 4 - at)) for at, length in spans]
    duration = min(duration, 4 - start)
    end = start + duration
    row = cut_of(recording, spans, start, duration, padded=padded)
    manifest = recording.with_name("cuts.jsonl")
    manifest.write_text(json.dumps(row) + "\n")
    (tokens,) = read_input(str(manifest), root=str(recording.parent)).clips
    (clip,) = read_manifest(str(manifest), str(recording.parent))
    heard = [i for i, (at, length) in enumerate(spans) if at < end and at + length > start]
    inside = [i for i in heard if spans[i][0] >= start and sum(spans[i]) <= end + padded]
    wanted = f"text {heard[0]}" if len(heard) == 1 and inside == heard else None
    assert tokens.metadata.get("text") == wanted
    assert clip.text == wanted
    assert clip.speaker == tokens.metadata.get("speaker") == ("she" if len(heard) == 1 else None)
