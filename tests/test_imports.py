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
    [
        "codes",
        "config",
        "files",
        "lengths",
        "onnx_runtime",
        "sampling",
        "side_by_side",
        "text",
        "text_stream",
        "truncation",
    ],
    ["audio", "attention", "linear", "mel", "npz", "tokens"],
    ["codes_file", "layouts", "quantizer", "transformer"],
    ["encoder", "pieces", "training_quantizer", "vocoder", "weights"],
    ["decoder"],
    ["tokenizer"],
    ["chunked", "hf"],
    ["stream_layers"],
    ["patch_lm", "streaming"],
    ["audio_lm", "live"],
    ["convert", "describe"],
    ["corpus.remote"],
    ["corpus.cuts"],
    ["corpus.clips", "corpus.plan"],
    ["corpus.formats", "corpus.loading"],
    ["corpus.ledger"],
    ["corpus.encode", "corpus.inputs", "corpus.sequences"],
    ["corpus.cluster", "corpus.dataset"],
    ["corpus.loader", "corpus.run"],
    ["corpus.verify"],
    ["corpus"],
    ["cli_tools", "export_onnx"],
    ["cli_export", "cli_tokenize"],
    ["cli"],
]
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"lightning", "lhotse", "pyarrow", "ray", "transformers", "torchaudio", "vector_quantize_pytorch"}
ALLOWED_HEAVY = {
    "training_quantizer": {"vector_quantize_pytorch"},
    "corpus.cuts": {"lhotse"},
    "corpus.cluster": {"ray"},
    "corpus.formats": {"lhotse", "pyarrow"},
    "hf": {"transformers"},
}


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


def module_name(path: Path) -> str:
    """`corpus.plan` of mimotok/corpus/plan.py, `corpus` of its __init__.py, "" of the package's own."""
    parts = path.relative_to(ROOT / "mimotok").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name: path for path in sorted((ROOT / "mimotok").rglob("*.py")) if (name := module_name(path))}


def module_of(imported: str) -> str | None:
    """The module of the package that an import names, itself or something in it."""
    name = imported.removeprefix("mimotok.")
    while name and name not in DEPTH:
        name = name.rpartition(".")[0]
    return name or None


@pytest.mark.parametrize("name", MODULES)
def test_layers_of_the_package(name: str) -> None:
    assert name in DEPTH, f"{name} has no layer: give it one in this test and in README's tree"
    found = imports(MODULES[name])
    # `from mimotok.corpus import x` names mimotok.corpus too, which is no import of the folder's __init__ alone
    leaves = {own for own in found if not any(other.startswith(f"{own}.") for other in found)}
    own = {module_of(other) for other in leaves if other.startswith("mimotok.")} - {None}
    wrong = [other for other in own if other is not None and DEPTH[other] >= DEPTH[name]]
    assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("name", MODULES)
def test_the_core_knows_neither_train_nor_eval_nor_heavy_libraries(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(MODULES[name])}
    assert not roots & {"train", "eval", "bench"}
    assert roots & HEAVY <= ALLOWED_HEAVY.get(name, set())


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
