"""A page for a tiny model, whose sound is noise and whose codes are as good as any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mimotok import Tokenizer
from mimotok.page.runtime import find_runtime
from tests.helpers.models import STREAMABLE, make_tokenizer

# few layers: what takes long is the exporter's reasoning about every one of them
FEW: dict[str, Any] = {
    "encoder_layers": 1,
    "encoder_skip_layer_id": None,
    "decoder_layers": 1,
    "vocoder_num_layers": 1,
    "default_n_q": 3,
}


class Built(NamedTuple):
    tokenizer: Tokenizer
    folder: Path


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The folder of onnxruntime-web."""
    try:
        return find_runtime()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A model and its page."""
    for library in ("onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason="needs: pip install 'mimotok[onnx]'")
    from mimotok.page.build import build_page

    folder = tmp_path_factory.mktemp("page")
    made = make_tokenizer(replace(STREAMABLE, **FEW))
    made.save_pretrained(folder / "model")
    tokenizer = Tokenizer.from_pretrained(folder / "model")
    build_page(tokenizer, folder / "page", runtime=runtime)
    return Built(tokenizer, folder / "page")
