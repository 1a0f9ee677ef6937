"""Where the files of a manifest may lie: below its root or its own folder, wherever their names come from."""

from __future__ import annotations

import os
import posixpath
from typing import Any

from mimotok.io.remote import checked_address, is_remote, without_scheme


class Places:
    """The folders below which the files of a manifest lie; a stranger's manifest must not name others.

    root: folder or address of relative paths; folder: that of the manifest, which is allowed too; allow_outside: paths
    may lead anywhere on this machine.
    """

    def __init__(self, root: str, folder: str | None = None, *, allow_outside: bool = False) -> None:
        self.root = root
        self.allow_outside = allow_outside
        local = [os.path.abspath(place) for place in (root, folder) if place is not None and not is_remote(place)]
        # by its name, or where that leads: a folder may itself stand behind a link
        self._folders = {*local, *map(os.path.realpath, local)}

    def file(self, path: Any) -> str:
        """Return an absolute path, or an address below a root that is one. Raises ValueError where it may not be."""
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError(f"{path!r} is no path of a file")
        path = without_scheme(path)
        if is_remote(path):
            return checked_address(path)
        if is_remote(self.root) and not os.path.isabs(path):
            # addresses have no links: what leaves the root does so by its name
            inner = posixpath.normpath(path)
            if inner.startswith(".."):
                raise ValueError(f"{path}: leaves the root {self.root}")
            return checked_address(posixpath.join(self.root, inner))
        whole = os.path.abspath(path if is_remote(self.root) else os.path.join(self.root, path))
        if not (self.allow_outside or self._has(whole) or self._has(os.path.realpath(whole))):
            raise ValueError(
                f"{path}: outside of the root {self.root}; name a folder above it as the root (--root), "
                "or allow paths anywhere (--allow-outside)"
            )
        return whole

    def _has(self, path: str) -> bool:
        return any(os.path.commonpath([path, folder]) == folder for folder in self._folders)
