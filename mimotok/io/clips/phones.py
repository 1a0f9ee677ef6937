"""Phones and words and when they are spoken, and the label of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
