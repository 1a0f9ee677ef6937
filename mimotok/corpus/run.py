"""Tokenize whole corpora: resumable, in bounded memory, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mimotok.corpus.encode import Finished, Options, Part, run_parts
from mimotok.corpus.formats import checked_format
from mimotok.corpus.inputs import read_input
from mimotok.corpus.ledger import Ledger, Settings, open_ledger, read_entries, read_failures
from mimotok.corpus.plan import split_shards
from mimotok.io.files import StrPath
from mimotok.tokenizer import Tokenizer

MAX_SHARD_HOURS = 1000.0


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        clips: clips that this run has finished.
        seconds: seconds of sound in them, an estimate.
        all_clips: clips that this run has to do.
        all_seconds: seconds of sound in them, an estimate.
    """

    clips: int
    seconds: float
    all_clips: int
    all_seconds: float


class Summary(NamedTuple):
    """What a folder holds after a run.

    Attributes:
        shards: finished shards.
        clips: clips in them.
        frames: code frames of all clips.
        seconds: seconds of sound of all clips.
        failed: clips that could not be read.
    """

    shards: int
    clips: int
    frames: int
    seconds: float
    failed: int


# makes every part, in any order
Runner = Callable[[list[Part], Settings, Path], Iterator[Finished]]


def tokenize_corpus(
    source: StrPath,
    out: StrPath,
    tokenizer: Tokenizer,
    *,
    root: StrPath = ".",
    n_q: int | None = None,
    format: str = "parquet",
    workers: int = 2,
    batch_seconds: float = 60.0,
    shard_hours: float = 4.0,
    ray: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    allow_outside: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Encode every clip of a corpus into a folder of shards, except those that the folder has already.

    The codes are those of `Tokenizer.encode` on each clip alone, whatever the batches. A run that ended in any way
    continues where it was when called again. Clips that cannot be read are listed in `out`/failed.jsonl, and are not
    tried again until their lines are removed.

    Args:
        source: folder or address of sound files or WebDataset tars, one tar, a JSONL manifest or a Lhotse CutSet.
        out: folder of the tokens.
        tokenizer: the model.
        root: folder or address of a manifest's relative paths.
        n_q: codebooks to use; the model's default where None.
        format: "parquet", "webdataset" or "shar".
        workers: decoding processes, 0 for none; with `ray`, those of each actor.
        batch_seconds: padded seconds of sound in a batch.
        shard_hours: hours of sound in a shard, at least.
        ray: address of a Ray cluster to work on, "local" for one of this machine; `out` then lies on a file system that
            the whole cluster shares.
        progress: called with a `Progress` as clips are finished.
        allow_outside: a manifest's paths may leave its root and its folder.
        notify: called with a line on what of the source is not read.

    Returns:
        What the folder holds now.

    Raises:
        ValueError: for bad options or input, a full disk, or an `out` that holds tokens of other weights or settings.
        ImportError: where the format or `ray` lacks its package.

    Example:
        >>> tokenizer = Tokenizer.from_pretrained()
        >>> done = tokenize_corpus("audio/", "tokens/", tokenizer)  # doctest: +SKIP
    """
    options = Options(workers, batch_seconds)
    if not 0 < shard_hours <= MAX_SHARD_HOURS:
        raise ValueError(f"shard_hours={shard_hours:g}: give more than 0, up to {MAX_SHARD_HOURS:g}")
    checked_format(format)
    settings = settings_of(tokenizer, n_q, format)
    with open_ledger(out, settings) as ledger:
        parts = _plan(
            os.fspath(source), os.fspath(root), ledger, shard_hours, allow_outside=allow_outside, notify=notify
        )
        reporter = _Reporter(parts, progress)
        encode_parts = _runner(tokenizer, options, ray, reporter)
        for finished in encode_parts(parts, settings, Path(out)):
            ledger.add(finished.entry, finished.failures)
            reporter.finished(finished.part)
    return summarize(out)


def settings_of(tokenizer: Tokenizer, n_q: int | None, format: str) -> Settings:
    """Return the settings of the tokens that this model makes."""
    n_q = tokenizer.config.checked_n_q(n_q)
    identity = tokenizer.identity
    return Settings(
        model=identity.name,
        sha256=identity.sha256,
        dtype=str(tokenizer.dtype).removeprefix("torch."),
        sample_rate=tokenizer.sample_rate,
        frame_rate=tokenizer.frame_rate,
        n_q=n_q,
        codebook_sizes=tokenizer.codebook_sizes[:n_q],
        format=format,
    )


def _plan(
    source: str,
    root: str,
    ledger: Ledger,
    shard_hours: float,
    *,
    allow_outside: bool,
    notify: Callable[[str], None],
) -> list[Part]:
    """List the clips that are left, in parts of one shard each."""
    known = ledger.done | ledger.failed
    listing = read_input(source, root=root, known=known, stamps=ledger.stamps, allow_outside=allow_outside)
    for note in listing.notes:
        notify(note)
    if listing.changed:
        raise ValueError(
            f"{ledger.out}: has tokens of {len(listing.changed)} clips whose sound is another one now, e.g. "
            f"{listing.changed[0]!r}; name a new folder, or the source that it was made of"
        )
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
    """The sum of what is done. It is called as clips are done, or only when a whole part is finished."""

    def __init__(self, parts: list[Part], progress: Callable[[Progress], None] | None) -> None:
        self.progress = progress
        self.all_clips = sum(len(part.clips) for part in parts)
        self.all_seconds = sum(clip.seconds for part in parts for clip in part.clips)
        self.clips = 0
        self.seconds = 0.0
        self.whole_clips = 0
        self.whole_seconds = 0.0
        self(0, 0.0)

    def __call__(self, clips: int, seconds: float) -> None:
        self.clips = self.clips + clips
        self.seconds = self.seconds + seconds
        if self.progress is not None:
            self.progress(Progress(self.clips, self.seconds, self.all_clips, self.all_seconds))

    def finished(self, part: Part) -> None:
        """Count a whole part as done, except what was reported before."""
        self.whole_clips += len(part.clips)
        self.whole_seconds += sum(clip.seconds for clip in part.clips)
        self(max(0, self.whole_clips - self.clips), max(0.0, self.whole_seconds - self.seconds))


def summarize(out: StrPath) -> Summary:
    """Sum up a folder of tokens from its ledger."""
    entries = read_entries(out)
    keys = {key for entry in entries for key in entry.keys}
    failed = {failure.key for failure in read_failures(out)} - keys
    frames = sum(entry.frames for entry in entries)
    seconds = sum(entry.seconds for entry in entries)
    return Summary(len(entries), len(keys), frames, seconds, len(failed))
