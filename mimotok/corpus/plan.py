"""Which clips make a shard, and which make a batch: pure functions of lengths, no audio touched."""

from __future__ import annotations

from collections.abc import Sequence

# a batch's shortest clip is at least this part of its longest: the rest would be padding
EVENNESS = 0.8


def split_batches(lengths: Sequence[float], budget: float) -> list[list[int]]:
    """Indices of clips in batches, longest first: each padded to at most `budget`, or one clip alone.

    lengths and budget are in the same unit. Every index occurs once.
    """
    batches: list[list[int]] = []
    longest = 0.0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = batches and (len(batches[-1]) + 1) * longest <= budget and lengths[i] >= EVENNESS * longest
        if fits:
            batches[-1].append(i)
        else:
            batches.append([i])
            longest = lengths[i]
    return batches


def split_shards(lengths: Sequence[float], size: float) -> list[range]:
    """Consecutive runs of clips, each of at least `size` in all, but the last."""
    shards = []
    start = 0
    total = 0.0
    for i, length in enumerate(lengths):
        total += length
        if total >= size:
            shards.append(range(start, i + 1))
            start = i + 1
            total = 0.0
    return shards + ([range(start, len(lengths))] if start < len(lengths) else [])
