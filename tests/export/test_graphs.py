"""torch.export and torch.compile of what users call: one graph for every batch and length, equal to plain calls."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mimotok.export.graphs import EncoderGraph
from mimotok.export.stream_graphs import DecoderStreamGraph, EncoderStreamGraph
from tests.helpers.models import STREAMABLE, TINY, make_tokenizer

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "encoder_layers": 1, "encoder_skip_layer_id": None, "decoder_layers": 1, "vocoder_num_layers": 1,
    "num_quantizers": 2,
}  # fmt: skip
WINDOWED = replace(STREAMABLE, **SMALL)
UNLIMITED = replace(TINY, **SMALL)
LENGTHS = torch.tensor([9000, 7000])
# 50 Hz frames on both sides of 32, 64 and 128; a graph of several code frames is none of a single one
OTHER_LENGTHS = [torch.tensor([960, 400, 9]), torch.tensor([30_000, 2_000, 31_000]), torch.tensor([90_000, 1, 64_000])]


class Calls(nn.Module):
    """A call of a module, which torch.export wants."""

    def __init__(self, owner: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self.call = call

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.call(values, lengths))


def sound(lengths: Tensor) -> Tensor:
    wav = 0.3 * torch.randn(len(lengths), int(lengths.max()), generator=torch.Generator().manual_seed(0))
    return wav * (torch.arange(wav.shape[1]) < lengths[:, None])


def exported(module: nn.Module, values: Tensor, lengths: Tensor) -> nn.Module:
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        shapes = ({0: dynamic, 1: dynamic}, {0: dynamic})
        return torch.export.export(module, (values, lengths), dynamic_shapes=shapes).module()


def test_one_graph_encodes_every_batch_and_length() -> None:
    tokenizer = make_tokenizer(UNLIMITED)
    encoder = exported(Calls(tokenizer, tokenizer.encode), sound(LENGTHS), LENGTHS)
    for lengths in OTHER_LENGTHS:
        wav = sound(lengths)
        for found, expected in zip(encoder(wav, lengths), tokenizer.encode(wav, lengths), strict=True):
            assert torch.equal(found, expected)


def test_the_adapter_as_one_graph_encodes_and_decodes(tmp_path: Path) -> None:
    hf = pytest.importorskip("mimotok.hf", reason="needs: pip install 'mimotok[hf]'")
    make_tokenizer(WINDOWED).save_pretrained(tmp_path)
    model = hf.MimoAudioTokenizerModel.from_pretrained(tmp_path)

    def call(wav: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        mask = torch.arange(wav.shape[1]) < lengths[:, None]
        return model(wav, mask, return_dict=False)[:2]

    graph = exported(Calls(model, call), sound(LENGTHS), LENGTHS)
    for lengths in OTHER_LENGTHS:
        with torch.no_grad():
            for found, expected in zip(graph(sound(lengths), lengths), call(sound(lengths), lengths), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_no_tensor_has_a_name_that_aotinductor_uses_itself() -> None:
    """`kernels` is a member of the C++ class that AOTInductor writes; a buffer of this name does not compile."""
    tokenizer = make_tokenizer(WINDOWED)
    graphs = (EncoderGraph(tokenizer, 2), EncoderStreamGraph(tokenizer, 2), DecoderStreamGraph(tokenizer, 2))
    for module in (tokenizer, *graphs):
        names = {name.rpartition(".")[2] for name in module.state_dict()}
        assert not names & {"kernels", "constants"}


@pytest.mark.skipif("MIMOTOK_AOTI" not in os.environ, reason="a minute of a core for C++: asked for by MIMOTOK_AOTI=1")
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler: no g++ here")
def test_a_compiled_library_decodes_every_batch_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding only: encoding takes the same way and twice the time (docs/onnx.md)."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    tokenizer = make_tokenizer(WINDOWED)
    codes, frames = tokenizer.encode(sound(LENGTHS), LENGTHS)
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        shapes = ({0: dynamic, 2: dynamic}, {0: dynamic})
        program = torch.export.export(Calls(tokenizer, tokenizer.decode), (codes, frames), dynamic_shapes=shapes)
    # the compiler's work, not the library's speed, is what counts here
    quick = {
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.precompile_headers": False,
        "cpp.simdlen": 1,
    }
    place = str(tmp_path / "decode.pt2")
    path = torch._inductor.aoti_compile_and_package(program, package_path=place, inductor_configs=quick)
    library = torch._inductor.aoti_load_package(path)
    for lengths in OTHER_LENGTHS:
        codes, frames = tokenizer.encode(sound(lengths), lengths)
        for found, expected in zip(library(codes, frames), tokenizer.decode(codes, frames), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_compiling_breaks_no_graph() -> None:
    """fullgraph raises where a graph would break."""
    tokenizer = make_tokenizer(WINDOWED)
    codes, frames = tokenizer.encode(sound(LENGTHS), LENGTHS)
    torch._dynamo.reset()
    encode: Any = torch.compile(tokenizer.encode, fullgraph=True, backend="eager")
    assert torch.equal(encode(sound(LENGTHS), LENGTHS).values, codes)
    decode: Any = torch.compile(tokenizer.decode, fullgraph=True, backend="eager")
    wav = decode(codes, frames)
    torch.testing.assert_close(wav.values, tokenizer.decode(codes, frames).values, atol=1e-5, rtol=0)
    torch._dynamo.reset()
