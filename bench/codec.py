"""How fast does a checkpoint encode and decode beside EnCodec 24 kHz and Mimi? Ratios of one interleaved run.

python -m bench.codec --seconds '[10, 60]' --repeats 7
python -m bench.codec --seconds '[600]' --peers '[encodec]'

The peers have their published configurations and random weights, as transformers builds them: speed does not depend on
the values. Batch 1, one thread unless --threads says otherwise; each figure is a median, of the process's CPU time at
one thread, which other programs on the same core do not lengthen, and of wall clock at several.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse import CLI
from torch import Tensor

from bench.tables import Table
from mimotok.tokenizer import Tokenizer

SAMPLE_RATE = 24000


class Codec(NamedTuple):
    """encode: wav [1, T] -> codes; decode: codes -> wav."""

    name: str
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Any]


def ours(model: str | None, dtype: torch.dtype) -> Codec:
    """A folder or hub id, or the embedded checkpoint."""
    tokenizer = Tokenizer.from_pretrained(model, dtype=dtype)
    return Codec(tokenizer.name, tokenizer.encode, tokenizer.decode)


def encodec() -> Codec:
    """EnCodec 24 kHz at 1.5 kbps, its nearest to ours."""
    from transformers import EncodecConfig, EncodecModel

    model = EncodecModel(EncodecConfig()).eval()
    return Codec(
        "EnCodec 24 kHz",
        lambda wav: model.encode(wav[None], bandwidth=1.5),
        lambda coded: model.decode(coded.audio_codes, coded.audio_scales),
    )


def mimi() -> Codec:
    """Mimi at 8 codebooks, 1.1 kbps."""
    from transformers import MimiConfig, MimiModel

    model = MimiModel(MimiConfig()).eval()
    return Codec(
        "Mimi",
        lambda wav: model.encode(wav[None], num_quantizers=8).audio_codes,
        lambda codes: model.decode(codes),
    )


PEERS: dict[str, Callable[[], Codec]] = {"encodec": encodec, "mimi": mimi}


def seconds_of(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    """Seconds that one call took (see above), and its result."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = function(argument)
    return clock() - start, result


def measure(codecs: list[Codec], seconds: float, repeats: int) -> dict[str, tuple[float, float]]:
    """Median encode and decode seconds by codec; codecs take turns, so that a slow moment meets all of them."""
    wav = 0.1 * torch.randn(1, int(seconds * SAMPLE_RATE))
    times: dict[str, list[tuple[float, float]]] = {codec.name: [] for codec in codecs}
    for turn in range(repeats + 1):
        for codec in codecs:
            encoding, codes = seconds_of(codec.encode, wav)
            decoding, _ = seconds_of(codec.decode, codes)
            if turn:  # the first turn warms up
                times[codec.name].append((encoding, decoding))
    medians = {}
    for name, pairs in times.items():
        encodings, decodings = zip(*pairs, strict=True)
        medians[name] = statistics.median(encodings), statistics.median(decodings)
    return medians


@torch.no_grad()
def main(
    model: str | None = None,
    seconds: list[float] | None = None,
    repeats: int = 5,
    threads: int = 1,
    peers: list[Literal["encodec", "mimi"]] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Prints real-time factors and ratios.

    Args:
        model: folder or hub id; the embedded checkpoint if left out.
        seconds: lengths of the clip, 10 if left out.
        repeats: timed turns, of which the median counts.
        threads: of torch.
        peers: which of them, both if left out. On ten minutes EnCodec needs 10 GB, and Mimi more than 16 GB.
        dtype: of our weights.
    """
    torch.set_num_threads(threads)
    codecs = [ours(model, getattr(torch, dtype)), *(PEERS[peer]() for peer in (PEERS if peers is None else peers))]
    title = f"{threads} thread(s), {platform.processor() or platform.machine()}, torch {torch.__version__}"
    header = ("codec, clip", "encode x real time", "decode x real time", "encode vs ours", "decode vs ours")
    table = Table(title, header)
    for length in seconds or [10.0]:
        medians = measure(codecs, length, repeats)
        own = medians[codecs[0].name]
        for name, (encoding, decoding) in medians.items():
            rates = f"{length / encoding:.1f}", f"{length / decoding:.1f}"
            table.add(f"{name}, {length:g} s", *rates, f"{encoding / own[0]:.2f}", f"{decoding / own[1]:.2f}")
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=False)
