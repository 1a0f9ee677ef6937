"""Has anything become slower? Ratios against peers in one run, beside those of the last commit that measured them.

OMP_NUM_THREADS=1 python -m bench.guard            (make bench)
OMP_NUM_THREADS=1 python -m bench.guard --write true

A ratio is the time of a peer over ours: coding by EnCodec, and our Transformer stack by torch's own layers of the same
sizes. Both take turns in one process, so that the machine's load cancels out for the most part; processors differ, so
that only ratios of one processor are compared. The committed file is bench/ratios.json; what fell by more than a tenth
is printed, and the exit code is 1.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from pathlib import Path

import torch
from jsonargparse import CLI
from torch import nn

from bench.codec import encodec, measure, ours, seconds_of
from bench.tables import Table
from mimotok.tokenizer import Tokenizer

COMMITTED = Path(__file__).with_name("ratios.json")
ALLOWED_FALL = 0.1


def coding_ratios(seconds: float, repeats: int) -> dict[str, float]:
    """Measure EnCodec's time over ours, encoding and decoding."""
    codecs = [ours(None, torch.float32), encodec()]
    (encode, decode), (peer_encode, peer_decode) = measure(codecs, seconds, repeats).values()
    return {"encode against EnCodec": peer_encode / encode, "decode against EnCodec": peer_decode / decode}


def stack_ratio(seconds: float, repeats: int) -> float:
    """Measure the time of torch's Transformer layers over that of our encoder's stack on as many frames."""
    tokenizer = Tokenizer.from_pretrained()
    config = tokenizer.config
    stack = tokenizer.encoder.layers
    layer = nn.TransformerEncoderLayer(
        config.d_model, config.encoder_attention_heads, config.encoder_ffn_dim, activation="gelu", batch_first=True,
        norm_first=True,
    )  # fmt: skip
    peer = nn.TransformerEncoder(layer, config.encoder_layers, enable_nested_tensor=False).eval()
    frames = round(seconds * config.frame_rate * config.avg_pooler)
    hidden = torch.randn(1, frames, config.d_model)
    ratios = []
    for turn in range(repeats + 1):
        own, _ = seconds_of(stack, hidden)
        others, _ = seconds_of(peer, hidden)
        if turn:
            ratios.append(others / own)
    return statistics.median(ratios)


def processor() -> str:
    """Name the processor, as far as the system does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def falls(ratios: dict[str, float], committed: dict[str, float]) -> list[str]:
    """Tell which ratios are lower by more than a tenth than the committed ones."""
    return [
        f"{name}: {ratio:.2f}, it was {committed[name]:.2f}"
        for name, ratio in ratios.items()
        if name in committed and ratio < (1 - ALLOWED_FALL) * committed[name]
    ]


@torch.no_grad()
def main(seconds: float = 10.0, repeats: int = 7, write: bool = False) -> None:
    """Prints the ratios beside the committed ones, and ends with exit code 1 where one fell.

    Args:
        seconds: length of the clip.
        repeats: timed turns, of which the median counts.
        write: whether these ratios become the committed ones.
    """
    torch.set_num_threads(1)
    ratios = coding_ratios(seconds, repeats) | {"encoder's stack against torch's layers": stack_ratio(seconds, repeats)}
    here = processor()
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    before = committed["ratios"]
    table = Table(f"On {here}, beside {committed['processor']}", ("times a peer's speed", "now", "committed"))
    for name, ratio in ratios.items():
        table.add(name, f"{ratio:.2f}", f"{before[name]:.2f}" if name in before else "")
    print(table)
    if write:
        rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
        COMMITTED.write_text(json.dumps({"processor": here, "ratios": rounded}, indent=1) + "\n", encoding="utf-8")
        return
    fallen = falls(ratios, before) if here == committed["processor"] else []
    if fallen:
        print("\nslower than before: " + "; ".join(fallen))
        sys.exit(1)


if __name__ == "__main__":
    CLI(main, as_positional=False)
