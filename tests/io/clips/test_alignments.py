"""Phone labels: frames get the phone at their middle, files that do not fit are refused by line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimotok.io.clips.alignments import read_alignments
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.phones import PHONES, UNKNOWN, Phone, frame_labels

SPOKEN = (Phone("SIL", 0.0, 0.11), Phone("AH", 0.11, 0.19), Phone("N", 0.19, 0.42))


def names(labels: np.ndarray) -> list[str | None]:
    return [None if label == UNKNOWN else PHONES[label] for label in labels]


def test_a_frame_has_the_phone_at_its_middle() -> None:
    # middles at .02, .06, .10, .14, .18, .22, ...
    wanted = ["SIL", "SIL", "SIL", "AH", "AH", "N", "N", "N", "N", "N", None, None]
    assert names(frame_labels(SPOKEN, 12, 25.0)) == wanted
    assert names(frame_labels((), 3, 25.0)) == [None] * 3


@given(st.integers(0, 8), st.integers(1, 12))
def test_labels_of_a_crop_are_the_labels_within_it(first: int, count: int) -> None:
    whole = frame_labels(SPOKEN, 30, 25.0)
    crop = frame_labels(SPOKEN, count, 25.0, start=first / 25)
    assert np.array_equal(crop, whole[first : first + count])


@given(st.floats(0.5, 2.0), st.floats(0.0, 0.3))
def test_speed_shortens_phones(speed: float, start: float) -> None:
    played = tuple(Phone(label, (a - start) / speed, (b - start) / speed) for label, a, b in SPOKEN)
    assert np.array_equal(frame_labels(SPOKEN, 20, 25.0, start=start, speed=speed), frame_labels(played, 20, 25.0))


def test_a_file_is_read_by_path_and_by_id(tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "id": "first", "phones": [["SIL", 0.0, 0.1], ["AH", 0.1, 0.2]]},
        {"audio": "b.wav", "phones": [["N", 0, 1]]},
        {"audio": "c.wav", "skipped": "no text"},
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips = [
        Clip("first", "elsewhere/1.wav"),
        Clip("other", "a.wav"),
        Clip("b.wav", "/data/b.wav"),
        Clip("third", "/data/b.wav"),
        Clip("c.wav", "c.wav"),
        # a part of a.wav that is not in the file
        Clip("part", "a.wav", cut="a cut"),
    ]
    first = (Phone("SIL", 0.0, 0.1), Phone("AH", 0.1, 0.2))
    second = (Phone("N", 0.0, 1.0),)
    assert read_alignments(path).parts_of(clips, "/data") == [first, first, second, second, None, None]
    assert read_alignments(path).parts_of(clips[:1], "/data") == [first]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nothing", "2: not an alignment"),
        ('{"audio": "b"}', "phones"),
        ('{"audio": "b", "phones": [["AH1", 0, 1]]}', "unknown phone 'AH1'"),
        ('{"audio": "b", "phones": [["AH", 0, 1], ["N", 0.5, 2]]}', "N at 0.5 to 2.0 s"),
        ('{"audio": "b", "phones": [["AH", 1, 0]]}', "AH at 1.0 to 0.0 s"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"audio": "a", "phones": []}\n' + line + "\n")
    with pytest.raises(ValueError, match=problem):
        read_alignments(path)
    with pytest.raises(ValueError, match="no alignments can be read"):
        read_alignments(tmp_path / "none.jsonl")
