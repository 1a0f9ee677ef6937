"""Rendering of planned batches, and a loader that can stop and continue."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mimotok.io.audio import resample
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.phones import UNKNOWN, frame_labels
from mimotok.io.terminal.workers import end_with_parent
from train.data.augment import AugmentConfig, augment
from train.data.cache import skipped_table
from train.data.manifest import BadClipError, read
from train.data.plan import Item, PlannedBatch

log = logging.getLogger(__name__)

SLACK = 0.1  # seconds by which a manifest's duration may be wrong before the text is distrusted


class Batch(NamedTuple):
    """Audio with what is known of it.

    Attributes:
        wav: float32 [B, T] at the training rate, zero-padded.
        lengths: int64 [B], valid samples.
        text: the transcript of exactly this audio, or None where it is unknown or the audio is a crop.
        ids: the clips' ids.
        phones: int64 [B, F], the phone at the middle of each frame, also of crops, as
            `mimotok.io.clips.alignments.frame_labels` gives it; None where no labels are read.
    """

    wav: Tensor
    lengths: Tensor
    text: list[str | None]
    ids: list[str]
    phones: Tensor | None = None


class Part(NamedTuple):
    """One item of a batch: wav [T], its text, its clip's id, its phone labels [F]."""

    wav: np.ndarray
    text: str | None
    id: str
    phones: np.ndarray | None


class Loaded(NamedTuple):
    """A batch, or None where none of its clips could be read, and the reason for each clip that could not, by id."""

    batch: Batch | None
    skipped: dict[str, str]


class Render(NamedTuple):
    """Turns planned items into audio.

    Attributes:
        sample_rate: Hz.
        augment: ranges of random changes, None for none.
        frame_rate: Hz, of phone labels, None for none.
    """

    sample_rate: int
    augment: AugmentConfig | None
    frame_rate: float | None = None

    def batch(self, clips: Sequence[Clip], planned: PlannedBatch, seeds: Sequence[int]) -> Loaded:
        """Read and augment the items of a batch.

        Args:
            clips: the corpus.
            planned: the batch.
            seeds: name of the batch; with an item's number in it, they seed the item's augmentation.
        """
        parts = []
        skipped = {}
        for slot, item in enumerate(planned.items):
            clip = clips[item.clip]
            try:
                wav, text = self._item(clip, item, np.random.default_rng([*seeds, slot]))
            except BadClipError as error:
                skipped[clip.id] = str(error)
            else:
                wav = wav[: planned.samples]
                parts.append(Part(wav, text, clip.id, self._phones(clip, item, len(wav))))
        if not parts:
            return Loaded(None, skipped)
        return Loaded(self._collate(parts, planned.samples), skipped)

    def _item(self, clip: Clip, item: Item, rng: np.random.Generator) -> tuple[np.ndarray, str | None]:
        # a whole clip is read to its end, to see whether the manifest has its duration right
        wav, rate = read(clip) if item.whole else read(clip, item.start, item.seconds)
        if not len(wav):
            raise BadClipError("shorter than its manifest says")
        if self.augment is None:
            wav = resample(wav, rate * item.speed, self.sample_rate)
        else:
            wav = augment(wav, rate, sample_rate=self.sample_rate, speed=item.speed, config=self.augment, rng=rng)
        expected = item.seconds / item.speed * self.sample_rate
        complete = item.whole and abs(len(wav) - expected) <= SLACK * self.sample_rate
        return wav, clip.text if complete else None

    def _phones(self, clip: Clip, item: Item, samples: int) -> np.ndarray | None:
        if self.frame_rate is None:
            return None
        frames = self._frames(samples, self.frame_rate)
        return frame_labels(clip.phones or (), frames, self.frame_rate, start=item.start, speed=item.speed)

    def _frames(self, samples: int, frame_rate: float) -> int:
        # rounded, so that a whole number of frames stays one
        return math.ceil(round(samples * frame_rate / self.sample_rate, 6))

    def _collate(self, parts: list[Part], samples: int) -> Batch:
        wav = torch.zeros(len(parts), samples)
        for row, part in zip(wav, parts, strict=True):
            row[: len(part.wav)] = torch.from_numpy(part.wav)
        phones = None
        if self.frame_rate is not None:
            phones = torch.full((len(parts), self._frames(samples, self.frame_rate)), UNKNOWN)
            for labels, part in zip(phones, parts, strict=True):
                if part.phones is not None:
                    labels[: len(part.phones)] = torch.from_numpy(part.phones)
        lengths = torch.tensor([len(part.wav) for part in parts])
        return Batch(wav, lengths, [part.text for part in parts], [part.id for part in parts], phones)


class TrainDataset(Protocol):
    """An endless sequence of batches; an epoch has `epoch_batches` of them per rank."""

    epoch_batches: int
    world_size: int

    def loader(self, first: int, num_workers: int) -> DataLoader[Loaded]:
        """Return this rank's batches from number `first` on."""


