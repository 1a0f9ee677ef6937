"""Check that a folder of tokens is what its ledger says, and what the model gives for the sound."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mimotok.corpus.clips import Item
from mimotok.corpus.encode import encode_long
from mimotok.corpus.formats import Record, checked_format, read_shard
from mimotok.corpus.ledger import SHARDS, Entry, Settings, read_entries, read_failures, read_settings
from mimotok.corpus.run import settings_of
from mimotok.io.files import StrPath
from mimotok.model.lengths import code_frames
from mimotok.tokenizer import Tokenizer


@dataclass
class Verdict:
    """What a check found.

    Attributes:
        shards: shards that were read.
        clips: clips in them.
        encoded: clips that were encoded again.
        absent: clips of the sample whose sound could not be read.
        problems: one line each.
    """

    shards: int = 0
    clips: int = 0
    encoded: int = 0
    absent: int = 0
    problems: list[str] = field(default_factory=list)


def verify_corpus(out: StrPath, tokenizer: Tokenizer | None = None, *, sample: int = 20, seed: int = 0) -> Verdict:
    """Read every shard of a folder again, and encode a random sample of the clips whose sound can still be read.

    The check covers the files' SHA-256, counts, keys, shapes and ranges. No clip may occur twice, or be both encoded
    and listed as failed.

    Args:
        out: folder that `tokenize_corpus` wrote.
        tokenizer: the model of the tokens; None encodes nothing.
        sample: clips to encode again.
        seed: of the draw.

    Returns:
        The counts and the problems found.

    Raises:
        ValueError: where `out` holds no tokens, or those of other weights than the tokenizer's.

    Example:
        >>> verdict = verify_corpus("tokens/", sample=5)  # doctest: +SKIP
        >>> verdict.problems  # doctest: +SKIP
        []
    """
    settings = read_settings(out)
    checked_format(settings.format)
    _check_model(out, settings, tokenizer)
    folder = Path(out, SHARDS)
    verdict = Verdict()
    entries = read_entries(out)
    known = {name for entry in entries for name in entry.files}
    strays: list[str] = []
    if folder.is_dir():
        strays = sorted(path.name for path in folder.iterdir() if path.name not in known)
    # a run that was killed, or that is still at work: the next run removes them
    verdict.problems += [f"{folder / name}: not in the ledger; run tokenize again" for name in strays]
    wanted: set[int] = set()
    if tokenizer is not None:
        wanted = _drawn(sum(len(entry.keys) for entry in entries), sample, seed)
    for entry in entries:
        records = _check_shard(folder, entry, settings, verdict)
        for i, record in enumerate(records):
            if tokenizer is not None and verdict.clips + i in wanted:
                _check_codes(tokenizer, record, verdict)
        verdict.shards += 1
        verdict.clips += len(entry.keys)
    verdict.problems += _check_keys(out, entries)
    return verdict


def _check_model(out: StrPath, settings: Settings, tokenizer: Tokenizer | None) -> None:
    if tokenizer is None:
        return
    # first the weights: another model may not even have as many codebooks
    if tokenizer.weights_sha256 == settings.sha256:
        problem = settings.differences(settings_of(tokenizer, settings.n_q, settings.format))
    else:
        problem = f"sha256 {settings.sha256}, not {tokenizer.weights_sha256}"
    if problem:
        raise ValueError(f"{out}: holds tokens of {problem}; give the model that made them (--model)")


def _drawn(count: int, sample: int, seed: int) -> set[int]:
    return set(np.random.default_rng(seed).permutation(count)[:sample].tolist())


def _check_shard(folder: Path, entry: Entry, settings: Settings, verdict: Verdict) -> list[Record]:
    """Return the shard's records, or none where something is wrong with its files."""
    problems = list(_file_problems(folder, entry))
    if problems:
        verdict.problems += problems
        return []
    try:
        records = read_shard(folder, entry.files, settings.format)
    except ValueError as error:
        verdict.problems.append(str(error))
        return []
    name = next(iter(entry.files))
    if [record.key for record in records] != entry.keys:
        verdict.problems.append(f"{folder / name}: {len(records)} clips, not the {len(entry.keys)} of the ledger")
    if sum(record.codes.shape[1] for record in records) != entry.frames:
        verdict.problems.append(f"{folder / name}: not {entry.frames} frames, as the ledger has it")
    for record in records:
        if problem := _record_problem(record, settings):
            verdict.problems.append(f"{folder / name}: {record.key}: {problem}")
    return records


def _file_problems(folder: Path, entry: Entry) -> Iterator[str]:
    for name, sha256 in entry.files.items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            yield f"{folder / name}: cannot be read ({error.strerror})"
            continue
        if hashlib.sha256(data).hexdigest() != sha256:
            yield f"{folder / name}: its SHA-256 is not the ledger's; restore it, or remove its line and run again"


def _record_problem(record: Record, settings: Settings) -> str | None:
    codes = record.codes
    sizes = np.array(settings.codebook_sizes)
    if codes.dtype != np.uint16 or codes.ndim != 2 or len(codes) != settings.n_q:
        return f"codes {codes.dtype} {list(codes.shape)}, expected uint16 [{settings.n_q}, F]"
    frame_size = round(settings.sample_rate / settings.frame_rate)
    # four mel frames a code frame in the released model; other models differ, so only what all have in common
    most = code_frames(record.num_samples, 1, frame_size)
    if not most - 1 <= codes.shape[1] <= most + 1:
        return f"{codes.shape[1]} frames, but {record.num_samples} samples"
    if (codes >= sizes[:, None]).any():
        return "codes beyond their codebooks"
    return None


def _check_codes(tokenizer: Tokenizer, record: Record, verdict: Verdict) -> None:
    """Encode a record's sound again, and compare.

    In float32 a clip's codes do not depend on its batch. In half precision some do, so that only their number counts.
    """
    clip = Item(record.key, 0.0, record.audio, record.metadata)
    try:
        again = encode_long(tokenizer, len(record.codes), clip)
    except Exception:  # moved, removed, unmounted, no longer permitted
        verdict.absent += 1
        return
    verdict.encoded += 1
    exact = tokenizer.dtype == torch.float32
    same = again.codes.shape == record.codes.shape
    if exact:
        same = np.array_equal(again.codes, record.codes)
    if not same:
        verdict.problems.append(f"{record.key}: {clip.place} gives other codes now")


def _check_keys(out: StrPath, entries: list[Entry]) -> list[str]:
    counts = Counter(key for entry in entries for key in entry.keys)
    problems = [f"{key}: occurs {count} times" for key, count in counts.items() if count > 1]
    return problems + [f"{f.key}: encoded, and listed as failed" for f in read_failures(out) if f.key in counts]
