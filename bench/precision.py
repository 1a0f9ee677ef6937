"""What do bf16, int8 and torch.compile change: codes, quality, speed?

python -m bench.precision data/test --clips 40

Codes are those of float32 and of the option on the same clips. PESQ-WB is measured of decoding float32's codes, against
the original, so that it shows what the option does to the decoder alone. Speeds are of one thread, in CPU time, on 10 s
of noise; ways take turns, and medians count.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import soxr
import torch
from jsonargparse import CLI
from torch import Tensor
from torch._inductor import config as inductor

from bench.codec import Codec, measure
from bench.tables import Table, book_columns
from mimotok.export.onnx import export_onnx
from mimotok.export.run_onnx import OnnxTokenizer
from mimotok.io.audio import AUDIO_SUFFIXES, load_audio
from mimotok.tokenizer import Tokenizer

PESQ_RATE = 16000


class Way(NamedTuple):
    """encode: wav [1, T] -> codes; decode: codes -> wav."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def int8(tokenizer: Tokenizer, folder: Path) -> Way:
    """The decoder as `mimotok export --int8` writes it, run by onnxruntime on one thread; the encoder as it is."""
    export_onnx(tokenizer, folder, int8=True)
    graphs = OnnxTokenizer(folder, threads=1)
    return Way(tokenizer.encode, lambda codes: torch.from_numpy(graphs.decode(codes.numpy())[0]))


def compiled(tokenizer: Tokenizer) -> Way:
    """The encoder and decoder through torch.compile, with constant weights, which it needs to fuse linear layers."""
    inductor.freezing = True
    model = copy.deepcopy(tokenizer)
    model.encoder.compile()
    model.decoder.compile()
    return Way(model.encode, model.decode)


def pesq_of(reference: Tensor, decoded: Tensor, sample_rate: int) -> float:
    """PESQ-WB of wavs [1, T]."""
    from pesq import pesq

    pair = (soxr.resample(wav[0].float().numpy(), sample_rate, PESQ_RATE) for wav in (reference, decoded))
    return float(pesq(PESQ_RATE, *pair, "wb"))


def quality(tokenizer: Tokenizer, ways: dict[str, Way], clips: list[Path]) -> Table:
    """Return PESQ-WB of each way, and the codes that differ from float32's."""
    same: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    scores: dict[str, list[float]] = {name: [] for name in ways}
    for clip in clips:
        wav = load_audio(clip, tokenizer.sample_rate)
        exact = tokenizer.encode(wav)
        for name, way in ways.items():
            same[name].append((way.encode(wav) == exact).flatten(0, 1).float().mean(1).numpy())
            decoded = way.decode(exact)[:, : wav.shape[1]]
            scores[name].append(pesq_of(wav, decoded, tokenizer.sample_rate))
    differing = {name: 1 - np.mean(shares, axis=0) for name, shares in same.items()}
    title = "Codes that differ from float32's, and PESQ-WB of decoding float32's codes:"
    table = Table(title, ["way", "PESQ-WB", *book_columns(len(differing["float32"]))])
    for name, shares in differing.items():
        table.add(name, f"{np.mean(scores[name]):.3f}", *(f"{share:.2%}" for share in shares))
    return table


@torch.no_grad()
def main(folder: Path, clips: int = 40, model: str | None = None, repeats: int = 5, compile: bool = True) -> None:
    """Prints what each option changes.

    Args:
        folder: of test clips, of which every so many-th is taken.
        clips: how many.
        model: folder or hub id; the embedded checkpoint if left out.
        repeats: timed turns.
        compile: whether to measure torch.compile too, which needs a C++ compiler and a minute.
    """
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_pretrained(model)
    half = Tokenizer.from_pretrained(model, dtype=torch.bfloat16)
    with TemporaryDirectory() as place:
        ways = {
            "float32": Way(tokenizer.encode, tokenizer.decode),
            "bfloat16": Way(half.encode, half.decode),
            "int8": int8(tokenizer, Path(place) / "exported"),
        }
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    print(quality(tokenizer, ways, found[:: max(1, len(found) // clips)][:clips]))
    if compile:
        ways["compile"] = compiled(tokenizer)
    medians = measure([Codec(name, *way) for name, way in ways.items()], 10.0, repeats)
    table = Table("Speed against float32, in CPU time:", ["way", "encode", "decode"])
    for name, times in medians.items():
        table.add(name, *(f"{exact / own:.2f}" for exact, own in zip(medians["float32"], times, strict=True)))
    print(f"\n{table}")


if __name__ == "__main__":
    CLI(main, as_positional=True)
