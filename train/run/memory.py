"""How the C library keeps memory between steps."""

from __future__ import annotations

import ctypes
import sys

# of glibc's malloc.h
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_LARGEST_BLOCK = 32 << 20  # bytes, the most that glibc takes for it
_KEPT = (1 << 31) - 1  # bytes


def keep_freed_memory() -> bool:
    """Make glibc keep what a step frees for the next one, instead of handing it back and fetching it page by page.

    It concerns the whole process, which holds its peak from then on: a matter for a program, not for a library.
    Returns whether it is so; another C library is left alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
