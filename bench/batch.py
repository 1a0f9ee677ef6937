"""Do clips of mixed length encode faster in padded batches than one at a time, with the same codes?

python -m bench.batch --threads 2
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from jsonargparse import CLI
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.clocks import Clocks, clocked
from bench.tables import Table
from mimotok.tokenizer import Tokenizer


def mixed_clips(count: int, shortest: float, longest: float, sample_rate: int) -> list[Tensor]:
    """Clips [T] of noise, of lengths drawn evenly from `shortest` to `longest` seconds."""
    generator = torch.Generator().manual_seed(0)
    seconds = shortest + (longest - shortest) * torch.rand(count, generator=generator)
    return [0.1 * torch.randn(int(s * sample_rate), generator=generator) for s in seconds.tolist()]


def encode_in_batches(tokenizer: Tokenizer, clips: list[Tensor], size: int) -> list[Tensor]:
    """Codes [n_q, F] of each clip; clips of like length share a batch of `size`."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    codes: list[Tensor] = [torch.empty(0)] * len(clips)
    for start in range(0, len(clips), size):
        chosen = order[start : start + size]
        lengths = torch.tensor([len(clips[i]) for i in chosen])
        batch, frames = tokenizer.encode(pad_sequence([clips[i] for i in chosen], batch_first=True), lengths)
        for row, i in enumerate(chosen):
            codes[i] = batch[row, :, : int(frames[row])]
    return codes


def main(
    model: str | None = None,
    count: int = 32,
    shortest: float = 1.0,
    longest: float = 20.0,
    repeats: int = 5,
    threads: int = 2,
) -> None:
    """Prints clips per second and ratios; ways take turns, and medians count.

    Args:
        model: folder or hub id; the embedded checkpoint if left out.
        count: clips.
        shortest: clip, in seconds.
        longest: clip, in seconds.
        repeats: timed turns.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_pretrained(model)
    clips = mixed_clips(count, shortest, longest, tokenizer.sample_rate)
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "one at a time": lambda: [tokenizer.encode(clip[None])[0] for clip in clips],
        "batches of 4": lambda: encode_in_batches(tokenizer, clips, 4),
        "batches of 8": lambda: encode_in_batches(tokenizer, clips, 8),
        f"one batch of {count}": lambda: encode_in_batches(tokenizer, clips, count),
    }
    times: dict[str, list[Clocks]] = {name: [] for name in ways}
    alone = ways["one at a time"]()
    for _ in range(repeats):
        for name, encode in ways.items():
            spent, codes = clocked(encode)
            times[name].append(spent)
            if not all(torch.equal(one, other) for one, other in zip(alone, codes, strict=True)):
                raise SystemExit(f"{name}: the codes are not those of each clip alone")
    title = f"{count} clips of {shortest:g} to {longest:g} s, {threads} thread(s), torch {torch.__version__}"
    table = Table(title, ["way", "clips/s", "against one at a time", "by CPU time"])
    first = [statistics.median(column) for column in zip(*times["one at a time"], strict=True)]
    for name, pairs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        table.add(name, f"{count / wall:.2f}", f"{first[0] / wall:.2f}", f"{first[1] / cpu:.2f}")
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=False)
