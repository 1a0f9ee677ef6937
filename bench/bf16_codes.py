"""How many codes differ from float32's when parts of the encoder compute in bf16, and what does each part cost?

OMP_NUM_THREADS=1 python -m bench.bf16_codes data/dev --clips 24

Every row keeps some parts in float32 and computes the others in bf16; the last one is `dtype=bfloat16` as it is. Times
are CPU time of encoding the same clips on one thread, in turns, of which the least counts. A processor without products
of bf16 computes them slowly: then only the codes mean something, and the last line says so.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import CLI
from torch import Tensor, nn

from bench.tables import Table, book_columns
from mimotok.io.audio import AUDIO_SUFFIXES, load_audio
from mimotok.tokenizer import Tokenizer

SECONDS = 6
# the parts of the encoder in groups; all else is float32 whatever the dtype is
PARTS = ("stem", "norms", "attention", "early fc1", "fc1", "fc2", "end", "sums")
_BASE = ("end", "sums", "norms", "stem")
ROWS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "the last norm and the downsampler": ("end",),
    "... and the stem": ("end", "stem"),
    "... and the sums of the blocks": ("end", "sums", "norms"),
    "... and sums and stem": _BASE,
    "... and sums, stem, attention": (*_BASE, "attention"),
    "... and sums, stem, feed-forward": (*_BASE, "early fc1", "fc1", "fc2"),
    "... and sums, stem, second layers of the feed-forward": (*_BASE, "fc2"),
    "... and sums, stem, hidden layers": (*_BASE, "early fc1", "fc1"),
    "... and sums, stem, hidden layers up to the skip": (*_BASE, "early fc1"),
}


def units(tokenizer: Tokenizer) -> dict[str, list[nn.Module]]:
    """Return the modules of each part."""
    encoder = tokenizer.encoder
    blocks = list(encoder.layers.blocks())
    skip = encoder.layers.skip or 0
    end: list[nn.Module] = [encoder.layer_norm]
    if encoder.pool > 1:
        end += [encoder.down_sample_layer, encoder.down_sample_norm]
    return {
        "stem": [encoder.conv1, encoder.conv2],
        "norms": [norm for block in blocks for norm in (block.self_attn_layer_norm, block.final_layer_norm)],
        "attention": [block.self_attn for block in blocks],
        "early fc1": [block.fc1 for block in blocks[:skip]],
        "fc1": [block.fc1 for block in blocks[skip:]],
        "fc2": [block.fc2 for block in blocks],
        "end": end,
    }


def mixed(tokenizer: Tokenizer, kept: tuple[str, ...]) -> Tokenizer:
    """Return a copy whose encoder computes in bf16 but for the parts `kept`; "sums" keeps what runs between them."""
    model = copy.deepcopy(tokenizer)
    between = torch.float32 if "sums" in kept else torch.bfloat16
    for part, modules in units(model).items():
        dtype = torch.float32 if part in kept else torch.bfloat16
        for module in modules:
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype)
            module.register_forward_pre_hook(
                lambda _, given, dtype=dtype: tuple(_cast(value, dtype) for value in given)
            )
            if part != "end":
                module.register_forward_hook(lambda _, __, out: out.to(between))
    return model


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast the floating tensors of an argument."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_cast(part, dtype) for part in value))
    return value


@torch.no_grad()
def main(folder: Path, clips: int = 6, model: str | None = None, repeats: int = 2) -> None:
    """Print the table.

    Args:
        folder: of clips, of which every so many-th is taken.
        clips: how many, of at most 6 s each.
        model: folder or hub id; the embedded checkpoint if left out.
        repeats: timed turns.
    """
    torch.set_num_threads(1)
    exact = Tokenizer.from_pretrained(model)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    chosen = found[:: max(1, len(found) // clips)][:clips]
    wavs = [load_audio(path, exact.sample_rate)[:, : SECONDS * exact.sample_rate] for path in chosen]
    ways = {"everything (float32)": exact}
    ways |= {name: mixed(exact, kept) for name, kept in ROWS.items()}
    ways["**dtype=bfloat16**"] = Tokenizer.from_pretrained(model, dtype=torch.bfloat16)
    wanted = [exact.encode(wav) for wav in wavs]
    shares = {}
    times: dict[str, float] = {}
    for name, way in ways.items():
        codes = [way.encode(wav) for wav in wavs]
        differ = torch.cat([(one != other)[0] for one, other in zip(codes, wanted, strict=True)], dim=1)
        shares[name] = differ.float().mean(1).numpy()
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            for wav in wavs:
                way.encode(wav)
            times[name] = min(times.get(name, np.inf), time.process_time() - start)
    books = book_columns(len(next(iter(shares.values()))))
    table = Table("", ["in float32", *books, "time against float32"])
    for name, values in shares.items():
        table.add(name, *(f"{value:.1%}" for value in values), f"{times[name] / times['everything (float32)']:.2f}")
    print(table)
    seconds = sum(wav.shape[1] for wav in wavs) / exact.sample_rate
    has_products = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))
    verb = "has" if has_products else "lacks"
    print(f"\n{len(wavs)} clips, {seconds:.0f} s of sound; this processor {verb} products of bf16.")


if __name__ == "__main__":
    CLI(main, as_positional=True)
