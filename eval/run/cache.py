"""Results kept as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class Cache:
    """Answers by the content of their question; each is on disk as soon as it is known.

    One process writes. A line cut short by a crash is ignored.
    """

    def __init__(self, path: Path) -> None:
        """path: a file of JSON lines, made where there is none."""
        self.path = path
        self._answers: dict[str, Any] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self._answers[row["key"]] = row["answer"]
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue

    def get(self, question: Any) -> Any:
        """The answer to a JSON value, or None."""
        return self._answers.get(_key(question))

    def put(self, question: Any, answer: Any) -> None:
        """Remembers a JSON value."""
        self._answers[_key(question)] = answer
        with self.path.open("a", encoding="utf-8") as file:
            # the newline first: it ends a line that a crash may have cut short
            file.write("\n" + json.dumps({"key": _key(question), "answer": answer}))


def _key(question: Any) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
