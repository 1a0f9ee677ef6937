"""What loading the package costs. Who may import whom is checked by `lint-imports` (contracts in pyproject.toml)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

HEAVY = {"lightning", "lhotse", "pyarrow", "ray", "transformers", "torchaudio", "vector_quantize_pytorch"}
# Modules whose job is one of these libraries; nothing imports them at the top but what needs them.
ALLOWED_HEAVY = {
    "corpus/cuts.py": {"lhotse"},
    "corpus/cluster.py": {"ray"},
    "corpus/formats.py": {"lhotse", "pyarrow"},
    "hf.py": {"transformers"},
    "lm/constrained.py": {"transformers"},
    "lm/lm_folder.py": {"transformers"},
}
MODULES = sorted((ROOT / "mimotok").rglob("*.py"))


def imported_roots(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_only_where_they_are_the_job(path: Path) -> None:
    allowed = ALLOWED_HEAVY.get(path.relative_to(ROOT / "mimotok").as_posix(), set())
    assert imported_roots(path) & HEAVY <= allowed


@pytest.mark.slow
def test_help_does_not_load_torch_and_the_tokenizer_and_lm_nothing_heavy() -> None:
    code = """
import sys, mimotok, mimotok.cli.main
print("torch" in sys.modules)
mimotok.Tokenizer
import mimotok.lm
print(sorted(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    before, after = out.splitlines()
    assert before == "False"
    assert not {name for name in HEAVY if f"'{name}'" in after}
