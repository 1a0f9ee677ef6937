"""Decode clips ahead in worker processes, into padded batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from mimotok.corpus.clips import Item, NoRoomError, load_clip
from mimotok.corpus.plan import split_batches
from mimotok.io.terminal.streams import error_line
from mimotok.io.terminal.workers import end_with_parent

# longer recordings are encoded block by block
LONG_SECONDS = 120.0
_LOADS_AHEAD = 4  # of each worker


class Load(NamedTuple):
    """What a worker decodes at a time: numbers of clips in shard number `shard` of the plan."""

    shard: int
    clips: list[int]


class Batch(NamedTuple):
    """Decoded clips of similar length.

    Attributes:
        clips: their numbers in the shard.
        wav: float32 [B, T], padded.
        lengths: [B] samples.
    """

    clips: list[int]
    wav: Tensor
    lengths: Tensor


class Decoded(NamedTuple):
    """A load after decoding; clips go by their number in the shard.

    Attributes:
        batches: what fits into batches.
        long: clips that are too long for one.
        failed: clips that cannot be read, with the reason.
        trouble: what stops the whole run, such as a full disk; None where nothing does.
    """

    batches: list[Batch]
    long: list[int]
    failed: list[tuple[int, str]]
    trouble: str | None = None


class _Loads(Dataset[Decoded]):
    def __init__(self, shards: Sequence[Sequence[Item]], loads: list[Load], sample_rate: int, budget: float) -> None:
        self.shards = shards
        self.loads = loads
        self.sample_rate = sample_rate
        self.budget = budget

    def __len__(self) -> int:
        return len(self.loads)

    def __getitem__(self, index: int) -> Decoded:
        load = self.loads[index]
        shard = self.shards[load.shard]
        wavs = {}
        long = []
        failed = []
        for i in load.clips:
            try:
                wav = load_clip(shard[i], self.sample_rate, LONG_SECONDS)
            except (NoRoomError, MemoryError) as error:
                # the machine's trouble, not the clip's: another run may succeed
                return Decoded([], [], [], f"{shard[i].place}: {error_line(error)}")
            except Exception as error:  # every file system and decoder has its own, and none may stop a run
                failed.append((i, error_line(error)))
            else:
                if wav is None:
                    long.append(i)
                else:
                    wavs[i] = wav[0]
        return Decoded(self._batches(wavs), long, failed)

    def _batches(self, wavs: dict[int, Tensor]) -> list[Batch]:
        # by the true lengths: a manifest's durations may be wrong, and memory must not depend on them
        numbers = list(wavs)
        groups = split_batches([len(wavs[i]) for i in numbers], self.budget * self.sample_rate)
        batches = []
        for group in groups:
            clips = [numbers[k] for k in group]
            lengths = torch.tensor([len(wavs[i]) for i in clips])
            batches.append(Batch(clips, pad_sequence([wavs[i] for i in clips], batch_first=True), lengths))
        return batches


def plan_loads(shards: Sequence[Sequence[Item]], batch_seconds: float) -> list[Load]:
    """Divide all shards into loads, in the shards' order, the longest clips of each first."""
    return [
        Load(number, group)
        for number, shard in enumerate(shards)
        for group in split_batches([clip.seconds for clip in shard], batch_seconds)
    ]


def decoded_loads(
    shards: Sequence[Sequence[Item]], sample_rate: int, *, batch_seconds: float, workers: int, pin_memory: bool
) -> Iterator[tuple[Load, Decoded]]:
    """Decode every clip of every shard once, shard after shard, by `workers` processes, 0 for none.

    Yields:
        Each load with its sound at `sample_rate`.

    Raises:
        ValueError: where a worker dies or has no room for temporary files.
    """
    loads = plan_loads(shards, batch_seconds)
    data = _Loads(shards, loads, sample_rate, batch_seconds)
    ahead = _LOADS_AHEAD if workers else None
    whole: Any = _as_it_is
    with warnings.catch_warnings():
        # more workers than cores is the caller's choice
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        items = iter(
            DataLoader(
                data,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=ahead,
                collate_fn=whole,
                pin_memory=pin_memory,
                worker_init_fn=end_with_parent,
            )
        )
    for load, decoded in zip(loads, _with_worker_errors(items), strict=True):
        if decoded.trouble is not None:
            raise ValueError(decoded.trouble)
        yield load, decoded


def _as_it_is(decoded: Decoded) -> Decoded:
    return decoded


def _with_worker_errors(items: Iterator[Decoded]) -> Iterator[Decoded]:
    """Yield what a loader yields. Raises ValueError where a worker was killed or had no shared memory."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RuntimeError as error:
            raise ValueError(
                f"a decoding worker ended ({error_line(error)}); run again, with fewer --workers or --batch-seconds "
                "if memory was short"
            ) from error
        yield item
