"""Tables of benchmarks in Markdown, as bench/README.md shows them."""

from __future__ import annotations

from collections.abc import Sequence


def book_columns(count: int) -> list[str]:
    """Return the headings of columns that hold a figure of each of `count` codebooks."""
    return [f"book {number}" for number in range(1, count + 1)]


class Table:
    """A title and rows, printed whole.

    Args:
        title: the machine and the settings; no line where empty.
        header: names of the columns; the first is aligned to the left, the others to the right.
    """

    def __init__(self, title: str, header: Sequence[str]) -> None:
        self.title = title
        self.rows: list[Sequence[str]] = [header, ["---", *["---:"] * (len(header) - 1)]]

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)

    def __str__(self) -> str:
        lines = [f"| {' | '.join(cells)} |" for cells in self.rows]
        if self.title:
            lines = [f"{self.title}\n", *lines]
        return "\n".join(lines)