class BatchDataset(Dataset[Loaded]):
    """A map from batch numbers to batches, without end: batch `i` is number `i % epoch_batches` of its epoch.

    Batch i of rank r is a pure function of (seed, i, r, world size), so that workers do not matter, and resuming
    decodes nothing twice.

    Args:
        clips: the corpus.
        plan: returns the batches of all ranks of an epoch, in order. Every epoch is cut or repeated to the length of
            the first, so that a number determines its epoch.
        render: turns planned batches into audio.
        seed: of augmentation.
        rank: of this process.
        world_size: processes.

    Raises:
        ValueError: where no clip is left.
    """

    def __init__(
        self,
        clips: list[Clip],
        plan: Callable[[int], list[PlannedBatch]],
        render: Render,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.clips = clips
        self.plan = plan
        self.render = render
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._batches = plan(0)
        if not self._batches:
            raise ValueError("no clip is left: check the manifest's `split`, min_seconds and source_weights")
        self.epoch_batches = max(1, len(self._batches) // world_size)

    def planned(self, index: int) -> tuple[int, int, PlannedBatch]:
        """Return epoch, number within it (over all ranks) and content of this rank's batch `index`."""
        epoch, number = divmod(index, self.epoch_batches)
        if self._epoch != epoch:
            self._epoch = epoch
            self._batches = self.plan(epoch)
        number = number * self.world_size + self.rank
        return epoch, number, self._batches[number % len(self._batches)]

    def __getitem__(self, index: int) -> Loaded:
        epoch, number, planned = self.planned(index)
        return self.render.batch(self.clips, planned, (self.seed, epoch, number))

    def of_all_ranks(self) -> Iterator[Loaded]:
        """Yield the batches of the first epoch, of all ranks."""
        for number, planned in enumerate(self.plan(0)):
            yield self.render.batch(self.clips, planned, (self.seed, 0, number))

    def loader(self, first: int, num_workers: int) -> DataLoader[Loaded]:
        """Return this rank's batches from number `first` on."""
        numbers = range(first, sys.maxsize)
        pin = torch.cuda.is_available()
        return DataLoader(
            self,
            batch_size=None,
            sampler=numbers,
            num_workers=num_workers,
            pin_memory=pin,
            worker_init_fn=end_with_parent,
        )


class ResumableLoader:
    """Training batches without end, counted; `len` is an epoch's, for Lightning's own epochs.

    Lightning 2.x saves `state_dict()` of a train dataloader that has one (in the checkpoint's
    loops.fit_loop.state_dict.combined_loader), from rank 0, and calls `load_state_dict` on every rank before the first
    batch of a resumed fit. The count is of batches handed out, not of those that workers hold ready; and as `len` is
    known, Lightning fetches none ahead. Resumed on another number of ranks, it continues after as many batches as all
    ranks together had.

    Args:
        dataset: the batches.
        num_workers: processes, 0 for this one.
        skipped: clips that are known to be left out, with the reason by id; one log line per epoch names all.
        digest: of what the batches are drawn from.
    """

    def __init__(self, dataset: TrainDataset, *, num_workers: int, skipped: dict[str, str], digest: str) -> None:
        self.dataset = dataset
        self.num_workers = num_workers
        self.digest = digest
        self.skipped = dict(skipped)
        self.position = 0
        self._iterator: Iterator[Loaded] | None = None  # so named, Lightning's teardown stops its workers

    def __len__(self) -> int:
        return self.dataset.epoch_batches

    def __iter__(self) -> ResumableLoader:
        return self  # workers stay from epoch to epoch

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self.dataset.loader(self.position, self.num_workers))
        for _ in range(len(self)):
            batch, skipped = next(self._iterator)
            self.skipped.update(skipped)
            self.position += 1
            if self.position % len(self) == 0 and self.skipped:
                log.warning("epoch %d: %s", self.position // len(self) - 1, skipped_table(self.skipped))
            if batch is not None:
                return batch
        raise RuntimeError(f"a whole epoch without one readable clip: {skipped_table(self.skipped, 3)}")

    def state_dict(self) -> dict[str, Any]:
        """Return epoch, number of its batches handed out on all ranks together, and the digest."""
        epoch, batch = divmod(self.position, len(self))
        return {"epoch": epoch, "batch": batch * self.dataset.world_size, "digest": self.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batches of `state`; warn if clips, seed or settings have changed since."""
        if state["digest"] != self.digest:
            log.warning("clips, seed or settings are not those of the checkpoint: other batches will follow")
        batch = min(state["batch"] // self.dataset.world_size, len(self) - 1)
        self.position = state["epoch"] * len(self) + batch
        self._iterator = None


class ValidationLoader:
    """One pass over a dataset's first epoch, in this process."""

    def __init__(self, dataset: BatchDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return self.dataset.epoch_batches

    def __iter__(self) -> Iterator[Batch]:
        skipped: dict[str, str] = {}
        given = 0
        for number in range(len(self)):
            loaded = self.dataset[number]
            skipped |= loaded.skipped
            if loaded.batch is not None:
                last = loaded.batch
                given += 1
                yield loaded.batch
        if self.dataset.world_size > 1 and given < len(self):
            # ranks sum up what each step found, and would wait for one that takes fewer steps
            yield from repeat(last if given else self._of_another_rank(), len(self) - given)
        if skipped:
            log.warning("validation: %s", skipped_table(skipped))

    def _of_another_rank(self) -> Batch:
        """Return the first batch that any rank can read. Raises ValueError, on every rank, where there is none."""
        skipped: dict[str, str] = {}
        for loaded in self.dataset.of_all_ranks():
            skipped |= loaded.skipped
            if loaded.batch is not None:
                return loaded.batch
        raise ValueError(f"not one clip of validation can be read: {skipped_table(skipped, 3)}")
