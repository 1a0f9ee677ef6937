"""Batches on a CPU: groups of clips of similar length, each group on a thread of its own.

The products of one clip are too small to share well: two threads with clips of their own encode 1.4 times as many
seconds of sound as they do together on one clip after another, and up to three times with clips below a second
(`python -m bench.batch`). A large batch would leave the processor's cache, and clips of one length need no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from mimotok.model.lengths import frames_needed

Item = TypeVar("Item")
Result = TypeVar("Result")
# Takes a padded batch [B, n, ...] and its valid lengths [B], None where nothing is padded; returns [B, ...].
BatchFunction = Callable[[Tensor, Tensor | None], Tensor]


def map_in_groups(
    fn: BatchFunction, batch: Tensor, lengths: Tensor | None, *, limit: int, size: int, dim: int = 1
) -> Tensor:
    """Apply `fn` to a padded batch in groups of similar length, one group per thread.

    batch: [B, n, ...], lengths: [B] of n. A group holds at most `limit` padded steps, or one item. The results are
    padded with zeros to `size` along their dimension `dim`; what is past an item's length is undefined. On other
    devices than a CPU, where gradients are wanted, and in a graph, the whole batch is one group.
    """
    if torch.compiler.is_compiling() or len(batch) == 1 or batch.device.type != "cpu" or torch.is_grad_enabled():
        return fn(batch, lengths)
    sizes = torch.full((len(batch),), batch.shape[1], device=batch.device) if lengths is None else lengths

    def result_of(items: list[int]) -> Tensor:
        longest = int(sizes[items].max())
        padded = bool((sizes[items] < longest).any())
        return fn(batch[items, :longest], sizes[items] if padded else None)

    # a group for each thread at least; the longest first, so that no thread is left with it at the end
    share = frames_needed(int(sizes.sum()), torch.get_num_threads())
    groups = list(_groups(sizes.tolist(), min(limit, share)))[::-1]
    parts = map_in_threads(result_of, groups)
    shape = list(parts[0].shape)
    shape[0] = len(batch)
    shape[dim] = size
    result = parts[0].new_zeros(shape)
    for items, part in zip(groups, parts, strict=True):
        result.narrow(dim, 0, part.shape[dim])[items] = part
    return result


def map_in_threads(fn: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return fn(item) of each item in order, without gradients, on as many threads at once as torch may use."""
    threads = torch.get_num_threads()
    # autocast is a setting of the calling thread, which others would not see
    if threads == 1 or len(items) == 1 or torch.is_autocast_enabled("cpu"):
        return [fn(item) for item in items]

    def without_gradients(item: Item) -> Result:
        with torch.no_grad():
            return fn(item)

    workers = min(threads, len(items))
    # no worker begins before all have been started
    started = Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        # a thread that has asked for its number keeps it, whatever others set afterwards
        torch.get_num_threads()
        started.wait()

    try:
        with ThreadPoolExecutor(workers, initializer=begin) as pool:
            try:
                results = pool.map(without_gradients, items)
                started.wait()
            except BaseException:
                # a thread that could not be started: the others wait no longer
                started.abort()
                raise
            # torch sets a thread's own number, and that of threads that have not asked yet: those that others start now
            torch.set_num_threads(threads)
            return list(results)
    finally:
        torch.set_num_threads(threads)


def _groups(sizes: list[int], limit: int) -> Iterator[list[int]]:
    """Yield the indices of `sizes` in groups of similar size, the smallest first."""
    group: list[int] = []
    for item in sorted(range(len(sizes)), key=sizes.__getitem__):
        if group and (len(group) + 1) * sizes[item] > limit:
            yield group
            group = []
        group.append(item)
    yield group
