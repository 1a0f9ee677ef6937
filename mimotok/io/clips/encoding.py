"""Text that cannot be written as UTF-8: names in another encoding, half a character."""

from __future__ import annotations

import json
from typing import Any


def encoding_problem(value: Any) -> str | None:
    """Return why a JSON value cannot be written as UTF-8 text, in a line, or None where it can."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 20) : error.end]
        return f"not UTF-8 text: {escaped(part)!r}; rename the file, or mend the text"
    return None


def escaped(text: str) -> str:
    """Return a text with what cannot be written as UTF-8 escaped."""
    return text.encode(errors="backslashreplace").decode()
