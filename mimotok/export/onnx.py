"""A model as ONNX graphs: sound to codes, codes to magnitude and phase, and the few lines of numpy that run them.

Needs: pip install 'mimotok[onnx]'.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.export import run_onnx
from mimotok.io.files import StrPath, atomic_folder, require_new
from mimotok.model.lengths import frames_needed, mel_frames, valid_mask
from mimotok.model.mel import hann_window, mel_filterbank, reflect_pad
from mimotok.tokenizer import Tokenizer

RUNNER_NAME = "run_onnx.py"
# A protobuf file ends at 2 GB: larger weights go to a file beside the graph.
LARGEST_GRAPH = 1_500_000_000
# The last whose operators every onnxruntime from 1.17 on has.
OPSET = 18


class EncoderGraph(nn.Module):
    """wav [B, T] and its lengths [B] to codes [B, n_q, F] and theirs; the STFT is a convolution with its basis."""

    basis: Tensor
    bank: Tensor

    def __init__(self, tokenizer: Tokenizer, n_q: int) -> None:
        super().__init__()
        config = tokenizer.config
        self.config = config
        self.n_q = n_q
        self.encoder = tokenizer.encoder
        # not "kernels": AOTInductor's C++ has a member of that name
        self.register_buffer("basis", dft_kernels(config.n_fft, config.window_size)[:, None])
        bank = mel_filterbank(config.n_mels, config.n_fft, config.sample_rate, config.fmin, config.mel_top)
        self.register_buffer("bank", bank.clone())

    def forward(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode wav [B, T] with lengths [B]. Returns codes [B, n_q, F] and their lengths [B]."""
        frames = mel_frames(lengths, self.config.hop_length)
        latents = self.encoder(self.log_mel(wav, lengths), frames)
        code_lengths = frames_needed(frames, self.config.frame_stride)
        codes = self.encoder.quantizer.encode(latents, self.n_q)
        return codes * valid_mask(code_lengths, codes.shape[2])[:, None, :], code_lengths

    def log_mel(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """Compute what `mimotok.model.mel.log_mel` computes, [B, frames, n_mels], of wav [B, T]."""
        half = self.config.n_fft // 2
        padded = reflect_pad(wav, lengths, half, half)
        real, imaginary = F.conv1d(padded[:, None], self.basis, stride=self.config.hop_length).chunk(2, dim=1)
        magnitude = (real.square() + imaginary.square()).sqrt().transpose(1, 2)
        mel = (magnitude @ self.bank).clamp(min=self.config.mel_floor).log()
        frames = mel_frames(lengths, self.config.hop_length)
        return mel * valid_mask(frames, mel.shape[1])[..., None]


class DecoderGraph(nn.Module):
    """The graph from codes to magnitude and phase."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.quantizer = tokenizer.encoder.quantizer
        self.decoder = tokenizer.decoder

    def forward(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Decode codes [B, n_q, F] with lengths [B].

        A code below 0 is left out of the sum: one graph decodes any number of codebooks.

        Returns magnitude and phase, each [B, T, n_fft // 2 + 1], at the mel rate.
        """
        vocoder = self.decoder.vocoder
        coarse_mel, mel_lengths = self.decoder.coarse_mel(self.quantizer.decode(codes), lengths)
        hidden = vocoder.layers(vocoder.embeddings(coarse_mel), mel_lengths)
        return vocoder.head.magnitude_phase(vocoder.layer_norm(hidden))


def dft_kernels(n_fft: int, window_size: int) -> Tensor:
    """Real and imaginary parts of the windowed Fourier basis: fp32 [2 * (n_fft // 2 + 1), n_fft]."""
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    # exact in whole numbers: the angle of bin b at sample t is that of b * t modulo n_fft
    turns = (bins[:, None] * torch.arange(n_fft)) % n_fft
    angle = 2 * torch.pi * turns / n_fft
    left = (n_fft - window_size) // 2
    window = F.pad(hann_window(window_size, torch.device("cpu")), (left, n_fft - window_size - left))
    return (torch.cat((angle.cos(), -angle.sin())) * window).float()


def export_onnx(tokenizer: Tokenizer, folder: StrPath, *, n_q: int | None = None, int8: bool = False) -> None:
    """Write encoder.onnx, decoder.onnx, mimotok.json and run_onnx.py into the new `folder`, all of them or none.

    n_q: codebooks of both graphs, the model's default where None. int8: the decoder's matrices in 8 bits, and what they
    are multiplied with rounded as it comes; never the encoder's, whose codes would change. Batch and length are free,
    and each clip of a padded batch gives what it gives alone. Where an attention of the model is unlimited, the graph's
    is dense: its memory grows with the square of the length, and run_onnx.py stops at 60 s, where the official pipeline
    cuts as well. Raises ValueError where the folder exists or cannot be written, n_q does not fit, or the model is not
    float32 on the CPU.
    """
    n_q = tokenizer.config.checked_n_q(n_q)
    if tokenizer.dtype != torch.float32 or tokenizer.device.type != "cpu":
        raise ValueError(f"the model is {tokenizer.dtype} on {tokenizer.device}: export it as float32 on the cpu")
    require_new(folder)
    _require_exporter()
    frames = torch.tensor([9, 6])
    samples = 9 * tokenizer.frame_size
    codes = torch.zeros(2, n_q, int(frames.max()), dtype=torch.int64)
    with atomic_folder(folder) as temporary:
        wav_names = ("wav", "lengths")
        code_names = ("codes", "lengths")
        _write(EncoderGraph(tokenizer, n_q), (torch.zeros(2, samples), frames * tokenizer.frame_size),
               wav_names, ("codes", "code_lengths"), temporary / run_onnx.ENCODER_NAME)  # fmt: skip
        _write(DecoderGraph(tokenizer), (codes, frames), code_names, ("magnitude", "phase"),
               temporary / run_onnx.DECODER_NAME)  # fmt: skip
        if int8:
            _quantize(temporary / run_onnx.DECODER_NAME)
        facts = json.dumps(export_facts(tokenizer, n_q, int8=int8), indent=1) + "\n"
        (temporary / run_onnx.FACTS_NAME).write_text(facts, encoding="utf-8")
        shutil.copyfile(run_onnx.__file__, temporary / RUNNER_NAME)


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
    return {
        "model": identity.name,
        "weights_sha256": identity.sha256,
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
    }


def _context(frames: tuple[int, int], *, bounded: bool) -> list[int] | None:
    return list(frames) if bounded else None


def _write(
    graph: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, str], outputs: tuple[str, str], path: Path
) -> None:
    time, unit = {"wav": (1, "samples"), "codes": (2, "frames")}[names[0]]
    shapes = ({0: "batch", time: unit}, {0: "batch"})
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(), inputs, input_names=names, output_names=outputs, dynamic_shapes=shapes,
            opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    codes = program.model.graph.outputs[0]
    if codes.name == "codes" and codes.shape is not None:
        # the exporter writes the whole expression of the samples
        codes.shape = type(codes.shape)([*list(codes.shape)[:2], "frames"])
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())
    program.save(path, external_data=size > LARGEST_GRAPH)


def _quantize(path: Path) -> None:
    """Replaces the graph's matrix products by those of onnxruntime's dynamic quantization, a scale per column."""
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


def _require_exporter() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError("ONNX export needs: pip install 'mimotok[onnx]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own notes, which do not concern the user."""
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
