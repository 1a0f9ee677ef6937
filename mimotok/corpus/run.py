"""Whole corpora to tokens: resumable, in bounded memory, decoding ahead of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mimotok.chunked import encode_blocks
from mimotok.corpus.clips import Clip, ahead, read_clip
from mimotok.corpus.formats import Record, checked_format
from mimotok.corpus.inputs import read_input
from mimotok.corpus.ledger import (
    Entry,
    Failure,
    Ledger,
    Settings,
    open_ledger,
    read_entries,
    read_failures,
    write_shard,
)
from mimotok.corpus.loading import Batch, decoded_loads, one_line
from mimotok.corpus.plan import split_shards
from mimotok.files import StrPath
from mimotok.tokenizer import Tokenizer

MAX_SHARD_HOURS = 1000.0


class Progress(NamedTuple):
    """How far a run is: clips and seconds of sound done by it, and in all that it has to do; seconds are estimates."""

    clips: int
    seconds: float
    all_clips: int
    all_seconds: float


class Summary(NamedTuple):
    """What a folder holds after a run: shards, clips, code frames and seconds in them, clips that failed."""

    shards: int
    clips: int
    frames: int
    seconds: float
    failed: int


@dataclass(frozen=True)
class Options:
    """How to work; none of it changes the codes.

    workers: decoding processes, 0 for none; batch_seconds: padded sound in a batch.
    """

    workers: int = 2
    batch_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: give 0 or more")
        if not 1.0 <= self.batch_seconds <= 1e5:
            raise ValueError(f"batch_seconds={self.batch_seconds:g}: give 1 to 100000")


class Part(NamedTuple):
    """A shard to be made: its number and its clips."""

    number: int
    clips: list[Clip]


class Finished(NamedTuple):
    """A part that was made: its ledger entry, None where no clip could be read, and the clips that failed."""

    entry: Entry | None
    failures: list[Failure]
    part: Part


# makes every part, in any order; tells of (clips, seconds) as they are done
Runner = Callable[[list[Part], Settings, Path], Iterator[Finished]]
Report = Callable[[int, float], None]


def tokenize_corpus(
    source: str,
    out: StrPath,
    tokenizer: Tokenizer,
    *,
    root: str = ".",
    n_q: int | None = None,
    format: str = "parquet",
    workers: int = 2,
    batch_seconds: float = 60.0,
    shard_hours: float = 4.0,
    ray: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Encode every clip of `source` into the folder `out`, except those that it holds already.

    source, root: as `read_input`. n_q: codebooks, the model's default where None. format: parquet, webdataset or shar.
    workers: decoding processes; batch_seconds: padded sound in a batch; shard_hours: sound in a shard, at least.
    ray: address of a Ray cluster to work on, "local" for one of this machine; then `out` is on a file system that all
    of it shares, and workers are of each actor. The codes are those of `Tokenizer.encode` on each clip alone, whatever the
    batches. A run that ended in any way goes on where it was when called again. Clips that cannot be read go to
    `out`/failed.jsonl and are not tried again until their lines are removed.
    Raises ValueError for bad options and input, a full disk, and an `out` made by other weights or settings.
    """
    options = Options(workers, batch_seconds)
    if not 0 < shard_hours <= MAX_SHARD_HOURS:
        raise ValueError(f"shard_hours={shard_hours:g}: give more than 0, up to {MAX_SHARD_HOURS:g}")
    checked_format(format)
    settings = settings_of(tokenizer, n_q, format)
    with open_ledger(out, settings) as ledger:
        parts = _plan(source, root, ledger, shard_hours)
        tell = _Reporter(parts, progress)
        run = _runner(tokenizer, options, ray, tell)
        for finished in run(parts, settings, Path(out)):
            ledger.add(finished.entry, finished.failures)
            tell.finished(finished.part)
    return summarize(out)


def settings_of(tokenizer: Tokenizer, n_q: int | None, format: str) -> Settings:
    """What the tokens of this model are."""
    n_q = tokenizer.config.checked_n_q(n_q)
    return Settings(
        model=tokenizer.name,
        sha256=tokenizer.weights_sha256,
        dtype=str(tokenizer.dtype).removeprefix("torch."),
        sample_rate=tokenizer.sample_rate,
        frame_rate=tokenizer.frame_rate,
        n_q=n_q,
        codebook_sizes=tokenizer.codebook_sizes[:n_q],
        format=format,
    )


