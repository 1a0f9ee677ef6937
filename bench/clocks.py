"""Both clocks around one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")


class Clocks(NamedTuple):
    """Seconds of wall clock, and of CPU time of all threads of this process."""

    wall: float
    cpu: float


def clocked(work: Callable[[], Result]) -> tuple[Clocks, Result]:
    """Call once. Returns what it took, and what it returned."""
    wall = time.perf_counter()
    cpu = time.process_time()
    result = work()
    return Clocks(time.perf_counter() - wall, time.process_time() - cpu), result
