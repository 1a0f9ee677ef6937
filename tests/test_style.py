"""Two rules of style that a reader feels in every line: one thing assigned at a time, one condition at a time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FOLDERS = ("mimotok", "train", "eval", "bench", "scripts", "examples")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
COMPOUND = (ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try)


def violations(tree: ast.AST) -> Iterator[str]:
    """Yield where a tree assigns a tuple of values to a tuple of names, or chooses twice in one simple statement."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or isinstance(node, COMPOUND):
            continue
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Tuple)
            and isinstance(node.targets[0], ast.Tuple)
        ):
            yield f"line {node.lineno}: assigns several values at once"
        if sum(isinstance(inner, ast.IfExp) for inner in ast.walk(node)) > 1:
            yield f"line {node.lineno}: more than one conditional expression"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_one_thing_at_a_time(path: Path) -> None:
    assert not list(violations(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("line", ["a, b = 1, 2", "a = (1 if b else 2) if c else 3"])
def test_the_rules_notice(line: str) -> None:
    assert len(list(violations(ast.parse(line)))) == 1
