"""A model as ONNX graphs: sound to codes, codes to magnitude and phase, and the few lines of numpy that run them.

Needs: pip install 'mimotok[onnx]'.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimotok.export import run_onnx, stream_onnx
from mimotok.export.graphs import DecoderGraph, EncoderGraph
from mimotok.export.stream_graphs import DecoderStreamGraph, EncoderStreamGraph, StreamGraph
from mimotok.identity import digest_of
from mimotok.io.files import StrPath, atomic_folder, require_new
from mimotok.model.receptive_field import decoder_reach, encoder_reach
from mimotok.tokenizer import Tokenizer

RUNNER_NAME = "run_onnx.py"
STREAM_RUNNER_NAME = "stream_onnx.py"
# A protobuf file ends at 2 GB: larger weights go to a file beside the graph.
LARGEST_GRAPH = 1_500_000_000
# The last whose operators every onnxruntime from 1.17 on has.
OPSET = 18

# The name of each free dimension of an input, by its number.
Free = dict[str, dict[int, str]]


def export_onnx(
    tokenizer: Tokenizer, folder: StrPath, *, n_q: int | None = None, int8: bool = False, streaming: bool = False
) -> None:
    """Write encoder.onnx, decoder.onnx, mimotok.json and run_onnx.py into the new `folder`, all of them or none.

    n_q: codebooks of both graphs, the model's default where None. int8: the decoder's matrices in 8 bits, and what they
    are multiplied with rounded as it comes; never the encoder's, whose codes would change. Batch and length are free,
    and each clip of a padded batch gives what it gives alone. Where an attention of the model is unlimited, the graph's
    is dense: its memory grows with the square of the length, and run_onnx.py stops at 60 s, where the official pipeline
    cuts as well. streaming: write encoder_stream.onnx, decoder_stream.onnx and stream_onnx.py too, whose results on a
    stream are those of `StreamEncoder` and `StreamDecoder`.

    Raises ValueError where the folder exists or cannot be written, n_q does not fit, the model is not float32 on the
    CPU, or it cannot be streamed exactly.
    """
    n_q = tokenizer.config.checked_n_q(n_q)
    if tokenizer.dtype != torch.float32 or tokenizer.device.type != "cpu":
        raise ValueError(f"the model is {tokenizer.dtype} on {tokenizer.device}: export it as float32 on the cpu")
    if streaming and not (tokenizer.config.encoder_is_bounded and tokenizer.config.decoder_is_bounded):
        raise ValueError(f"{tokenizer.name} sees all of time, so it has no exact streams: export it without streaming")
    require_new(folder)
    _require_exporter()
    frames = torch.tensor([9, 6])
    codes = torch.zeros(2, n_q, 9, dtype=torch.int64)
    with atomic_folder(folder) as temporary:
        _write(
            EncoderGraph(tokenizer, n_q),
            {"wav": torch.zeros(2, 9 * tokenizer.frame_size), "lengths": frames * tokenizer.frame_size},
            {"wav": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}},
            {"codes": ["batch", n_q, "frames"], "code_lengths": ["batch"]},
            temporary / run_onnx.ENCODER_NAME,
        )
        bins = tokenizer.config.n_fft // 2 + 1
        _write(
            DecoderGraph(tokenizer),
            {"codes": codes, "lengths": frames},
            {"codes": {0: "batch", 2: "frames"}, "lengths": {0: "batch"}},
            {name: ["batch", "mel_frames", bins] for name in ("magnitude", "phase")},
            temporary / run_onnx.DECODER_NAME,
        )
        if streaming:
            _write_streams(tokenizer, n_q, temporary)
        if int8:
            _quantize(temporary / run_onnx.DECODER_NAME)
        if int8 and streaming:
            _quantize(temporary / stream_onnx.DECODER_NAME)
        facts = json.dumps(export_facts(tokenizer, n_q, int8=int8), indent=1) + "\n"
        (temporary / run_onnx.FACTS_NAME).write_text(facts, encoding="utf-8")
        shutil.copyfile(run_onnx.__file__, temporary / RUNNER_NAME)
        if streaming:
            shutil.copyfile(stream_onnx.__file__, temporary / STREAM_RUNNER_NAME)


def _write_streams(tokenizer: Tokenizer, n_q: int, folder: Path) -> None:
    """Write the two graphs of a stream's step. Their states are inputs `state.NAME` and outputs `next.NAME`."""
    config = tokenizer.config
    lengths = torch.tensor([3, 2])
    block = config.n_fft - config.hop_length + 3 * config.frame_size
    _write_stream(
        EncoderStreamGraph(tokenizer, n_q),
        {"wav": torch.zeros(2, block), "lengths": lengths},
        {"wav": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}},
        {"codes": ["batch", n_q, "frames"], "valid": ["batch", "frames"]},
        folder / stream_onnx.ENCODER_NAME,
    )
    _write_stream(
        DecoderStreamGraph(tokenizer, n_q),
        {"codes": torch.zeros(2, n_q, 3, dtype=torch.int64), "lengths": lengths},
        {"codes": {0: "batch", 2: "frames"}, "lengths": {0: "batch"}},
        {"wav": ["batch", "mel_frames", config.hop_length], "valid": ["batch", "mel_frames"]},
        folder / stream_onnx.DECODER_NAME,
    )


