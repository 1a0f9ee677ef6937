"""Does `mimotok tokenize` keep the model busy? A corpus to tokens beside the same batches, decoded beforehand.

python -m bench.corpus manifest.jsonl --root data --minutes 10 --workers 1

Both take turns in one run. The ratio of wall clocks is what the machine gives; the ratios of CPU time say why: work of
the encoding process alone is all that counts where decoding has cores of its own, that of all processes where it has
to share the one core with the model. Then what a corpus of --hours takes at these speeds and sizes.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import CLI

from bench.tables import Table
from mimotok.corpus import tokenize_corpus
from mimotok.corpus.inputs import read_input
from mimotok.corpus.ledger import SHARDS
from mimotok.corpus.loading import Batch, decoded_loads
from mimotok.tokenizer import Tokenizer


class Cost(NamedTuple):
    """Seconds of clock, of this process's CPU, and of its and its children's."""

    wall: float
    own: float
    all: float


def cost_of(work: Callable[[], object]) -> Cost:
    """Measure one call; processes that it starts must have ended when it returns."""
    wall = time.perf_counter()
    before = os.times()
    work()
    after = os.times()
    own = after.user + after.system - before.user - before.system
    children = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - wall, own, own + children)


def draw(manifest: str, target: Path, minutes: float) -> None:
    """Write a manifest of clips drawn at random, `minutes` in all."""
    lines = Path(manifest).read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(lines)
    ends = accumulate(json.loads(line)["duration"] for line in lines)
    kept = [line for line, end in zip(lines, ends, strict=True) if end <= 60 * minutes]
    target.write_text("\n".join(kept) + "\n", encoding="utf-8")


def decoded(source: str, root: str, tokenizer: Tokenizer, batch_seconds: float) -> list[Batch]:
    """Decode the very batches that the corpus is encoded in."""
    clips = read_input(source, root=root).clips
    loads = decoded_loads([clips], tokenizer.sample_rate, batch_seconds=batch_seconds, workers=0, pin_memory=False)
    return [batch for _, load in loads for batch in load.batches]


def encode(tokenizer: Tokenizer, batches: list[Batch], n_q: int) -> None:
    """Encode the batches, which is the model's part of the work."""
    for batch in batches:
        tokenizer.encode(batch.wav, batch.lengths, n_q=n_q)[0].cpu()


def size_of(out: Path) -> int:
    """Bytes of a folder's shards."""
    return sum(path.stat().st_size for path in (out / SHARDS).iterdir())


def print_ratios(turns: list[tuple[Cost, Cost]], seconds: float, workers: int) -> None:
    """Print one row for each way of counting."""
    cores = len(os.sched_getaffinity(0))
    title = f"{seconds / 60:.1f} minutes of sound, {workers} decoding workers, {cores} core(s)"
    table = Table(title, ("seconds of", "model alone", "mimotok tokenize", "ratio"))
    kinds = {"wall": "clock", "own": "the encoding process's CPU", "all": "all processes' CPU"}
    for kind, title in kinds.items():
        pairs = [(getattr(alone, kind), getattr(whole, kind)) for alone, whole in turns]
        ratio = statistics.median(alone / whole for alone, whole in pairs)
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        table.add(title, *(f"{median:.2f}" for median in medians), f"{ratio:.2f}")
    print(table)


def print_arithmetic(tokens: float, hours: float, core_hours: float, sizes: dict[str, float], device: str) -> None:
    """Print what `hours` of sound need.

    Args:
        hours: hours of sound.
        tokens: tokens a second.
        core_hours: core hours an hour of sound.
        device: where the model ran.
        sizes: bytes a second by format.
    """
    table = Table("", (f"{hours:,.0f} hours of sound at these speeds and sizes", ""))
    table.add("tokens", f"{tokens * 3600 * hours:.3g}")
    for format, size in sizes.items():
        table.add(f"bytes, {format}", f"{size * 3600 * hours:.3g} ({size:.0f} a second of sound)")
    table.add("bytes, bare uint16", f"{2 * tokens * 3600 * hours:.3g}")
    unit = "CPU core hours, decoding included" if device == "cpu" else f"{device} hours"
    table.add(unit, f"{core_hours * hours:.3g}")
    print(table)


def main(
    manifest: str,
    root: str = ".",
    model: str | None = None,
    device: str = "cpu",
    minutes: float = 10.0,
    workers: int = 1,
    batch_seconds: float = 60.0,
    repeats: int = 3,
    threads: int = 1,
    hours: float = 1e8,
    n_q: int = 8,
) -> None:
    """Prints the ratios, and the arithmetic of a large corpus.

    Args:
        manifest: JSONL with durations.
        root: folder of its relative paths.
        model: folder or hub id; the embedded checkpoint if left out.
        device: cpu, cuda, ...
        minutes: sound to encode, drawn at random from the manifest.
        workers: decoding processes.
        batch_seconds: padded sound in a batch.
        repeats: timed turns, of which the median counts.
        threads: of torch.
        hours: of the large corpus.
        n_q: codebooks.
    """
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_pretrained(model, device=device)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "drawn.jsonl")
        draw(manifest, source, minutes)
        batches = decoded(str(source), root, tokenizer, batch_seconds)
        seconds = sum(int(batch.lengths.sum()) for batch in batches) / tokenizer.sample_rate

        def corpus(format: str, out: str) -> None:
            options: dict[str, Any] = {"workers": workers, "batch_seconds": batch_seconds, "n_q": n_q}
            tokenize_corpus(str(source), Path(folder, out), tokenizer, root=root, format=format, **options)

        turns: list[tuple[Cost, Cost]] = []
        for turn in range(repeats + 1):
            model_cost = cost_of(partial(encode, tokenizer, batches, n_q))
            corpus_cost = cost_of(partial(corpus, "parquet", f"parquet{turn}"))
            if turn:  # the first turn warms up
                turns.append((model_cost, corpus_cost))
        sizes = {"parquet": size_of(Path(folder, "parquet0")) / seconds}
        for format in ("webdataset", "shar"):
            corpus(format, format)
            sizes[format] = size_of(Path(folder, format)) / seconds
        print_ratios(turns, seconds, workers)
        # a core's work where the model is on the CPU, a GPU's clock where it is there
        work = statistics.median(whole.all if device == "cpu" else whole.wall for _, whole in turns) / seconds
        print_arithmetic(tokenizer.frame_rate * n_q, hours, work, sizes, device)


if __name__ == "__main__":
    CLI(main, as_positional=True)
