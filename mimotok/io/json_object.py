"""JSON objects from strangers: of bounded size and depth, out of regular files only."""

from __future__ import annotations

import json
from typing import Any

from mimotok.io.files import StrPath, open_regular

MAX_BYTES = 1 << 20  # of a settings file; the official ones have 2 kB
MAX_DEPTH = 32  # of what is nested; what lies deeper could not be written again


def read_object(path: StrPath) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises ValueError, naming the file, where it cannot be read, is a pipe or a device, or is no such object.
    """
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: more than {MAX_BYTES >> 20} MiB, which no settings need")
    try:
        return parse_object(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError, in one line, for anything else and for what nests too deeply."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError(f"not valid JSON: it nests more than {MAX_DEPTH} deep") from None
    # UnicodeDecodeError is one
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object of names and values, not {type(value).__name__}")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"not valid JSON: it nests more than {MAX_DEPTH} deep")


def _inside(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value
    return [inner for inner in values if isinstance(inner, (dict, list))]
