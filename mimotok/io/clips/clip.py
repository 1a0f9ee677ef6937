"""A recording as a manifest names it, and the one reader of JSONL manifests."""

from __future__ import annotations

import math
import os
import posixpath
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mimotok.io.clips.encoding import encoding_problem
from mimotok.io.clips.phones import Phone
from mimotok.io.clips.places import Places
from mimotok.io.files import StrPath
from mimotok.io.manifest import read_rows
from mimotok.io.remote import without_scheme
from mimotok.io.terminal.streams import excerpt, shortened

# values of `text_source` that are not a recogniser
HUMAN_SOURCES = (None, "human", "exact")
# fields that hold texts
TEXTS = ("id", "text", "text_source", "language", "speaker", "source", "split")


@dataclass(frozen=True, slots=True)
class Pcm:
    """Where a clip lies in a 16-bit mono WAV file: `frames` samples from sample `start` on, at `rate` Hz."""

    path: str
    rate: int
    start: int
    frames: int


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the encoded sound of a cut lies in the tar of a Shar folder: `size` bytes from byte `start` on."""

    path: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance or recording.

    Attributes:
        id: its name in the corpus and in reports.
        audio: path or address of its sound file; "" where `pcm`, `cut` or `packed` say where the sound is.
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
        packed: where in a Shar folder the sound of `cut` is, which then has none itself.
        metadata: the manifest's line without `audio` and `id`.
        problem: why this clip alone cannot be used, None where nothing is known against it.
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
    packed: Packed | None = None
    metadata: dict[str, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)
    problem: str | None = None

    @property
    def machine_text(self) -> bool:
        """Whether a recogniser wrote the text.

        An error rate against such text would measure agreement with that recogniser.
        """
        return self.text_source not in HUMAN_SOURCES


def read_clips(
    path: StrPath, root: StrPath = ".", *, need_duration: bool = False, allow_outside: bool = False
) -> Iterator[Clip]:
    """Read a JSONL manifest, plain or as .gz.

    Args:
        path: file or address of the manifest.
        root: folder or address of relative audio paths. All audio lies below it or below the manifest's folder.
        need_duration: whether each line must have `duration`.
        allow_outside: audio may lie anywhere on this machine.

    Yields:
        The clips in order. A line has `audio`, and optionally `id`, `duration` in seconds, `text`, `text_source`,
        `language`, `speaker`, `source` and `split`. Whole numbers are texts too: pandas writes a column of digits so.

    Raises:
        ValueError: the file cannot be read, a line is not understood, or a path leaves the root; the message names the
            line.
    """
    path = os.fspath(path)
    places = Places(os.fspath(root), posixpath.dirname(path) or ".", allow_outside=allow_outside)
    for number, row in read_rows(path):
        clip = clip_of(row, places, place=f"{path}:{number}")
        if need_duration and math.isnan(clip.duration):
            raise ValueError(f"{path}:{number}: a clip needs `audio` and `duration`, this has {sorted(row)}")
        yield clip


def clip_of(row: dict[str, Any], places: Places, *, place: str) -> Clip:
    """Make a clip of a manifest's line. Raises ValueError, naming `place`, where it is not understood."""
    try:
        return _checked(row, places)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _checked(row: dict[str, Any], places: Places) -> Clip:
    audio = row.get("audio")
    if not isinstance(audio, str) or not audio:
        said = f"audio={excerpt(repr(audio))}" if "audio" in row else f"this has {excerpt(sorted(row))}"
        raise ValueError(f"a clip needs `audio`, a path; {said}")
    texts = {name: text for name in TEXTS if (text := _text(name, row.get(name))) is not None}
    # metadata too has them as texts
    row = row | {name: text for name, text in texts.items() if not isinstance(row[name], str)}
    # what a single clip suffers from is no reason to stop for the others
    problem = "a path with a NUL character" if "\0" in audio else encoding_problem(row)
    return Clip(
        id=texts.get("id") or without_scheme(audio),
        audio=audio if "\0" in audio else places.file(audio),
        text=texts.get("text", "").strip() or None,
        language=texts.get("language"),
        speaker=texts.get("speaker"),
        source=texts.get("source", ""),
        duration=_seconds(row.get("duration")),
        split=texts.get("split", ""),
        text_source=texts.get("text_source"),
        metadata={name: value for name, value in row.items() if name not in ("audio", "id")},
        problem=problem,
    )


def _text(name: str, value: Any) -> str | None:
    """Return a text, or None where there is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name}={shortened(value)} is a {type(value).__name__}, expected a text")
    return value


def _seconds(value: Any) -> float:
    return math.nan if value is None else require_seconds(value)


def require_seconds(value: Any, name: str = "duration") -> float:
    """Return a number of seconds as a float. Raises ValueError with `name` where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name}={shortened(value)}, expected seconds")
    return float(value)
