"""What is said in a Lhotse cut: the one rule, for tokens and for training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

TOLERANCE = 0.05  # seconds that a supervision may reach beyond its cut

MOST_SECONDS = 1e9  # of a place in a recording


class Said(NamedTuple):
    """The text of a whole cut, its speaker and its language; None where that is not known."""

    text: str | None = None
    speaker: str | None = None
    language: str | None = None


def said_in(row: dict[str, Any]) -> Said:
    """Return what is said in a cut, given as JSON.

    A text is that of the cut where one supervision alone lies in the cut as a whole: of several, none is the transcript
    of all, and a supervision that the cut truncates tells what is not heard. Who speaks is then known all the same.
    """
    supervisions = list(_supervisions(row, 0.0))
    if len(supervisions) != 1:
        return Said()
    start, own = supervisions[0]
    end = start + _number(own.get("duration"), 0.0)
    whole = start >= -TOLERANCE and end <= _duration(row) + TOLERANCE
    text = _text(own.get("text"))
    return Said(text if whole else None, _text(own.get("speaker")), _text(own.get("language")))


def _supervisions(row: dict[str, Any], offset: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """List the supervisions of a cut, or of a mix of cuts, with the seconds at which they begin in it."""
    for supervision in _dicts(row.get("supervisions")):
        yield offset + _number(supervision.get("start"), 0.0), supervision
    for track in _dicts(row.get("tracks")):
        if isinstance(track.get("cut"), dict):
            yield from _supervisions(track["cut"], offset + _number(track.get("offset"), 0.0))


def _duration(row: dict[str, Any]) -> float:
    tracks = [track for track in _dicts(row.get("tracks")) if isinstance(track.get("cut"), dict)]
    ends = [_number(track.get("offset"), 0.0) + _duration(track["cut"]) for track in tracks]
    return max([*ends, _number(row.get("duration"), 0.0)])


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: Any, default: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # JSON has whole numbers that no float holds, and Python's reader takes NaN
    return float(value) if is_number and abs(value) < MOST_SECONDS else default


def _text(value: Any) -> str | None:
    """Return a text without blank ends; None where nothing is left or the value is no text."""
    return value.strip() or None if isinstance(value, str) else None
