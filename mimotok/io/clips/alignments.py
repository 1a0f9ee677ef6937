"""Alignments: which phone and which word is spoken when, one line of JSON for each clip.

`python -m train align` writes such a file; training and evaluation read it. A line is

    {"audio": "dev/a.opus", "id": "a", "text_source": "human", "phones": [["SIL", 0.0, 0.11], ["AH", 0.11, 0.19], ...],
     "words": [["a", 0.11, 0.19], ...]}

`audio` is the path as the manifest has it, `id` the clip's id where the manifest gives one (otherwise the path again).
`phones` are ARPAbet labels without stress, `words` are as they are spoken ("7" is "seven"), in lower case and without
the silence between them; each has its start and end in seconds from the start of the clip. A clip that could not be
aligned has `skipped`, the reason, in place of both. Files of before 2026-11-26 have no `words`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

SILENCE = "SIL"
# the phones of the CMU dictionary, which are ARPAbet's without stress, and silence
PHONES = (
    SILENCE,
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH"),
    *("K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)
UNKNOWN = -100  # a frame without a label: cross-entropy ignores it by default
_NUMBERS = {phone: number for number, phone in enumerate(PHONES)}


Part = TypeVar("Part")


class Phone(NamedTuple):
    """One phone of PHONES and where it lies, in seconds."""

    label: str
    start: float
    end: float


class Word(NamedTuple):
    """One word as it is spoken, in lower case, and where it lies, in seconds."""

    text: str
    start: float
    end: float


def read_alignments(path: str | Path) -> dict[str, tuple[Phone, ...]]:
    """Read the phones of every aligned clip; a clip is found under its `audio` path and under its `id`.

    Raises ValueError where the file cannot be read, or names the line that does not fit.
    """
    return _read(path, _phones_of)


def read_words(path: str | Path) -> dict[str, tuple[Word, ...]]:
    """Read the words of every aligned clip, as `read_alignments` reads the phones."""
    return _read(path, _words_of)


def _read(path: str | Path, parts_of: Callable[[dict[str, Any]], tuple[Part, ...]]) -> dict[str, tuple[Part, ...]]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no alignments can be read from it ({error})") from error
    found: dict[str, tuple[Part, ...]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if "skipped" in row:
                continue
            found |= dict.fromkeys((row["audio"], row.get("id") or row["audio"]), parts_of(row))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number}: not an alignment of `python -m train align`: {error}") from error
    return found


def _phones_of(row: dict[str, Any]) -> tuple[Phone, ...]:
    phones = tuple(Phone(str(label), float(start), float(end)) for label, start, end in row["phones"])
    check_phones(phones)
    return phones


def _words_of(row: dict[str, Any]) -> tuple[Word, ...]:
    if "words" not in row:
        raise ValueError("it has phones and no words; align the clips again")
    words = tuple(Word(str(text), float(start), float(end)) for text, start, end in row["words"])
    end = 0.0
    for word in words:
        if not end - 1e-3 <= word.start <= word.end:
            raise ValueError(f"{word.text!r} at {word.start} to {word.end} s, after a word that ends at {end} s")
        end = word.end
    return words


def check_phones(phones: Sequence[Phone]) -> None:
    """Check that the labels are known and that the phones follow one another. Raises ValueError where they do not."""
    end = 0.0
    for phone in phones:
        if phone.label not in _NUMBERS:
            raise ValueError(f"unknown phone {phone.label!r}: expected one of {' '.join(PHONES)}")
        # times are rounded when they are written
        if not end - 1e-3 <= phone.start <= phone.end:
            raise ValueError(f"{phone.label} at {phone.start} to {phone.end} s, after a phone that ends at {end} s")
        end = phone.end


def frame_labels(
    phones: Sequence[Phone], frames: int, frame_rate: float, *, start: float = 0.0, speed: float = 1.0
) -> np.ndarray:
    """Label each frame with the phone that is spoken at its middle.

    Args:
        phones: of the clip, in order.
        frames: how many frames to label.
        frame_rate: Hz, of the audio that is played.
        start: second of the clip at which that audio begins.
        speed: how much faster than the clip it is played.

    Returns:
        int64 [frames], the place of the phone in PHONES, or UNKNOWN where no phone is.
    """
    middles = start + (np.arange(frames) + 0.5) / frame_rate * speed
    labels = np.full(frames, UNKNOWN, dtype=np.int64)
    if phones:
        place = np.searchsorted([phone.start for phone in phones], middles, side="right") - 1
        known = (place >= 0) & (middles < np.array([phone.end for phone in phones])[place])
        labels[known] = np.array([_NUMBERS[phone.label] for phone in phones])[place[known]]
    return labels
