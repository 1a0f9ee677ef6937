"""How a long run speaks to its user: one line for each problem, and progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

# receives one line
Notify = Callable[[str], None]
# progress(what, how many): a context that yields what to call after each
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
