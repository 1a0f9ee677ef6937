"""How a long run speaks to its user: one line for each problem, and progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from mimotok.io.terminal.streams import one_line as printable_line

# receives one line
Notify = Callable[[str], None]
# progress(what, how many): a context that yields what to call after each
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]

MAX_LENGTH = 300  # characters: some libraries put whole tables into their messages


def one_line(error: BaseException) -> str:
    """Turn an error into one printable line of bounded length."""
    return printable_line(error)[:MAX_LENGTH]
