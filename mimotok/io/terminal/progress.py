"""The one progress bar, on standard error; where that is no terminal, nothing is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


class ProgressBar:
    """A line that shows a description, a bar, and the time that is left.

    Use it in a `with`. rich is imported only where there is a terminal.

        with ProgressBar("encoding", total=3) as bar:
            for clip in clips:
                bar.advance()
    """

    def __init__(
        self,
        description: str = "",
        total: float | None = None,
        *,
        completed: float = 0,
        count: bool = False,
        time_left: bool = True,
        transient: bool = False,
    ) -> None:
        """Set a bar up.

        Args:
            description: text before the bar.
            total: steps in all, None if unknown.
            completed: steps that are done already.
            count: whether to show "done/total".
            time_left: whether to show the time that is left.
            transient: whether to erase the bar at the end.
        """
        self.shown = sys.stderr.isatty()
        self._description = description
        self._total = total
        self._completed = completed
        self._count = count
        self._time_left = time_left
        self._transient = transient
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressBar:
        """Show the bar."""
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            # a file's name is no markup: brackets in it mean nothing
            columns: list[Any] = [TextColumn("{task.description}", markup=False), BarColumn()]
            if self._count:
                columns.append(MofNCompleteColumn())
            if self._time_left:
                columns.append(TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=self._transient)
            self._task = self._bar.add_task(self._description, total=self._total, completed=self._completed)
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Stop the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, completed: float, *, total: float | None = None, description: str | None = None) -> None:
        """Show how much is done; `total` and `description` stay as they were where None."""
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, total=total, description=description)

    def advance(self) -> None:
        """Show that one more step is done."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def restart(self) -> None:
        """Begin again at 0, with an unknown total and a new measurement of the speed."""
        if self._bar is not None:
            self._bar.reset(self._task, total=None)


def with_progress(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield `items`, `total` of them, and show how many are done."""
    with ProgressBar(description, total, count=True) as bar:
        for item in items:
            yield item
            bar.advance()
