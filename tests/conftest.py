"""Shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from mimotok.tokenizer import Tokenizer
from tests.helpers.models import STREAMABLE, TINY, make_tokenizer
from tests.helpers.paths import PARITY
from tests.helpers.warm_python import start_warm_python

# By default an example may take 200 ms and the making of examples a second: results would depend on the machine's load.
# Our fixtures of function scope make models and hold nothing, so that examples may share them.
settings.register_profile(
    "any speed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("any speed")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Start the server of `warm_python` before the first test: no test has changed anything in this process yet."""
    server = start_warm_python()
    try:
        return (yield)
    finally:
        if server is not None:
            server.close()


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """A checkpoint folder in the official format, with `expected.npz` beside it."""
    return PARITY / "a"


@pytest.fixture(scope="session")
def windowed_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    """A streamable model of few layers and its ONNX export with all graphs and codebooks, made once: it takes long.

    A layer of a stream's graph costs the exporter seconds. The skip is in `unlimited_export`, and in streams of torch.
    """
    for library in ("onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason="needs: pip install 'mimotok[onnx]'")
    from mimotok.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("windowed")
    layers: dict[str, Any] = {
        "encoder_layers": 1,
        "encoder_skip_layer_id": None,
        "decoder_layers": 1,
        "vocoder_num_layers": 1,
    }
    books: dict[str, Any] = {"num_quantizers": 3, "default_n_q": 2, "quantizer_settings": {"beam": 3, "weighted": True}}
    original = make_tokenizer(replace(STREAMABLE, **layers, **books))
    original.save_pretrained(folder / "model")
    tokenizer = Tokenizer.from_pretrained(folder / "model")
    export_onnx(tokenizer, folder / "exported", n_q=3, streaming=True)
    return tokenizer, folder / "exported"


@pytest.fixture
def tiny() -> Callable[..., Tokenizer]:
    """tiny(**changes): a random model of the tiny configuration with some fields changed."""
    return lambda **changes: make_tokenizer(replace(TINY, **changes))


@pytest.fixture
def streamable() -> Callable[..., Tokenizer]:
    """streamable(**changes): a random model whose receptive field is bounded, with some fields changed."""

    def make(**changes: Any) -> Tokenizer:
        return make_tokenizer(replace(STREAMABLE, **changes))

    return make


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    # more threads wait for each other by spinning, which stops a loaded machine; the models here are tiny
    torch.set_num_threads(1)