def _write_stream(
    graph: StreamGraph, inputs: dict[str, Tensor], free: Free, outputs: dict[str, list[int | str]], path: Path
) -> None:
    named = dict(zip(graph.names, graph.zeros(2), strict=True))
    states = {f"state.{name}": state for name, state in named.items()}
    after = {f"next.{name}": ["batch", *state.shape[1:]] for name, state in named.items()}
    _write(graph, inputs | states, free | {name: {0: "batch"} for name in states}, outputs | after, path)


def export_facts(tokenizer: Tokenizer, n_q: int, *, int8: bool = False) -> dict[str, Any]:
    """Return what mimotok.json says of an export of these codebooks, as JSON gives it back."""
    config = tokenizer.config
    identity = tokenizer.identity
    chunking = tokenizer.chunking
    most = chunking.chunk_frames
    decoder_windows = config.decoder_windows() + config.vocoder_windows()
    decoder_has_windows = all(min(window) >= 0 for window in decoder_windows)
    most_encoder_frames = None if config.encoder_is_bounded else most
    most_decoder_frames = None if decoder_has_windows else most
    encoder_look_ahead = encoder_reach(config).right if config.encoder_is_bounded else None
    decoder_look_ahead = decoder_reach(config).right if config.decoder_is_bounded else None
    return {
        "model": identity.name,
        "weights_sha256": identity.sha256,
        # of the rest that graphs depend on
        "config_sha256": digest_of(config.to_official()),
        "exported_by": f"mimotok {version('mimotok')}",
        "sample_rate": config.sample_rate,
        "n_fft": config.n_fft,
        "hop_length": config.hop_length,
        "frame_size": config.frame_size,
        "codebook_sizes": list(config.codebook_sizes[:n_q]),
        "int8": int8,
        "default_n_q": min(n_q, config.checked_n_q(None)),
        "max_encoder_frames": most_encoder_frames,
        "max_decoder_frames": most_decoder_frames,
        # code frames before and after a chunk that its result depends on: long input may be cut with these around it
        "encoder_context": _context(chunking.encoder_context, bounded=config.encoder_is_bounded),
        "decoder_context": _context(chunking.decoder_context, bounded=config.decoder_is_bounded),
        # by how many code frames codes of a stream lag behind, and by how many mel frames samples do
        "encoder_look_ahead": encoder_look_ahead,
        "decoder_look_ahead": decoder_look_ahead,
    }


def _context(frames: tuple[int, int], *, bounded: bool) -> list[int] | None:
    return list(frames) if bounded else None


def _write(
    graph: nn.Module, inputs: dict[str, Tensor], free: Free, outputs: Mapping[str, Sequence[int | str]], path: Path
) -> None:
    """Write a graph whose forward takes `inputs` in their order.

    free: the names of the inputs' free dimensions by their number. outputs: the shapes of the outputs by their names.
    """
    shapes: tuple[Any, ...] = tuple(free[name] for name in inputs)
    if isinstance(graph, StreamGraph):
        # its states are one variadic argument
        shapes = (*shapes[:2], shapes[2:])
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=list(outputs),
            dynamic_shapes=shapes, opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    import onnx_ir

    assert program is not None
    for value in program.model.graph.outputs:
        # the exporter writes whole expressions of other dimensions, and none where it cannot tell
        value.shape = onnx_ir.Shape(outputs[str(value.name)])
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())
    program.save(path, external_data=size > LARGEST_GRAPH)


def _quantize(path: Path) -> None:
    """Replace the graph's matrix products by those of onnxruntime's dynamic quantization, a scale per column."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        rewritten = Path(folder) / path.name
        # Without reduce_range, CPUs that lack VNNI add pairs of products in 16 bits, which saturate.
        quantize_dynamic(
            path,
            rewritten,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        rewritten.replace(path)
        # of a large graph, the values stood beside it
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def _require_exporter() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError("ONNX export needs: pip install 'mimotok[onnx]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's own notes, which do not concern the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", None)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
