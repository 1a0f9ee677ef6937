"""Lhotse Shar folders: cuts in JSONL beside tars with their sound, read shard by shard."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mimotok.corpus.cuts import shar_cut, with_sound
from mimotok.io.clips.clip import Packed
from mimotok.io.files import open_regular
from mimotok.io.manifest import read_rows
from mimotok.io.terminal.streams import excerpt


class Shard(NamedTuple):
    """One `cuts` file, the `recording` file with its audio, and the source's name, which is the folder's."""

    cuts: str
    recording: str
    source: str

    @property
    def folder(self) -> str:
        """The folder of both files."""
        return str(Path(self.cuts).parent)


def is_shar(path: str | Path) -> bool:
    """Return whether a path is a Shar folder, which has files named cuts.NUMBER.jsonl or .jsonl.gz."""
    folder = Path(path)
    return folder.is_dir() and any(folder.glob("cuts.*.jsonl*"))


def find_shards(folders: str | list[str]) -> list[Shard]:
    """List all shards of Shar folders, by name. Raises ValueError where cuts and recordings do not pair."""
    shards: list[Shard] = []
    if isinstance(folders, str):
        folders = [folders]
    for folder in folders:
        cuts, recordings = (sorted(map(str, Path(folder).glob(f"{field}.*"))) for field in ("cuts", "recording"))
        if not cuts or len(cuts) != len(recordings):
            found = f"{len(cuts)} cuts files and {len(recordings)} recording files"
            raise ValueError(f"{folder}: {found}; a Shar folder has as many (`lhotse shar export --audio flac`)")
        shards += [Shard(*pair, Path(folder).name) for pair in zip(cuts, recordings, strict=True)]
    return shards


def read_cuts(path: str, make: Callable[[dict[str, Any]], Any]) -> Iterator[Any]:
    """Apply `make` to each line of a CutSet. Its ValueError is raised with the file and the line number before it."""
    for number, row in read_rows(path):
        try:
            yield make(row)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None


class PackedCut(NamedTuple):
    """A cut without its sound, and where in the tar that is."""

    cut: Any
    packed: Packed


def packed_cuts(shard: Shard) -> Iterator[PackedCut]:
    """Yield a shard's cuts that have audio, without it. Raises ValueError where cuts and recordings do not match."""
    recordings = _recordings(shard.recording)

    def with_place(row: dict[str, Any]) -> PackedCut | None:
        found = next(recordings)
        if found.name != str(row.get("id")):
            mismatch = f"the recording at its place in {shard.recording} is {found.name}"
            raise ValueError(f"cut {excerpt(row.get('id'))}: {mismatch}")
        if found.about is None:
            return None
        return PackedCut(shar_cut(row, found.about, shard.folder), found.packed)

    yield from (cut for cut in read_cuts(shard.cuts, with_place) if cut is not None)


def shar_cuts(shard: Shard) -> Iterator[Any]:
    """Yield a shard's cuts that have audio, with it. Raises ValueError where cuts and recordings do not match."""
    with open_regular(shard.recording) as file:
        for cut, packed in packed_cuts(shard):
            yield with_sound(cut, _bytes(file, packed))


def read_packed(packed: Packed) -> bytes:
    """Read the encoded sound of one cut. Raises ValueError where the tar is damaged or has gone."""
    with open_regular(packed.path) as file:
        return _bytes(file, packed)


def _bytes(file: BinaryIO, packed: Packed) -> bytes:
    file.seek(packed.start)
    data = file.read(packed.size)
    if len(data) < packed.size:
        raise ValueError(f"{packed.path}: ends within a recording; get a whole copy")
    return data


class _Recording(NamedTuple):
    """What a tar tells of a recording; `about` is None where a cut has none."""

    name: str
    about: dict[str, Any] | None
    packed: Packed


def _recordings(path: str) -> Iterator[_Recording]:
    """Yield the recordings of a tar, each of which is a pair of files in it: sound and metadata."""
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        members = iter(tar)
        for first in members:
            second = next(members, None)
            if second is None:
                raise ValueError(f"{path}: {first.name} has no metadata behind it")
            name = str(Path(first.name).with_suffix(""))
            for member in (first, second):
                # a sparse one is as large as it says, whatever the file's size
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{path}: {member.name} is not a regular file")
            packed = Packed(path, first.offset_data, first.size)
            if second.name.endswith(".nometa"):
                yield _Recording(name, None, packed)
                continue
            about = tar.extractfile(second)
            recording = None if about is None else json.loads(about.read())
            if not isinstance(recording, dict):
                raise ValueError(f"{path}: {second.name} is not a recording")
            yield _Recording(name, recording, packed)