def _plan(source: str, root: str, ledger: Ledger, shard_hours: float) -> list[Part]:
    """What is left to do, in parts of one shard each."""
    listing = read_input(source, root=root, known=ledger.done | ledger.failed)
    ledger.add(None, listing.failed)
    shards = split_shards([clip.seconds for clip in listing.clips], 3600 * shard_hours)
    first = ledger.next_number
    return [Part(first + i, [listing.clips[k] for k in shard]) for i, shard in enumerate(shards)]


def _runner(tokenizer: Tokenizer, options: Options, ray: str | None, report: _Reporter) -> Runner:
    if ray is None:
        return partial(run_parts, tokenizer, options, report=report)
    from mimotok.corpus.cluster import run_on_ray

    return partial(run_on_ray, tokenizer, options, ray)


class _Reporter:
    """Adds up what is done. Called as things are done, or not at all before a part is finished."""

    def __init__(self, parts: list[Part], progress: Callable[[Progress], None] | None) -> None:
        self.progress = progress
        self.all_clips = sum(len(part.clips) for part in parts)
        self.all_seconds = sum(clip.seconds for part in parts for clip in part.clips)
        self.clips, self.seconds, self.whole_clips, self.whole_seconds = 0, 0.0, 0, 0.0
        self(0, 0.0)

    def __call__(self, clips: int, seconds: float) -> None:
        self.clips, self.seconds = self.clips + clips, self.seconds + seconds
        if self.progress is not None:
            self.progress(Progress(self.clips, self.seconds, self.all_clips, self.all_seconds))

    def finished(self, part: Part) -> None:
        """A part is done, whatever of it was told before."""
        self.whole_clips += len(part.clips)
        self.whole_seconds += sum(clip.seconds for clip in part.clips)
        self(max(0, self.whole_clips - self.clips), max(0.0, self.whole_seconds - self.seconds))


def run_parts(
    tokenizer: Tokenizer,
    options: Options,
    parts: list[Part],
    settings: Settings,
    out: Path,
    *,
    report: Report = lambda *_: None,
) -> Iterator[Finished]:
    """Makes the parts here, one after the other, decoding ahead across them."""
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
            except Exception as error:  # as in a worker: file systems and decoders have errors of their own
                failures[i] = Failure(part.clips[i].key, part.clips[i].place, one_line(error))
            report(1, part.clips[i].seconds)
        left[load.shard] -= len(load.clips)
        if left[load.shard] == 0:
            made = [records[i] for i in sorted(records)]
            entry = write_shard(out, part.number, made, settings) if made else None
            yield Finished(entry, [failures[i] for i in sorted(failures)], part)
            records, failures = {}, {}


def _encode(tokenizer: Tokenizer, n_q: int, clips: Sequence[Clip], batch: Batch) -> Iterator[tuple[int, Record]]:
    """Records by number. Raises ValueError where the device's memory does not do."""
    try:
        codes, frames = tokenizer.encode(batch.wav, batch.lengths, n_q=n_q)
    except torch.OutOfMemoryError:
        told = f"a batch of {batch.wav.numel() / tokenizer.sample_rate:.0f} s does not fit on {tokenizer.device}"
        raise ValueError(f"{told}: lower --batch-seconds") from None
    arrays = codes.cpu().numpy().astype(np.uint16)
    for row, i in enumerate(batch.clips):
        # a copy: a view would keep the padding of the whole batch
        own = arrays[row, :, : int(frames[row])].copy()
        yield i, Record(clips[i].key, own, int(batch.lengths[row]), clips[i].audio, clips[i].metadata)


def encode_long(tokenizer: Tokenizer, n_q: int, clip: Clip) -> Record:
    """A clip of any length in bounded memory. Raises as `read_clip`."""
    samples = 0

    def counted() -> Iterator[torch.Tensor]:
        nonlocal samples
        for block in ahead(read_clip(clip, tokenizer.sample_rate)):
            samples += block.shape[1]
            yield block

    parts = [part[0].cpu().numpy().astype(np.uint16) for part in encode_blocks(tokenizer, counted(), n_q=n_q)]
    return Record(clip.key, np.concatenate(parts, axis=1), samples, clip.audio, clip.metadata)


def summarize(out: StrPath) -> Summary:
    """What a folder of tokens holds, going by its ledger."""
    entries = read_entries(out)
    keys = {key for entry in entries for key in entry.keys}
    failed = {failure.key for failure in read_failures(out)} - keys
    frames, seconds = sum(entry.frames for entry in entries), sum(entry.seconds for entry in entries)
    return Summary(len(entries), len(keys), frames, seconds, len(failed))
