"""`results.json`: the format, and how it is written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mimotok.io.files import atomic_path, open_regular

FORMAT = 1
Results = dict[str, Any]


def save_results(path: Path, results: Results) -> None:
    """Write results.json, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(_readable(results) + "\n", encoding="utf-8")


def load_results(path: Path) -> Results:
    """Read results.json. Raises ValueError where it cannot be read, or has another format."""
    try:
        with open_regular(path) as file:
            results = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as results.json ({error})") from None
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ValueError(f"{path}: not a results.json of format {FORMAT}")
    return results


def _readable(value: Any, depth: int = 0) -> str:
    """Write JSON in which whatever has no lists or objects in it, such as a clip's figures, is on one line."""
    children: list[Any] = []
    if isinstance(value, (dict, list)):
        children = list(value.values()) if isinstance(value, dict) else value
    if not any(isinstance(child, (dict, list)) for child in children):
        # NaN is not JSON: better no file than one that others cannot read
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    lines = [_readable(child, depth + 1) for child in children]
    opening, closing = "[]"
    if isinstance(value, dict):
        opening, closing = "{}"
        lines = [f"{json.dumps(str(key), ensure_ascii=False)}: {line}" for key, line in zip(value, lines, strict=True)]
    inner = "\n" + " " * (depth + 1)
    outer = "\n" + " " * depth
    return opening + inner + f",{inner}".join(lines) + outer + closing
