"""A recording as a manifest names it, and the one reader of JSONL manifests."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimotok.io.alignments import Phone
from mimotok.io.manifest import read_rows
from mimotok.io.remote import is_remote, without_scheme

# values of `text_source` that are not a recogniser
HUMAN_SOURCES = (None, "human", "exact")


@dataclass(frozen=True, slots=True)
class Pcm:
    """Where a clip lies in a 16-bit mono WAV file: `frames` samples from sample `start` on, at `rate` Hz."""

    path: str
    rate: int
    start: int
    frames: int


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance or recording.

    Attributes:
        id: its name in the corpus and in reports.
        audio: path or address of its sound file; "" where `pcm` or `cut` alone say where the sound is.
        text: the transcript of the whole clip, None if unknown.
        language: a code such as "en", None if unknown.
        speaker: who speaks, None if unknown.
        source: the corpus that it is from, "" if unknown.
        duration: seconds, NaN if unknown.
        split: "train", "dev" or "test", "" if unknown.
        text_source: who wrote the text, such as "human" or the name of a recogniser; None if unknown.
        phones: which phone is spoken when, None if unknown.
        pcm: where the decoded samples are; it goes before `cut` and `audio`.
        cut: the Lhotse cut that gives the sound; it goes before `audio`.
        metadata: the manifest's line without `audio` and `id`.
    """

    id: str
    audio: str
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    source: str = ""
    duration: float = math.nan
    split: str = ""
    text_source: str | None = None
    phones: tuple[Phone, ...] | None = None
    pcm: Pcm | None = None
    cut: Any = field(default=None, hash=False)
    metadata: dict[str, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)

    @property
    def machine_text(self) -> bool:
        """Whether a recogniser wrote the text.

        An error rate against such text would measure agreement with that recogniser.
        """
        return self.text_source not in HUMAN_SOURCES


def read_clips(path: str, root: str = ".", *, need_duration: bool = False) -> Iterator[Clip]:
    """Read a JSONL manifest, plain or as .gz.

    Args:
        path: file or address of the manifest.
        root: folder or address of relative audio paths.
        need_duration: whether each line must have `duration`.

    Yields:
        The clips in order. A line has `audio`, and optionally `id`, `duration` in seconds, `text`, `text_source`,
        `language`, `speaker`, `source` and `split`.

    Raises:
        ValueError: the file cannot be read, or a line is not understood; the message names the line.
    """
    for number, row in read_rows(path):
        clip = clip_of(row, root, place=f"{path}:{number}")
        if need_duration and math.isnan(clip.duration):
            raise ValueError(f"{path}:{number}: a clip needs `audio` and `duration`, this has {sorted(row)}")
        yield clip


def clip_of(row: dict[str, Any], root: str = ".", *, place: str) -> Clip:
    """Make a clip of a manifest's line. Raises ValueError, naming `place`, where it is not understood."""
    if not isinstance(row.get("audio"), str):
        raise ValueError(f"{place}: a clip needs `audio`, a path; this has {sorted(row)}")
    audio = without_scheme(row["audio"])
    name = row.get("id")
    return Clip(
        id=audio if name in (None, "") else str(name),
        audio=_joined(root, audio),
        text=_text(row.get("text")),
        language=row.get("language"),
        speaker=row.get("speaker"),
        source=row.get("source") or "",
        duration=_seconds(row.get("duration"), place),
        split=row.get("split") or "",
        text_source=row.get("text_source"),
        metadata={name: value for name, value in row.items() if name not in ("audio", "id")},
    )


def _text(value: Any) -> str | None:
    """Return a text without outer spaces, or None where there is none."""
    return (value.strip() or None) if isinstance(value, str) else None


def _joined(root: str, path: str) -> str:
    if is_remote(path) or os.path.isabs(path):
        return path
    return posixpath.join(root, path) if is_remote(root) else str(Path(root, path))


def _seconds(value: Any, place: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{place}: duration={value!r}, expected seconds")
    return float(value)
