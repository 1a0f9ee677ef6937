"""Files below a folder: links to other folders are followed, and what is left out is counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple


class Search(NamedTuple):
    """files: those looked for, relative to the folder, in order; others: how many of each other suffix there are.

    links: folders behind links that were not entered, since their files are found without.
    """

    files: list[Path]
    others: Counter[str]
    links: int

    def left_out(self) -> str | None:
        """Say what was left out; None where nothing was."""
        parts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in self.others.most_common()]
        if self.links:
            parts.append(f"{self.links} links to folders that are searched anyway")
        return ", ".join(parts) or None


def search(folder: Path, suffixes: Collection[str]) -> Search:
    """Find files by their suffixes, hidden ones too. Raises ValueError for a folder that cannot be read."""

    def unreadable(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror})") from error

    files = []
    others: Counter[str] = Counter()
    links = 0
    top = os.path.realpath(folder)
    entered = {top}
    for root, names, leaves in os.walk(folder, onerror=unreadable, followlinks=True):
        kept = []
        for name in sorted(names):
            path = os.path.join(root, name)
            real = os.path.realpath(path)
            # each folder once, and rather under its own name than under a link's
            inside = os.path.islink(path) and os.path.commonpath([real, top]) == top
            if inside or real in entered or top.startswith(real + os.sep):
                links += 1
            else:
                entered.add(real)
                kept.append(name)
        names[:] = kept
        for name in leaves:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes:
                files.append(Path(root, name).relative_to(folder))
            else:
                others[suffix] += 1
    return Search(sorted(files), others, links)
