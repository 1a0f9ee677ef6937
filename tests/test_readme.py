"""README's own commands and snippets, run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mimotok import weights
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)

needs_checkpoint = pytest.mark.skipif(
    not (ROOT / "checkpoints/default" / weights.WEIGHTS_NAME).is_file(), reason="no embedded checkpoint in this tree"
)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the sample as in.wav, which is what README's commands read."""
    from mimotok import load_audio, save_audio

    save_audio(tmp_path / "in.wav", load_audio(ROOT / "examples/sample.flac", 24_000), 24_000)
    return tmp_path


@needs_checkpoint
def test_python_snippets(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    snippets = [text for language, text in BLOCKS if language == "python"]
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


@needs_checkpoint
def test_command_lines(workplace: Path) -> None:
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("mimotok ")]
    assert len(commands) >= 3
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "mimotok", *command[1:]], cwd=workplace, capture_output=True, text=True
        )
        assert done.returncode == 0, (command, done.stderr)
    assert (workplace / "out.wav").is_file()


@needs_checkpoint
def test_demo() -> None:
    done = subprocess.run([sys.executable, "scripts/demo.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1550 bit/s" in done.stdout
    stoi = re.search(r"STOI\s*\W\s*([\d.]+)", done.stdout)
    assert stoi is not None
    assert float(stoi[1]) > 0.75


def test_the_tree_names_every_folder() -> None:
    tree = README[README.index("## The tree") :]
    packages = [path.parent.relative_to(ROOT) for path in (ROOT / "mimotok").rglob("__init__.py")]
    for folder in [*packages, Path("train"), Path("eval"), Path("bench"), Path("tests"), Path("docs")]:
        assert f"{folder.name}/" in tree, f"README's tree lacks {folder}"


def test_make_targets_that_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
