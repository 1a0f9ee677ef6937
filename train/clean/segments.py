"""Segments out of stretches of speech: joined over short pauses, cut at long ones, and where speech is quietest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from train.clean.settings import Hearing

_STEP = 0.02  # seconds between the places where long speech may be cut


class Span(NamedTuple):
    """A stretch of a recording, in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


def cut_at_pauses(
    speech: Sequence[Span],
    wav: np.ndarray,
    rate: int,
    hearing: Hearing,
    *,
    same_speaker: Callable[[Span, Span], bool] = lambda _first, _second: True,
) -> list[Span]:
    """Make segments of stretches of speech.

    Args:
        speech: in order, not overlapping.
        wav: [T], the recording, in which long speech is cut where it is quietest.
        rate: Hz.
        hearing: lengths of pauses and segments.
        same_speaker: whether two stretches may stand in one segment.

    Returns:
        Segments in order that do not overlap, between `min_seconds` and `max_seconds` long.
    """
    # room for the padding at both ends
    longest = hearing.max_seconds - 2 * hearing.padding
    joined: list[Span] = []
    for span in (part for whole in speech for part in _parts(whole, wav, rate, longest)):
        last = joined[-1] if joined else None
        fits = (
            last is not None
            and span.start - last.end <= hearing.longest_pause
            and span.end - last.start <= longest
            and same_speaker(last, span)
        )
        if fits:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    padded = _padded(joined, len(wav) / rate, hearing.padding)
    return [span for span in padded if span.seconds >= hearing.min_seconds]


def _parts(span: Span, wav: np.ndarray, rate: int, longest: float) -> list[Span]:
    """Cut a stretch that is too long at the quietest place of the second half of what fits, again and again."""
    parts = []
    while span.seconds > longest:
        step = max(1, round(_STEP * rate))
        first = round((span.start + longest / 2) * rate)
        window = wav[first : round((span.start + longest) * rate)]
        window = window[: len(window) // step * step].reshape(-1, step)
        quietest = first + step * int(np.argmin(np.square(window, dtype=np.float64).mean(axis=1))) + step // 2
        parts.append(Span(span.start, quietest / rate))
        span = Span(quietest / rate, span.end)
    return [*parts, span]


def _padded(spans: Sequence[Span], total: float, padding: float) -> list[Span]:
    """Add silence at both ends: at most half of the pause before the next segment."""
    padded = []
    for number, span in enumerate(spans):
        before = spans[number - 1].end if number else -padding
        after = spans[number + 1].start if number + 1 < len(spans) else total + padding
        start = max(0.0, span.start - min(padding, (span.start - before) / 2))
        padded.append(Span(start, min(total, span.end + min(padding, (after - span.end) / 2))))
    return padded
