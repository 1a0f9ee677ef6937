"""Summaries over clips, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_NAN = float("nan")
_CHUNK = 1 << 22  # indices drawn at once


class Summary(NamedTuple):
    """A mean and a median, the mean's 95 % interval from low to high, clips that count, and clips without a value."""

    mean: float
    median: float
    low: float
    high: float
    clips: int
    missing: int


def summarize(values: Sequence[float], *, seed: int) -> Summary:
    """Average the values that are not NaN. The mean of none is NaN; an interval needs two."""
    return summarize_ratio(values, [1.0] * len(values), seed=seed)


def summarize_ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int) -> Summary:
    """Divide the sum of numerators by the sum of denominators, over clips.

    Args:
        numerators: one for each clip, NaN where it has none.
        denominators: one for each clip; clips with 0 do not count.
        seed: of the bootstrap.

    Returns:
        The ratio as `mean`, its interval, and the median of the clips' own ratios.
    """
    over = np.asarray(numerators, float)
    under = np.asarray(denominators, float)
    valid = np.isfinite(over) & np.isfinite(under) & (under > 0)
    over = over[valid]
    under = under[valid]
    missing = int((~valid).sum())
    if not len(over):
        return Summary(_NAN, _NAN, _NAN, _NAN, 0, missing)
    low, high = bootstrap_interval(over, under, seed=seed)
    return Summary(float(over.sum() / under.sum()), float(np.median(over / under)), low, high, len(over), missing)


def bootstrap_interval(numerators: np.ndarray, denominators: np.ndarray, *, seed: int) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of sum(numerators) / sum(denominators), both [N].

    Returns:
        low and high, NaN for fewer than two clips.
    """
    count = len(numerators)
    if count < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    ratios: list[np.ndarray] = []
    rows = max(1, _CHUNK // count)
    for start in range(0, RESAMPLES, rows):
        drawn = generator.integers(0, count, (min(rows, RESAMPLES - start), count))
        ratios.append(numerators[drawn].sum(1) / denominators[drawn].sum(1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return float(low), float(high)


def entropy_bits(counts: Sequence[int]) -> float:
    """Compute the bits per symbol of an ideal coder of independent symbols; symbol i occurred counts[i] times."""
    present = np.asarray([count for count in counts if count], float)
    share = present / present.sum()
    return float(-(share * np.log2(share)).sum()) if len(share) else 0.0
