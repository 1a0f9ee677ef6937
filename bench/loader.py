"""Measure how fast training batches are loaded: audio-seconds per second of one process, beside what training needs.

python -m bench.loader manifest.jsonl --root data --cache_dir data/cache --training_rate 60
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

import torch
from jsonargparse import CLI

from bench.tables import Table
from train.data.augment import AugmentConfig
from train.data.module import AUGMENT, SpeechDataModule


@dataclass(frozen=True)
class Rate:
    """Audio-seconds loaded, without padding; padded seconds; seconds of clock and of this process's CPU."""

    audio: float
    padded: float
    wall: float
    cpu: float


def measure(data: SpeechDataModule, batches: int) -> Rate:
    """Times `batches` training batches, after three that warm files and imports up."""
    loader = data.train_dataloader()
    sample_rate = data.plan_config.sample_rate
    list(islice(loader, 3))
    audio = 0.0
    padded = 0.0
    wall = time.perf_counter()
    cpu = time.process_time()
    for batch in islice(loader, batches):
        audio += int(batch.lengths.sum()) / sample_rate
        padded += batch.wav.numel() / sample_rate
    return Rate(audio, padded, time.perf_counter() - wall, time.process_time() - cpu)


def main(
    manifest: str,
    root: str = ".",
    cache_dir: str | None = None,
    batches: int = 200,
    num_workers: int = 0,
    training_rate: float | None = None,
) -> None:
    """Prints one row each for decoded and undecoded clips, with and without augmentation.

    Args:
        manifest: JSONL or Lhotse CutSet.
        root: folder of relative audio paths.
        cache_dir: where decoded clips are, or will be made; null leaves their rows out.
        batches: batches per row.
        num_workers: loader processes.
        training_rate: audio-seconds per second that training takes; adds the share of its time loading costs.
    """
    torch.set_num_threads(1)
    header = ["clips", "augmentation", "audio-s/s", "per CPU second", "padding"]
    if training_rate:
        header.append(f"of a core at {training_rate:g} audio-s/s")
    table = Table(f"{batches} batches, {num_workers} workers", header)
    for cache in dict.fromkeys((cache_dir, None)):
        for augment in (None, AUGMENT):
            table.add(*_row(manifest, root, cache, augment, batches, num_workers, training_rate))
    print(table)


def _row(
    manifest: str,
    root: str,
    cache_dir: str | None,
    augment: AugmentConfig | None,
    batches: int,
    num_workers: int,
    training_rate: float | None,
) -> list[str]:
    data = SpeechDataModule(manifest, root, cache_dir=cache_dir, augment=augment, num_workers=num_workers)
    data.prepare_data()
    rate = measure(data, batches)
    # workers' CPU time is not this process's
    per_cpu = rate.audio / rate.cpu if not num_workers else float("nan")
    source = "decoded" if cache_dir else "files"
    effects = "on" if augment else "off"
    row = [source, effects, f"{rate.audio / rate.wall:.0f}"]
    row += [f"{per_cpu:.0f}", f"{1 - rate.audio / rate.padded:.1%}"]
    return row + ([f"{training_rate / per_cpu:.1%}"] if training_rate else [])


if __name__ == "__main__":
    CLI(main)
