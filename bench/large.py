"""Does the official 1.2 B configuration run on a CPU: how fast, and in how much memory?

python -m bench.large --threads 2

Its weights are random, in the dtypes of a bf16 model (speed and memory do not depend on the values), written tensor by
tensor into a temporary folder of 2.4 GB and read like any checkpoint.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from jsonargparse import CLI
from torch import Tensor

from bench.clocks import clocked
from bench.memory import peak_rss
from bench.tables import Table
from mimotok.config import TokenizerConfig
from mimotok.model.precision import float32_names
from mimotok.tokenizer import Tokenizer
from mimotok.weights import CONFIG_NAME, WEIGHTS_NAME, official_key

# config.json of the released MiMo-Audio-Tokenizer, where it differs from TokenizerConfig's defaults: nowhere
OFFICIAL = TokenizerConfig()


def write_random_checkpoint(folder: Path, config: TokenizerConfig) -> int:
    """Write config.json and a model.safetensors of random weights, with one tensor in memory at a time.

    They are in the dtypes that a model in bf16 has. Returns the size of the weights in bytes.
    """
    (folder / CONFIG_NAME).write_text(config.to_json(), encoding="utf-8")
    with torch.device("meta"):
        model = Tokenizer(config)
    tensors = model.state_dict()
    exact = float32_names(model)
    dtypes = {name: torch.float32 if name in exact else torch.bfloat16 for name in tensors}
    header = {}
    end = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * dtypes[name].itemsize
        key = official_key(name)
        header[key] = {
            "dtype": "F32" if name in exact else "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    encoded = json.dumps(header).encode()
    with (folder / WEIGHTS_NAME).open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in tensors.items():
            file.write(_random(name, tensor.shape, dtypes[name]).view(torch.uint8).numpy().tobytes())
    return end


def _random(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    values = torch.empty(shape, dtype=dtype)
    return values.fill_(1) if name.endswith("norm.weight") else values.normal_(std=0.02)


def main(seconds: float = 30.0, repeats: int = 3, threads: int = 2, shape: Path | None = None) -> None:
    """Prints speeds and the peak of memory.

    Args:
        seconds: length of the clip.
        repeats: timed turns, of which the median counts.
        threads: of torch.
        shape: a config.json; the released model's if left out.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        size = write_random_checkpoint(Path(name), OFFICIAL if shape is None else TokenizerConfig.load(shape))
        before = peak_rss()
        loading, tokenizer = clocked(lambda: Tokenizer.from_pretrained(name, dtype=torch.bfloat16))
        wav = 0.1 * torch.randn(1, int(seconds * tokenizer.sample_rate))
        times = []
        for _ in range(repeats):
            encoding, codes = clocked(lambda: tokenizer.encode(wav))
            decoding, _ = clocked(partial(tokenizer.decode, codes))
            times.append((*encoding, *decoding))
    rates = [seconds / statistics.median(column) for column in zip(*times, strict=True)]
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    title = (
        f"{parameters / 1e6:.0f} M parameters in bf16, {threads} thread(s), torch {torch.__version__}, {seconds:g} s"
    )
    table = Table(title, ["work", "x real time by the clock", "by CPU time of all threads"])
    for verb, (wall, cpu) in zip(("encode", "decode"), (rates[:2], rates[2:]), strict=True):
        table.add(verb, f"{wall:.2f}", f"{cpu:.2f}")
    print(table)
    peak = peak_rss()
    print(f"\nLoading took {loading.wall:.2f} s. Weights: {size / 1e9:.2f} GB; peak resident: {peak / 1e9:.2f} GB,")
    print(f"{peak / size:.2f} times the weights; of it Python and torch before loading: {before / 1e9:.2f} GB.")


if __name__ == "__main__":
    CLI(main, as_positional=False)
