"""Turn clips of tokens into sequences for a language model: whole, cut, or packed end to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mimotok.corpus.formats import Record

MODES = ("whole", "cut", "pack")


class Lane(NamedTuple):
    """The number of this DataLoader worker, and how many there are; (0, 1) in the main process."""

    number: int
    lanes: int

    @classmethod
    def current(cls) -> Lane:
        """Return the lane of this process."""
        worker = get_worker_info()
        if worker is None:
            return cls(0, 1)
        return cls(worker.id, worker.num_workers)


class Position(NamedTuple):
    """A place in a stream of clips.

    Attributes:
        clips: clips before it.
        frame: frames of the next clip before it.
    """

    clips: int = 0
    frame: int = 0


@dataclass
class Sequence:
    """Tokens for a model to read.

    Attributes:
        codes: int64 [n_q, F].
        segments: int64 [F], the number, in `keys`, of the clip that a frame belongs to.
        keys: of the clips.
        metadata: of the clips.
        starts: the first frame of each clip that is in the sequence, counted in the clip's own frames.
    """

    codes: Tensor
    segments: Tensor
    keys: list[str]
    metadata: list[dict[str, Any]]
    starts: list[int]


@dataclass
class SequenceBatch:
    """A padded batch of sequences.

    Attributes:
        codes: int64 [B, n_q, F], 0 past `lengths`.
        segments: int64 [B, F], 0 past `lengths`.
        lengths: [B] frames.
        items: the sequences.
    """

    codes: Tensor
    segments: Tensor
    lengths: Tensor
    items: list[Sequence]

    def pin_memory(self) -> SequenceBatch:
        """Return the batch in page-locked memory: a DataLoader with `pin_memory=True` calls it."""
        return SequenceBatch(self.codes.pin_memory(), self.segments.pin_memory(), self.lengths.pin_memory(), self.items)


def collate(items: list[Sequence]) -> SequenceBatch:
    """Pad sequences to one length and stack them: the `collate_fn` of a plain DataLoader over a `TokenDataset`.

    With workers such a DataLoader needs `TokenDataset.set_epoch` before each epoch; `TokenLoader` does not.

    Args:
        items: what the dataset yields, at least one.

    Returns:
        The batch.

    Raises:
        ValueError: for no items.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(TokenDataset("tokens/"), batch_size=8, collate_fn=collate)  # doctest: +SKIP
    """
    if not items:
        raise ValueError("no sequences to collate: give at least one")
    lengths = torch.tensor([item.codes.shape[1] for item in items])
    size = int(lengths.max())
    codes = torch.stack([torch.nn.functional.pad(item.codes, (0, size - item.codes.shape[1])) for item in items])
    segments = torch.stack([torch.nn.functional.pad(item.segments, (0, size - len(item.segments))) for item in items])
    return SequenceBatch(codes, segments, lengths, items)


@dataclass
class _Growing:
    """A sequence that is not complete yet."""

    parts: list[np.ndarray] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, record: Record, start: int, end: int) -> None:
        """Append frames `start` to `end` of a clip."""
        self.parts.append(record.codes[:, start:end])
        self.records.append(record)
        self.starts.append(start)
        self.size += end - start

    def done(self) -> Sequence:
        """Return the sequence."""
        codes = torch.from_numpy(np.concatenate(self.parts, axis=1).astype(np.int64))
        sizes = torch.tensor([part.shape[1] for part in self.parts])
        segments = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        keys = [record.key for record in self.records]
        return Sequence(codes, segments, keys, [record.metadata for record in self.records], self.starts)


def sequences(
    records: Iterable[Record], mode: str, length: int | None, start: Position
) -> Iterator[tuple[Sequence, Position]]:
    """Divide a stream of clips into sequences.

    Every frame from `start` on comes once.

    Args:
        records: the clips from number `start.clips` on.
        mode: "whole" is one clip each; "cut" is at most `length` frames of one clip; "pack" is `length` frames each,
            with clips end to end; the last may be shorter.
        length: frames of a sequence, None for whole clips.
        start: where to begin.

    Yields:
        Each sequence with the position after it.
    """
    growing = _Growing()
    clips, frame = start
    for record in records:
        end = record.codes.shape[1]
        while frame < end:
            count = end - frame if length is None else min(end - frame, length - growing.size)
            growing.add(record, frame, frame + count)
            frame += count
            if mode != "pack" or growing.size == length:
                yield growing.done(), Position(clips, frame) if frame < end else Position(clips + 1)
                growing = _Growing()
        clips = clips + 1
        frame = 0
    if growing.size:
        yield growing.done(), Position(clips)
