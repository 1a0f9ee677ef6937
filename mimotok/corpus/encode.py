"""Encode parts of a corpus into shards on one device.

Clips are decoded ahead and encoded in batches; long recordings are encoded block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mimotok.corpus.clips import Item, NoRoomError, ahead, read_clip
from mimotok.corpus.formats import Record
from mimotok.corpus.ledger import Entry, Failure, Settings, write_shard
from mimotok.corpus.loading import Batch, decoded_loads
from mimotok.io.terminal.streams import error_line
from mimotok.streaming.blocks import encode_blocks
from mimotok.tokenizer import Tokenizer

# called with clips, and seconds of sound, as they are done
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Options:
    """How to work; in float32 none of it changes the codes.

    Attributes:
        workers: decoding processes, 0 for none.
        batch_seconds: padded seconds of sound in a batch.
    """

    workers: int = 2
    batch_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: give 0 or more")
        if not 1.0 <= self.batch_seconds <= 1e5:
            raise ValueError(f"batch_seconds={self.batch_seconds:g}: give 1 to 100000")


class Part(NamedTuple):
    """The number of a shard to write, and its clips."""

    number: int
    clips: list[Item]


class Finished(NamedTuple):
    """A part that is done.

    Attributes:
        entry: its line of the ledger, None where no clip could be read.
        failures: the clips that could not be read.
        part: the part.
    """

    entry: Entry | None
    failures: list[Failure]
    part: Part


def run_parts(
    tokenizer: Tokenizer,
    options: Options,
    parts: list[Part],
    settings: Settings,
    out: Path,
    *,
    report: Report = lambda *_: None,
) -> Iterator[Finished]:
    """Encode the parts on this machine, one after the other, and decode ahead across them."""
    loads = decoded_loads(
        [part.clips for part in parts],
        tokenizer.sample_rate,
        batch_seconds=options.batch_seconds,
        workers=options.workers,
        pin_memory=tokenizer.device.type == "cuda",
    )
    left = [len(part.clips) for part in parts]
    records: dict[int, Record] = {}
    failures: dict[int, Failure] = {}
    for load, decoded in loads:
        part = parts[load.shard]
        for i, reason in decoded.failed:
            failures[i] = Failure(part.clips[i].key, part.clips[i].place, reason)
        for batch in decoded.batches:
            records.update(_encode(tokenizer, settings.n_q, part.clips, batch))
            report(len(batch.clips), sum(part.clips[i].seconds for i in batch.clips))
        for i in decoded.long:
            try:
                records[i] = encode_long(tokenizer, settings.n_q, part.clips[i])
            except (NoRoomError, MemoryError, torch.OutOfMemoryError) as error:
                # the machine's trouble, not the clip's: another run may succeed
                raise ValueError(f"{part.clips[i].place}: {error_line(error)}") from None
            except Exception as error:  # as in a worker: file systems and decoders have errors of their own
                failures[i] = Failure(part.clips[i].key, part.clips[i].place, error_line(error))
            report(1, part.clips[i].seconds)
        left[load.shard] -= len(load.clips)
        if left[load.shard] == 0:
            encoded = [records[i] for i in sorted(records)]
            entry = write_shard(out, part.number, encoded, settings) if encoded else None
            if entry is not None:
                entry = replace(entry, stamps=[part.clips[i].stamp for i in sorted(records)])
            yield Finished(entry, [failures[i] for i in sorted(failures)], part)
            records = {}
            failures = {}


def _encode(tokenizer: Tokenizer, n_q: int, clips: Sequence[Item], batch: Batch) -> Iterator[tuple[int, Record]]:
    """Yield records by number. Raises ValueError where the device has too little memory."""
    try:
        codes, frames = tokenizer.encode(batch.wav, batch.lengths, n_q=n_q)
    except torch.OutOfMemoryError:
        problem = f"a batch of {batch.wav.numel() / tokenizer.sample_rate:.0f} s does not fit on {tokenizer.device}"
        raise ValueError(f"{problem}: lower --batch-seconds") from None
    arrays = codes.cpu().numpy().astype(np.uint16)
    for row, i in enumerate(batch.clips):
        # a copy: a view would keep the padding of the whole batch
        own = arrays[row, :, : int(frames[row])].copy()
        yield i, Record(clips[i].key, own, int(batch.lengths[row]), clips[i].audio, clips[i].metadata)


def encode_long(tokenizer: Tokenizer, n_q: int, clip: Item) -> Record:
    """Encode a clip of any length in bounded memory. Raises as `read_clip`."""
    samples = 0

    def counted() -> Iterator[torch.Tensor]:
        nonlocal samples
        for block in ahead(read_clip(clip, tokenizer.sample_rate)):
            samples += block.shape[1]
            yield block

    parts = [part[0].cpu().numpy().astype(np.uint16) for part in encode_blocks(tokenizer, counted(), n_q=n_q)]
    return Record(clip.key, np.concatenate(parts, axis=1), samples, clip.audio, clip.metadata)
