"""What SECURITY.md promises of the dependencies is what pyproject.toml asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.paths import ROOT

tomllib = pytest.importorskip("tomllib")
packaging = pytest.importorskip("packaging.requirements")


def requirements() -> list[Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [packaging.Requirement(text) for texts in (project["dependencies"], *extras) for text in texts]


def promised() -> dict[str, str]:
    rows = re.findall(r"^\| ([\w, -]+) \| ([\d., ]+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    pairs = [zip(names.split(", "), versions.split(", "), strict=True) for names, versions in rows]
    return {name: version for pair in pairs for name, version in pair}


@pytest.mark.parametrize("name", promised())
def test_versions_with_known_holes_are_left_out(name: str) -> None:
    found = [requirement for requirement in requirements() if requirement.name == name]
    assert found
    for requirement in found:
        least = [one.version for one in requirement.specifier if one.operator == ">="]
        assert least == [promised()[name]], requirement


def test_nothing_in_the_code_trusts_more_than_it_says() -> None:
    """No file of ours unpickles, evaluates or runs a shell; what looks like it is named here with its reason."""
    pattern = re.compile(
        r"pickle\.loads?\(|allow_pickle=True|weights_only=False|trust_remote_code=True|shell=True|os\.system|os\.popen|"
        r"(?<![.\w])(?:eval|exec)\(|yaml\.(?:unsafe_|full_)?load\(|joblib\.load|marshal\.loads?|\.from_shar\(|"
        r"CutSet\.from_(?:file|jsonl)|fsspec\.(?:open|core|get_mapper)"
    )
    # the one place, behind the check of the address
    allowed = {"mimotok/io/remote.py": {"fsspec.core"}}
    for folder in ("mimotok", "train", "eval", "examples", "bench", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            found = set(pattern.findall(path.read_text(encoding="utf-8")))
            assert found <= allowed.get(name, set()), f"{name}: {found}"
    assert Path(ROOT, "SECURITY.md").is_file()


def test_every_torch_load_says_weights_only() -> None:
    for folder in ("mimotok", "train", "eval", "examples", "bench", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in re.findall(r"torch\.load\([^)]*\)", path.read_text(encoding="utf-8")):
                assert "weights_only=True" in call, f"{path}: {call}"
