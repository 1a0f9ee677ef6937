"""What tells that a model changed that is named by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimotok.io.files import folder_stamp


def local_files(source: str) -> dict[str, Any]:
    """Return a model's path and the sizes and dates of its files, for its identity; nothing for what is no path."""
    stamp = folder_stamp(source)
    return {"folder": str(Path(source).absolute()), "files": stamp} if stamp else {}
