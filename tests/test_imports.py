"""Imports point one way: the layers of the package, what train and eval may know, and what the core never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each module may import those of the layers before its own, and none of its own layer's.
LAYERS = [
    ["codes", "config", "files", "lengths", "sampling", "text", "text_stream", "truncation"],
    ["audio", "attention", "mel", "npz", "tokens"],
    ["codes_file", "layouts", "quantizer", "transformer"],
    ["encoder", "training_quantizer", "vocoder", "weights"],
    ["decoder"],
    ["tokenizer"],
    ["chunked"],
    ["stream_layers"],
    ["patch_lm", "streaming"],
    ["audio_lm", "live"],
    ["convert", "describe"],
    ["cli"],
]
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"lightning", "lhotse", "transformers", "torchaudio", "vector_quantize_pytorch"}
ALLOWED_HEAVY = {"training_quantizer.py": {"vector_quantize_pytorch"}}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = sorted(path for path in (ROOT / "mimotok").glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_layers_of_the_package(path: Path) -> None:
    assert path.stem in DEPTH, f"{path.name} has no layer: give it one in this test and in README's tree"
    own = {name.split(".")[1] for name in imports(path) if name.startswith("mimotok.")}
    wrong = [name for name in own if name in DEPTH and DEPTH[name] >= DEPTH[path.stem]]
    assert not wrong, f"{path.name} imports {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_core_knows_neither_train_nor_eval_nor_heavy_libraries(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"train", "eval", "bench"}
    assert roots & HEAVY <= ALLOWED_HEAVY.get(path.name, set())


@pytest.mark.parametrize(("folder", "other"), [("train", "eval"), ("eval", "train")])
def test_train_and_eval_do_not_know_each_other(folder: str, other: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert other not in {name.split(".")[0] for name in imports(path)}, path


def test_help_does_not_load_torch_and_the_tokenizer_nothing_heavy() -> None:
    code = (
        "import sys, mimotok, mimotok.cli; print('torch' in sys.modules); mimotok.Tokenizer; print(sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    before, after = out.splitlines()
    assert before == "False"
    assert not {name for name in HEAVY if f"'{name}'" in after}
