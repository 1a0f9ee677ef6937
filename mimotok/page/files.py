"""Where the page's own files lie, in a source checkout or an installed wheel."""

from __future__ import annotations

import os
from pathlib import Path

INDEX_NAME = "index.html"
SAMPLE_NAME = "sample.flac"

_PACKAGE = Path(__file__).parent.parent


def site_folder() -> Path:
    """Return the folder of the page's HTML, CSS and JavaScript."""
    for folder in (_PACKAGE / "site", _PACKAGE.parent / "site"):
        if (folder / INDEX_NAME).is_file():
            return folder
    raise ValueError("the page's files are missing from this installation: install mimotok anew")


def sample_path() -> Path:
    """Return the project's own sample recording."""
    for path in (_PACKAGE / "site" / SAMPLE_NAME, _PACKAGE.parent / "examples" / SAMPLE_NAME):
        if path.is_file():
            return path
    raise ValueError("the sample recording is missing from this installation: install mimotok anew")


def cache_folder() -> Path:
    """Return the folder for what is made or fetched once per user; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimotok"
