"""The exports that the tests of ONNX graphs run: exporting takes long, so there are two for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimotok import Tokenizer
from tests.helpers.exports import command
from tests.helpers.models import TINY, make_tokenizer

# few layers: what takes long is the exporter's reasoning about every one of them
# The floor is above the rounding errors of a clip of one sample, a constant, whose spectrum is empty: with the official
# floor its features would be those errors.
FEW: dict[str, Any] = {
    "mel_floor": 1e-3,
    "encoder_layers": 2,
    "encoder_skip_layer_id": 1,
    "decoder_layers": 1,
    "vocoder_num_layers": 1,
    "num_quantizers": 3,
    # the other kind of quantizer than that of `windowed_export`
    "quantizer": "fsq",
    "quantizer_settings": {"levels": [8, 5, 3]},
    "codebook_sizes": (120,),
}


@pytest.fixture(scope="session")
def unlimited_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    """A model with the official one's unlimited attention, skip and group norms, and its export by the command."""
    folder = tmp_path_factory.mktemp("onnx")
    tokenizer = make_tokenizer(replace(TINY, **FEW))
    tokenizer.save_pretrained(folder / "model")
    options = ("--format", "onnx", "--model", folder / "model", "--n-q", 2)
    assert command("export", folder / "exported", *options) == 0
    return tokenizer, folder / "exported"


@pytest.fixture(params=["windowed_export", "unlimited_export"])
def exported(request: pytest.FixtureRequest) -> tuple[Tokenizer, Path]:
    """A model and its export: of the library's function, with stream graphs, and of the command."""
    model, folder = request.getfixturevalue(request.param)
    return model, folder
