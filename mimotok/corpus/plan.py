"""Choose which clips form a shard, and which a batch: pure functions of lengths that read no audio."""

from __future__ import annotations

from collections.abc import Sequence

# a batch's shortest clip is at least this part of its longest: the rest would be padding
EVENNESS = 0.8


def split_batches(lengths: Sequence[float], budget: float) -> list[list[int]]:
    """Group clips into batches, longest first; each is padded to at most `budget`, or is one clip alone.

    Args:
        lengths: of the clips.
        budget: of a batch, in the same unit.

    Returns:
        The clips' numbers in each batch. Every number occurs once.
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
    """Divide clips into consecutive ranges, each of at least `size` in all, except the last."""
    shards = []
    start = 0
    total = 0.0
    for i, length in enumerate(lengths):
        total += length
        if total >= size:
            shards.append(range(start, i + 1))
            start = i + 1
            total = 0.0
    if start < len(lengths):
        shards.append(range(start, len(lengths)))
    return shards
