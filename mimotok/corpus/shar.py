"""Lhotse Shar folders: cuts in JSONL beside tars with their sound, read shard by shard."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mimotok.corpus.cuts import with_memory
from mimotok.io.files import open_regular
from mimotok.io.manifest import read_rows
from mimotok.io.terminal import excerpt


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


def shar_cuts(shard: Shard) -> Iterator[Any]:
    """Yield a shard's cuts that have audio, with it. Raises ValueError where cuts and recordings do not match."""
    recordings = _recordings(shard.recording)

    def with_audio(row: dict[str, Any]) -> Any:
        name, recording, data = next(recordings)
        if name != str(row.get("id")):
            raise ValueError(f"cut {excerpt(row.get('id'))}: the recording at its place in {shard.recording} is {name}")
        return None if recording is None else with_memory(row, recording, data, shard.folder)

    yield from (cut for cut in read_cuts(shard.cuts, with_audio) if cut is not None)


def _recordings(path: str) -> Iterator[tuple[str, dict[str, Any] | None, bytes]]:
    """Yield names, metadata (None where a cut has no recording) and encoded sounds, which lie in pairs in the tar."""
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        members = iter(tar)
        for first in members:
            second = next(members, None)
            if second is None:
                raise ValueError(f"{path}: {first.name} has no metadata behind it")
            name = str(Path(first.name).with_suffix(""))
            data, about = (_content(tar, member, path) for member in (first, second))
            if second.name.endswith(".nometa"):
                yield name, None, b""
                continue
            recording = json.loads(about)
            if not isinstance(recording, dict):
                raise ValueError(f"{path}: {second.name} is not a recording")
            yield name, recording, data


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bytes:
    # a sparse one is as large as it says, whatever the file's size
    if not member.isreg() or member.issparse():
        raise ValueError(f"{path}: {member.name} is not a regular file")
    file = tar.extractfile(member)
    return b"" if file is None else file.read()
