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
    """mean and median, the mean's 95 % interval from low to high, clips that count, and clips without a value."""

    mean: float
    median: float
    low: float
    high: float
    clips: int
    missing: int


def summarize(values: Sequence[float], *, seed: int) -> Summary:
    """The mean of the values that are not NaN. NaN where there is none; the interval needs two."""
    return summarize_ratio(values, [1.0] * len(values), seed=seed)


def summarize_ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int) -> Summary:
    """The ratio of the sums, as `mean`; the median is that of the clips' own ratios. Denominators of 0 do not count."""
    over, under = np.asarray(numerators, float), np.asarray(denominators, float)
    valid = np.isfinite(over) & np.isfinite(under) & (under > 0)
    over, under, missing = over[valid], under[valid], int((~valid).sum())
    if not len(over):
        return Summary(_NAN, _NAN, _NAN, _NAN, 0, missing)
    low, high = bootstrap_interval(over, under, seed=seed)
    return Summary(float(over.sum() / under.sum()), float(np.median(over / under)), low, high, len(over), missing)


def bootstrap_interval(numerators: np.ndarray, denominators: np.ndarray, *, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(numerators) / sum(denominators), both [N]; NaN for fewer than two clips."""
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
    """Bits per symbol that an ideal coder of independent symbols needs, where symbol i occurred counts[i] times."""
    present = np.asarray([count for count in counts if count], float)
    share = present / present.sum()
    return float(-(share * np.log2(share)).sum()) if len(share) else 0.0
