"""Results on disk, so that a run that was stopped goes on from there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class Cache:
    """Answers under the hash of their question; each is on disk as soon as it is known.

    Only one process may write. A line that a crash cut short is ignored.
    """

    def __init__(self, path: Path) -> None:
        """Read the answers in `path`, a file of JSON lines, which is created when it is missing."""
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
        """Return the answer to a JSON value, or None."""
        return self._answers.get(_key(question))

    def put(self, question: Any, answer: Any) -> None:
        """Remember a JSON value as the answer."""
        self._answers[_key(question)] = answer
        with self.path.open("a", encoding="utf-8") as file:
            # the newline first: it ends a line that a crash may have cut short
            file.write("\n" + json.dumps({"key": _key(question), "answer": answer}))


def _key(question: Any) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
