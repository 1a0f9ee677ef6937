"""The lines of a JSONL manifest as every command reads them: checked once, in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from mimotok.io.manifest import read_rows
from mimotok.io.places import Places

TEXTS = ("id", "text", "speaker", "language", "source", "split", "text_source")


class ClipRow(NamedTuple):
    """A line of a manifest.

    audio: the path as it stands there; path: the file, absolute, or an address; duration: seconds, None where the line
    does not say; texts: the fields of TEXTS that say something; row: the whole line, with its texts as texts.
    problem: why this clip alone cannot be used, None where it can.
    """

    number: int
    audio: str
    path: str
    duration: float | None
    texts: dict[str, str]
    row: dict[str, Any]
    problem: str | None = None

    @property
    def id(self) -> str:
        """Its `id`, or else its path as it stands there."""
        return self.texts.get("id", self.audio)


def read_clip_rows(path: str, places: Places) -> Iterator[ClipRow]:
    """Yield the clips of a JSONL manifest.

    Raises ValueError, naming the file and the line, for lines without `audio`, values of another type, and paths that
    leave the root. Whole numbers are texts too: pandas writes a column of digits so.
    """
    for number, row in read_rows(path):
        try:
            yield check_row(number, row, places)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None


def check_row(number: int, row: dict[str, Any], places: Places) -> ClipRow:
    """Check one line. Raises ValueError, without the line's number, as `read_clip_rows`."""
    audio = row.get("audio")
    if not isinstance(audio, str) or not audio:
        told = f"audio={audio!r}" if "audio" in row else f"this has {sorted(map(str, row))}"
        raise ValueError(f"a clip needs `audio`, a path; {told}")
    texts = {name: text for name in TEXTS if (text := _text(name, row.get(name))) is not None}
    row = {**row, **{name: text for name, text in texts.items() if not isinstance(row[name], str)}}
    # a clip of its own cannot be opened, which is no reason to stop for the others
    problem = "a path with a NUL character" if "\0" in audio else encoding_problem(row)
    return ClipRow(number, audio, audio if "\0" in audio else places.file(audio), _seconds(row), texts, row, problem)


def encoding_problem(value: Any) -> str | None:
    """Why a JSON value cannot be written as UTF-8 text: half a character in it, as of names in another encoding."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 20) : error.end]
        return f"not UTF-8 text: {part.encode(errors='backslashreplace').decode()!r}; rename the file, or mend the text"
    return None


def escaped(text: str) -> str:
    """Return a text with what cannot be written as UTF-8 escaped."""
    return text.encode(errors="backslashreplace").decode()


def _text(name: str, value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name}={str(value)[:40]!r} is a {type(value).__name__}, expected a text")
    return value


def _seconds(row: dict[str, Any]) -> float | None:
    seconds = row.get("duration")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise ValueError(f"duration={str(seconds)[:40]!r}, expected seconds")
    return float(seconds)
