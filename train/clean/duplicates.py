"""Near-duplicates: the same sound again, at another level, at another rate or in another codec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LENGTHS = 0.03  # share by which the lengths of duplicates may differ
_EDGE = 0.15  # seconds by which they may differ besides: speech is found a frame earlier or later


def find_duplicates(prints: np.ndarray, seconds: Sequence[float], threshold: float) -> dict[int, int]:
    """Find segments that are heard a second time.

    Args:
        prints: int8 [N, D], see `measure.fingerprint`.
        seconds: N lengths.
        threshold: cosine from which two segments of like length are one.

    Returns:
        By the number of each duplicate, the number of the first segment that sounds so; that one is none itself.
    """
    vectors = prints.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    lengths = np.asarray(seconds, np.float64)
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    first_of: dict[int, int] = {}
    for number in range(len(lengths)):
        slack = _LENGTHS * lengths[number] + _EDGE
        low, high = np.searchsorted(ordered, [lengths[number] - slack, lengths[number] + slack])
        near = np.sort(order[low:high])
        earlier = near[near < number]
        for other in earlier[vectors[earlier] @ vectors[number] >= threshold]:
            if int(other) not in first_of:
                first_of[number] = int(other)
                break
    return first_of
