"""The page as a folder of static files, which any web server can serve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mimotok.export.onnx import LARGEST_GRAPH, export_facts, export_onnx
from mimotok.export.run_onnx import DECODER_NAME, ENCODER_NAME, FACTS_NAME
from mimotok.io.files import StrPath, atomic_path, require_writable, writing
from mimotok.page.files import INDEX_NAME, SAMPLE_NAME, sample_path, site_folder
from mimotok.page.runtime import FILES as RUNTIME_FILES
from mimotok.page.runtime import find_runtime
from mimotok.tokenizer import Tokenizer

# The browser reads from it what to load and how large that is. It is written last: a folder without it is no page.
PAGE_NAME = "page.json"
# Stands in a folder while its page is made, so that a build that was cut short can be made again.
UNFINISHED_NAME = ".mimotok-page"
MODEL_FOLDER = "model"
RUNTIME_FOLDER = "ort"
README_NAME = "README.md"
# Hugging Face serves a static Space by these lines; the headers allow threads.
README = """---
title: mimotok
emoji: 🎙️
colorFrom: blue
colorTo: indigo
sdk: static
app_file: index.html
license: apache-2.0
custom_headers:
  cross-origin-embedder-policy: require-corp
  cross-origin-opener-policy: same-origin
  cross-origin-resource-policy: cross-origin
---

A neural audio codec that runs in the browser. `mimotok page` made this folder; any web server can serve it.
"""


def build_page(
    tokenizer: Tokenizer,
    folder: StrPath,
    *,
    n_q: int | None = None,
    int8: bool = False,
    runtime: StrPath | None = None,
) -> None:
    """Make the page for a model, or bring a page that is there already up to date.

    Args:
        tokenizer: the model, float32 on the CPU. Its graphs are exported only where the folder has not got them yet.
        folder: a folder that does not exist, is empty, or holds a page.
        n_q: the most codebooks that the page offers, all of the model's where None.
        int8: whether the decoder's matrices have 8 bits.
        runtime: the folder of onnxruntime-web; see `mimotok.page.runtime.find_runtime`.

    Raises:
        ValueError: the folder holds something else, the model is too large, or the runtime cannot be had.
    """
    folder = Path(folder)
    _require_page_or_nothing(folder)
    _require_small(tokenizer)
    n_q = tokenizer.config.checked_n_q(tokenizer.config.num_quantizers if n_q is None else n_q)
    runtime = find_runtime(runtime)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED_NAME).touch()
        (folder / PAGE_NAME).unlink(missing_ok=True)
    _export(tokenizer, folder / MODEL_FOLDER, n_q, int8)
    with writing(folder):
        shutil.copytree(site_folder(), folder, dirs_exist_ok=True)
        shutil.copyfile(sample_path(), folder / SAMPLE_NAME)
        (folder / RUNTIME_FOLDER).mkdir(exist_ok=True)
        for name in RUNTIME_FILES:
            shutil.copyfile(runtime / name, folder / RUNTIME_FOLDER / name)
    with atomic_path(folder / README_NAME) as temporary:
        temporary.write_text(README, encoding="utf-8")
    loaded = [f"{MODEL_FOLDER}/{name}" for name in (ENCODER_NAME, DECODER_NAME, FACTS_NAME)]
    loaded.append(f"{RUNTIME_FOLDER}/ort-wasm-simd-threaded.wasm")
    page = {"sample": SAMPLE_NAME, "files": {name: (folder / name).stat().st_size for name in loaded}}
    with atomic_path(folder / PAGE_NAME) as temporary:
        temporary.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
    (folder / UNFINISHED_NAME).unlink()


def _require_page_or_nothing(folder: Path) -> None:
    if not folder.exists():
        require_writable(folder, create_folders=True)
        return
    known = (folder / UNFINISHED_NAME).is_file() or _holds_page(folder)
    if not folder.is_dir() or (any(folder.iterdir()) and not known):
        raise ValueError(f"{folder}: exists already and holds no page; name another folder (--out)")


def _holds_page(folder: Path) -> bool:
    """Return whether the folder's page.json is one of ours: other web projects have a file of that name too."""
    try:
        page = json.loads((folder / PAGE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(page, dict) and page.get("sample") == SAMPLE_NAME and "files" in page


def _require_small(tokenizer: Tokenizer) -> None:
    size = sum(tensor.nbytes for tensor in tokenizer.state_dict().values())
    if size > LARGEST_GRAPH:
        raise ValueError(
            f"model {tokenizer.name!r} has {size / 1e9:.1f} GB of weights, and a browser takes at most "
            f"{LARGEST_GRAPH / 1e9:g} GB: give a smaller model"
        )


def _export(tokenizer: Tokenizer, folder: Path, n_q: int, int8: bool) -> None:
    """Export the graphs, unless the folder holds those of the same model with the same options."""
    try:
        found = json.loads((folder / FACTS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == export_facts(tokenizer, n_q, int8=int8):
        return
    if folder.exists():
        with writing(folder):
            shutil.rmtree(folder)
    export_onnx(tokenizer, folder, n_q=n_q, int8=int8)


def is_page(folder: StrPath) -> bool:
    """Return whether a folder holds a whole page."""
    return all((Path(folder) / name).is_file() for name in (INDEX_NAME, PAGE_NAME))
