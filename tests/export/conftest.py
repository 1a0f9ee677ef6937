"""The exports that the tests of ONNX graphs run: exporting takes long, so there are two for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimotok import Tokenizer
from tests.helpers.exports import command
from tests.helpers.models import STREAMABLE, TINY, make_tokenizer

# few layers: what takes long is the exporter's reasoning about every one of them
# The floor is above the rounding errors of a clip of one sample, a constant, whose spectrum is empty: with the official
# floor its features would be those errors.
FEW: dict[str, Any] = {
    "mel_floor": 1e-3,
    "encoder_layers": 2,
    "encoder_skip_layer_id": 1,
    "decoder_layers": 1,
    "vocoder_num_layers": 1,
}


@pytest.fixture(scope="session", params=["windowed, layer norm", "as the official: unlimited, group norm"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    """A model and its export: of the library's function, and, with stream graphs, of the command."""
    from mimotok.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("onnx")
    if request.param.startswith("windowed"):
        tokenizer = make_tokenizer(replace(STREAMABLE, **FEW))
        tokenizer.save_pretrained(folder / "model")
        options = ("--format", "onnx", "--model", folder / "model", "--n-q", 3, "--streaming")
        assert command("export", folder / "exported", *options) == 0
    else:
        tokenizer = make_tokenizer(replace(TINY, **FEW))
        export_onnx(tokenizer, folder / "exported")
    return tokenizer, folder / "exported"
