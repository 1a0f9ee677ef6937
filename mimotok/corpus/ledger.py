"""A folder of shards, and the ledger of those that count.

    OUT/corpus.json    the `Settings` of the tokens
    OUT/ledger.jsonl   one line a finished shard: files with SHA-256, keys, frames, seconds
    OUT/failed.jsonl   one line a clip that could not be read: key, audio, reason
    OUT/shards/        the shards

A shard counts once its line is in the ledger, which is written after the shard's files have their names. Files that
the ledger does not name are leftovers of a run that was killed; the next run removes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mimotok.corpus.formats import Record, checked_format
from mimotok.io.files import StrPath, atomic_path, is_temporary, open_regular, writing

FORMAT_VERSION = 1
SETTINGS = "corpus.json"
LEDGER = "ledger.jsonl"
FAILED = "failed.jsonl"
SHARDS = "shards"
LOCK = ".lock"

Row = TypeVar("Row")


@dataclass(frozen=True)
class Settings:
    """The model and settings of tokens; a folder holds those of one `Settings` only.

    Attributes:
        model: name of the weights.
        sha256: SHA-256 of the weights' file.
        dtype: of the weights.
        sample_rate: Hz.
        frame_rate: Hz.
        n_q: codebooks.
        codebook_sizes: of the n_q codebooks.
        format: of the shards.
        format_version: of the folder.
    """

    model: str
    sha256: str
    dtype: str
    sample_rate: int
    frame_rate: float
    n_q: int
    codebook_sizes: tuple[int, ...]
    format: str
    format_version: int = FORMAT_VERSION

    def differences(self, other: Settings) -> str:
        """Return the fields in which `other` differs, with both values; the model's name does not count."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)]
        return ", ".join(f"{name} {a}, not {b}" for name, a, b in pairs if a != b and name != "model")


class Failure(NamedTuple):
    """A clip that could not be read."""

    key: str
    audio: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """A finished shard.

    Attributes:
        number: of the shard.
        files: SHA-256 by name.
        keys: of its clips, in order.
        frames: of all clips.
        seconds: of sound.
        stamps: of the sounds that the clips were made of, in the keys' order, as `Item.stamp`; none where an earlier
            version wrote the entry.
        clip_frames: of each clip, in the keys' order; none where an earlier version wrote the entry.
    """

    number: int
    files: dict[str, str]
    keys: list[str]
    frames: int
    seconds: float
    stamps: list[str] = field(default_factory=list)
    clip_frames: list[int] = field(default_factory=list)


