"""What does a GPU make of the official 1.2 B configuration: tokens per second, and how much of its matrix products?

python -m bench.gpu --mode compile
python -m bench.gpu --mode graphs --mixed true

Random weights. The peak is measured, not taken from a data sheet: the rate of one large square product in the same
dtype. Operations are counted by torch on a model without data. --mixed true gives clips of 1 second up to --seconds, a
padded batch with lengths, which attention packs where torch has the varlen kernel; only valid frames count as tokens.
On a CPU, where it also runs, give --device cpu and small sizes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import CLI
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.tables import Table
from mimotok.config import TokenizerConfig
from mimotok.model.mel import log_mel
from mimotok.tokenizer import Tokenizer, checked_device

Mode = Literal["eager", "compile", "graphs"]


def seconds_of(
    work: Callable[[], Any], device: torch.device, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median seconds of `work`, done to the end on the device, by a clock; two runs before warm up and compile."""
    times = []
    for turn in range(repeats + 2):
        start = clock()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        if turn >= 2:
            times.append(clock() - start)
    return statistics.median(times)


def peak_flops(
    size: int, device: torch.device, dtype: torch.dtype, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Operations per second of a product of two matrices [size, size]."""
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind(0)
    return 2 * size**3 / seconds_of(lambda: a @ b, device, repeats, clock)


def count_flops(config: TokenizerConfig, batch: int, mel_frames: int) -> tuple[int, int]:
    """Operations of matrix products and attention in encoding and decoding a batch of full length."""
    with torch.device("meta"):
        model = Tokenizer(config)
        mel = torch.empty(batch, mel_frames, config.n_mels)
    with FlopCounterMode(display=False) as encoding:
        latents = model.encoder(mel)
        codes = model.encoder.quantizer.encode(latents, config.n_q)
    with FlopCounterMode(display=False) as decoding:
        model.decoder.coarse_mel(model.encoder.quantizer.decode(codes))
        vocoder = model.decoder.vocoder
        coarse = torch.empty(batch, codes.shape[2] * config.frame_stride, config.n_mels, device="meta")
        vocoder.head.out(vocoder.layer_norm(vocoder.layers(vocoder.embeddings(coarse))))
    return encoding.get_total_flops(), decoding.get_total_flops()


def prepared(module: nn.Module, mode: Mode) -> Callable[..., Any]:
    """Return the module as it is, compiled, or compiled into CUDA graphs."""
    if mode == "eager":
        return module
    return torch.compile(module, mode="reduce-overhead" if mode == "graphs" else "default")


def lengths_of(batch: int, size: int, sample_rate: int, device: torch.device) -> Tensor:
    """Samples of each clip, from one second up to `size`, evenly spread."""
    return torch.linspace(min(sample_rate, size), size, batch, device=device).long()


@torch.no_grad()
def main(
    mode: Mode = "eager",
    batch: int = 64,
    seconds: float = 30.0,
    mixed: bool = False,
    device: str = "cuda",
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16",
    shape: Path | None = None,
    product: int = 8192,
    repeats: int = 10,
) -> None:
    """Prints tokens per second and fractions of the measured peak.

    Args:
        mode: eager, compile (torch.compile), or graphs (with CUDA graphs).
        batch: clips.
        seconds: length of each, or of the longest.
        mixed: clips of mixed length.
        device: as torch names it.
        dtype: of the weights.
        shape: a config.json; the released model's if left out.
        product: side of the square matrices whose product is the peak.
        repeats: timed turns, of which the median counts.
    """
    place = checked_device(device)
    kind = getattr(torch, dtype)
    if mode == "graphs" and place.type != "cuda":
        raise ValueError(f"mode=graphs with device={device}: CUDA graphs need cuda; --mode compile runs anywhere")
    settings = TokenizerConfig() if shape is None else TokenizerConfig.load(shape)
    with place:
        model = Tokenizer(settings).to(kind)
    size = int(seconds * settings.sample_rate)
    wav = 0.1 * torch.randn(batch, size, device=place)
    lengths = lengths_of(batch, size, settings.sample_rate, place) if mixed else None
    mel, mel_lengths = log_mel(wav, lengths, settings)
    encoder = prepared(model.encoder, mode)
    decoder = prepared(model.decoder, mode)
    latents = encoder(mel, mel_lengths)
    frames = None if lengths is None else model.num_frames(lengths)
    quantized = model.dequantize(model.encoder.quantizer.encode(latents, settings.n_q))

    def encode() -> Tensor:
        latents = encoder(log_mel(wav, lengths, settings)[0], mel_lengths)
        return model.encoder.quantizer.encode(latents, settings.n_q)

    peak = peak_flops(product, place, kind, repeats)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    title = (
        f"{name}, torch {torch.__version__}, {dtype}, {mode}, batch {batch} x {seconds:g} s, mixed lengths: {mixed}; "
        f"peak: {peak / 1e12:.2f} TFLOP/s in a product of side {product}"
    )
    table = Table(title, ["work", "tokens/s", "x real time", "of the peak"])
    valid = batch * quantized.shape[1] if frames is None else int(frames.sum())
    share = valid / (batch * quantized.shape[1])
    work = (encode, lambda: decoder(quantized, frames))
    for verb, flops, step in zip(("encode", "decode"), count_flops(settings, batch, mel.shape[1]), work, strict=True):
        took = seconds_of(step, place, repeats)
        tokens = valid * settings.n_q / took
        speed = valid / settings.frame_rate / took
        table.add(verb, f"{tokens:.0f}", f"{speed:.1f}", f"{flops * share / took / peak:.1%}")
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=False)
