"""Independent work on a CPU, each on a thread of its own.

The products of one clip are too small to share well: two threads with clips of their own encode 1.4 times as many
seconds of sound as they do together on one clip after another, and up to three times with clips below a second
(`python -m bench.batch`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """work(item) of each item, in order, without gradients, on as many threads at once as torch may use."""
    threads = torch.get_num_threads()
    # autocast is a setting of the calling thread, which others would not see
    if threads == 1 or len(items) == 1 or torch.is_autocast_enabled("cpu"):
        return [work(item) for item in items]

    def run(item: Item) -> Result:
        with torch.no_grad():
            return work(item)

    try:
        # torch sets a thread's own number, and that of threads that have not asked yet
        with ThreadPoolExecutor(min(threads, len(items)), initializer=lambda: torch.set_num_threads(1)) as pool:
            return list(pool.map(run, items))
    finally:
        torch.set_num_threads(threads)