def read_settings(out: StrPath) -> Settings:
    """Read the settings of the tokens in a folder. Raises ValueError where it is no folder of tokens."""
    path = Path(out, SETTINGS)
    try:
        with open_regular(path) as file:
            data = file.read()
    except ValueError as error:
        raise ValueError(f"{out}: no folder of tokens ({error})") from None
    try:
        row = json.loads(data)
        return Settings(**row | {"codebook_sizes": tuple(row["codebook_sizes"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: not understood ({error}); made by another version of mimotok?") from None


def read_entries(out: StrPath) -> list[Entry]:
    """List the finished shards of a folder, in the order in which they were finished."""
    path = Path(out, LEDGER)
    entries = list(_rows(path, _entry))
    for name in (name for entry in entries for name in entry.files):
        # a stranger's ledger must not make us read files elsewhere
        if name in ("", ".", "..") or Path(name).name != name:
            raise ValueError(f"{path}: {name!r} is not the name of a shard's file")
    return entries


def read_failures(out: StrPath) -> list[Failure]:
    """List the clips that could not be read."""
    return list(_rows(Path(out, FAILED), lambda row: Failure(**row)))


def _entry(row: dict[str, Any]) -> Entry:
    """Raises ValueError or TypeError where the row is no entry."""
    entry = Entry(**row)
    lists = (entry.keys, entry.stamps, entry.clip_frames)
    numbers = isinstance(entry.number, int) and isinstance(entry.frames, int) and isinstance(entry.seconds, int | float)
    if not (
        numbers and isinstance(entry.files, dict) and entry.files and all(isinstance(part, list) for part in lists)
    ):
        raise ValueError("a field of another type")
    return entry


def _rows(path: Path, made: Callable[[dict[str, Any]], Row]) -> Iterator[Row]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            # what a killed run left half written was never promised to anyone
            if not line.endswith(b"\n"):
                return
            try:
                row = made(json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise ValueError(
                    f"{path}:{number}: damaged, or of another version of mimotok; restore it, or start a new folder"
                ) from None
            yield row


def write_shard(out: Path, number: int, records: Sequence[Record], settings: Settings) -> Entry:
    """Write shard `number`, each file whole or not at all; the caller puts the entry in the ledger.

    Raises ValueError where it cannot be written.
    """
    files = checked_format(settings.format).files(f"{number:06d}", records, settings.frame_rate)
    for name, data in files.items():
        path = out / SHARDS / name
        with atomic_path(path) as temporary, writing(path), temporary.open("wb") as file:
            file.write(data)
            _to_disk(file.fileno())
    return Entry(
        number=number,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        keys=[record.key for record in records],
        frames=sum(record.codes.shape[1] for record in records),
        seconds=round(sum(record.num_samples for record in records) / settings.sample_rate, 3),
        clip_frames=[record.codes.shape[1] for record in records],
    )


def _to_disk(descriptor: int) -> None:
    # the ledger must not survive a power cut that the shard does not
    os.fsync(descriptor)


class Ledger:
    """The open ledger of a folder, from `open_ledger`."""

    def __init__(self, out: Path, settings: Settings) -> None:
        self.out = out
        self.settings = settings
        entries = read_entries(out)
        failures = read_failures(out)
        self.done = {key for entry in entries for key in entry.keys}
        self.stamps = {key: stamp for entry in entries for key, stamp in zip(entry.keys, entry.stamps, strict=False)}
        self.failed = {failure.key for failure in failures} - self.done
        self.next_number = max((entry.number for entry in entries), default=-1) + 1
        known = {name for entry in entries for name in entry.files}
        for path in (out / SHARDS).iterdir():
            if path.name not in known:
                path.unlink()
        for path in filter(is_temporary, out.iterdir()):
            path.unlink()

    def add(self, entry: Entry | None, failures: Iterable[Failure]) -> None:
        """Note a finished shard, if it has clips, and the clips that failed. Raises ValueError on a full disk."""
        failures = [failure for failure in failures if failure.key not in self.failed]
        if failures:
            _append(self.out / FAILED, [failure._asdict() for failure in failures])
            self.failed |= {failure.key for failure in failures}
        if entry is not None:
            _append(self.out / LEDGER, [asdict(entry)])
            self.done |= set(entry.keys)


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with writing(path), path.open("ab") as file:
        file.write(b"".join(_line(row) for row in rows))
        file.flush()
        _to_disk(file.fileno())


def _line(row: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # names that are not UTF-8 come back as they were only if they are escaped
        text = json.dumps(row).encode()
    return text + b"\n"


def _mend(path: Path) -> None:
    """Cut off a last line that was not finished."""
    if path.exists():
        with writing(path), path.open("rb+") as file:
            whole = file.read()
            file.truncate(whole.rfind(b"\n") + 1)


def _require_ledger(out: Path) -> None:
    """Begin the ledger of a new folder. Raises ValueError where shards lost theirs: they would count as leftovers."""
    ledger = out / LEDGER
    if ledger.exists():
        return
    if any((out / SHARDS).iterdir()):
        raise ValueError(
            f"{ledger}: no such file, but {SHARDS}/ has shards; restore it, or remove {SHARDS}/ to start anew"
        )
    with writing(ledger):
        ledger.touch()


@contextmanager
def open_ledger(out: StrPath, settings: Settings) -> Iterator[Ledger]:
    """Open the ledger of `out`, which is created where it is missing; one process at a time.

    Raises:
        ValueError: where the folder holds something else, tokens of other settings or shards without a ledger, or
            another run is at work.
    """
    out = Path(out)
    if out.is_dir() and not (out / SETTINGS).exists():
        # a run may have been killed before its settings were written
        strangers = [path.name for path in out.iterdir() if path.name not in (SHARDS, LOCK) and not is_temporary(path)]
        if strangers:
            raise ValueError(f"{out}: holds {strangers[0]}, but no {SETTINGS}: not tokens of ours; name a new folder")
    with writing(out):
        (out / SHARDS).mkdir(parents=True, exist_ok=True)
    with _locked(out / LOCK):
        # a run that ended before its first shard, as one with a mistyped source does, has settled nothing
        if (out / SETTINGS).exists() and _is_begun(out):
            if differences := read_settings(out).differences(settings):
                raise ValueError(f"{out}: holds tokens of {differences}; name a new folder")
        else:
            with atomic_path(out / SETTINGS) as temporary, writing(out / SETTINGS):
                temporary.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
        _require_ledger(out)
        _mend(out / LEDGER)
        _mend(out / FAILED)
        yield Ledger(out, settings)


def _is_begun(out: Path) -> bool:
    """Return whether any clip of the folder's settings is done, or was tried."""
    lists = (out / LEDGER, out / FAILED)
    return any(path.is_file() and path.stat().st_size for path in lists) or any((out / SHARDS).iterdir())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time run the body; the lock goes with the process, however it ends.

    Raises ValueError where another process holds the lock.
    """
    # not the package filelock: its flock is inherited by forked decoding workers, so that after a kill of this process
    # the next run would be refused until the last of them has noticed
    import fcntl

    with writing(path), path.open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ValueError(f"{path.parent}: another run is at work in it; wait for it, or end it") from None
        yield
