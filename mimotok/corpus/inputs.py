"""List the clips of a corpus: folders, JSONL manifests, Lhotse CutSets and WebDataset tars, local or behind fsspec."""

from __future__ import annotations

import io
import json
import math
import os
import posixpath
import tarfile
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from mimotok.corpus.clips import Item
from mimotok.corpus.cuts import is_cut, lhotse
from mimotok.corpus.ledger import Failure
from mimotok.corpus.loading import one_line
from mimotok.corpus.supervisions import said_in
from mimotok.io.audio import AUDIO_SUFFIXES
from mimotok.io.clips import clip_of
from mimotok.io.files import open_regular
from mimotok.io.manifest import MAX_LINE, read_rows
from mimotok.io.remote import file_system, is_remote, open_file, without_scheme
from mimotok.transcode import files_below

# bytes a second of what is not looked into: only batches and the time left depend on them
_BYTES_PER_SECOND = {".wav": 32_000, ".flac": 20_000}
_OTHER_BYTES_PER_SECOND = 6_000
_UNKNOWN_SECONDS = 10.0
_PROBES = 8  # headers read at a time


class Listing(NamedTuple):
    """The clips of a corpus.

    Attributes:
        clips: in order, each key once.
        failed: what could not even be listed.
    """

    clips: list[Item]
    failed: list[Failure]


def read_input(source: str, *, root: str = ".", known: Container[str] = ()) -> Listing:
    """List the clips of `source`, without those whose keys are `known`.

    Args:
        source: a folder or address of sound files (key: path below it) or of WebDataset tars (key: tar and sample), one
            tar, a JSONL manifest (key: id, or else audio; see `mimotok.io.clips`), or a Lhotse CutSet in JSONL (key:
            the cut's id); .gz too.
        root: folder or address of a manifest's relative paths.
        known: keys to leave out.

    Raises:
        ValueError: where the source does not exist, a line is not understood, or two clips have one key.
    """
    listing = _listed(source, root)
    seen: set[str] = set()
    for clip in listing.clips:
        if clip.key in seen:
            raise ValueError(f"{source}: two clips are called {clip.key!r}; give them different ids")
        seen.add(clip.key)
    clips = [clip for clip in listing.clips if clip.key not in known]
    return Listing(_probed(clips), [failure for failure in listing.failed if failure.key not in known])


def _listed(source: str, root: str) -> Listing:
    source = _absolute(source)
    try:
        if source.endswith((".jsonl", ".jsonl.gz", ".json")):
            return Listing(list(_manifest(source, root)), [])
        if source.endswith(".tar"):
            return _tars([(source, posixpath.basename(source))])
        return _folder(source)
    except (OSError, ImportError, EOFError) as error:
        if isinstance(error, ImportError) and "mimotok[" in str(error):
            raise
        raise ValueError(f"{source}: cannot be read ({one_line(error)})") from error


def _absolute(path: str) -> str:
    """Make a path absolute: tokens keep the place of their sound, and may be read from any folder."""
    path = without_scheme(path)
    return path if is_remote(path) else os.path.abspath(path)


def _folder(source: str) -> Listing:
    suffixes = AUDIO_SUFFIXES | {".tar"}
    if is_remote(source):
        sizes = _remote_files(source, suffixes)
    else:
        if not Path(source).is_dir():
            kinds = "a folder, .jsonl, .jsonl.gz or .tar"
            raise ValueError(f"{source}: {'not ' + kinds if Path(source).exists() else 'no such file or folder'}")
        # sizes are not needed here: headers tell the length
        sizes = dict.fromkeys((path.as_posix() for path in files_below(Path(source), suffixes)), 0)
    sounds = [name for name in sizes if not name.endswith(".tar")]
    if not sounds:
        return _tars([(posixpath.join(source, name), name) for name in sizes])
    paths = {name: posixpath.join(source, name) for name in sounds}
    return Listing([Item(name, _estimate(name, sizes[name]), {"path": paths[name]}) for name in sounds], [])


def _remote_files(source: str, suffixes: Container[str]) -> dict[str, int]:
    """Return bytes by path below a remote folder, in order."""
    system, inner = file_system(source)
    inner = inner.rstrip("/")
    found = {
        path[len(inner) :].lstrip("/"): int(status.get("size") or 0)
        for path, status in sorted(system.find(inner, detail=True).items())
        if posixpath.splitext(path)[1].lower() in suffixes
    }
    if not found:
        raise ValueError(f"{source}: no sound files and no tars in it")
    return found


def _estimate(name: str, size: int) -> float:
    """Estimate the seconds of a file of `size` bytes from its name."""
    if not size:
        return _UNKNOWN_SECONDS
    return size / _BYTES_PER_SECOND.get(posixpath.splitext(name)[1].lower(), _OTHER_BYTES_PER_SECOND)


def _probed(clips: list[Item]) -> list[Item]:
    """Give local files of unknown length the length that their header declares."""
    with ThreadPoolExecutor(_PROBES) as pool:
        return list(pool.map(_probe, clips, chunksize=64))


def _probe(clip: Item) -> Item:
    path = clip.audio.get("path", "")
    if clip.seconds != _UNKNOWN_SECONDS or "span" in clip.audio or not path or is_remote(path):
        return clip
    try:
        # a pipe would be waited for
        open_regular(path).close()
        seconds = soundfile.info(path).duration
    except Exception:  # decoding will tell what is wrong with it
        return clip
    return Item(clip.key, seconds, clip.audio, clip.metadata)


def _manifest(source: str, root: str) -> Iterator[Item]:
    count = 0
    for count, row in read_rows(source):
        if is_cut(row):
            if "id" not in row:
                raise ValueError(f"{source}:{count}: a cut needs an `id`")
            yield _cut_clip(row, _absolute(root), posixpath.dirname(source))
            continue
        clip = clip_of(row, _absolute(root), place=f"{source}:{count}")
        seconds = _UNKNOWN_SECONDS if math.isnan(clip.duration) else clip.duration
        yield Item(clip.id, seconds, {"path": _absolute(clip.audio)}, clip.metadata)
    if not count:
        raise ValueError(f"{source}: empty, no clips in it")


def _cut_clip(row: dict[str, Any], root: str, folder: str) -> Item:
    lhotse()
    texts = {name: value for name, value in said_in(row)._asdict().items() if value is not None}
    seconds = float(row.get("duration") or _UNKNOWN_SECONDS)
    return Item(str(row["id"]), seconds, {"cut": row, "root": root, "folder": folder}, texts)


def _tars(tars: Sequence[tuple[str, str]]) -> Listing:
    clips: list[Item] = []
    failed: list[Failure] = []
    for path, name in tars:
        try:
            with open_file(path) as raw:
                for clip in _tar_clips(raw, path, name):
                    clips.append(clip)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            if len(tars) == 1 and not isinstance(error, tarfile.TarError | EOFError):
                raise
            # the samples before the break are good
            failed.append(Failure(name, path, f"{path}: damaged tar ({one_line(error)}); get a whole copy"))
    return Listing(clips, failed)


def _tar_clips(raw: Any, path: str, name: str) -> Iterator[Item]:
    """Yield the samples of a tar: members with one name up to the first dot, namely a sound and its .json and .txt."""
    sounds: dict[str, tuple[str, int, int]] = {}
    metadata: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(fileobj=raw, mode="r:") as tar:
            for member in tar:
                folder, base = posixpath.split(member.name)
                key, _, extension = base.partition(".")
                key = posixpath.join(folder, key)
                suffix = posixpath.splitext(base)[1].lower()
                if suffix in AUDIO_SUFFIXES and member.isfile():
                    sounds[key] = (member.name, member.offset_data, member.size)
                elif extension in ("json", "txt") and (file := tar.extractfile(member)) is not None:
                    metadata.setdefault(key, {}).update(_about(file.read(MAX_LINE), extension))
    finally:
        for key, (member_name, first, size) in sounds.items():
            about = metadata.get(key, {})
            declared = about.get("duration")
            seconds = float(declared) if isinstance(declared, int | float) else _estimate(member_name, size)
            audio = {"path": path, "span": [first, size], "member": member_name}
            yield Item(f"{name}/{key}", seconds, audio, about)


def _about(data: bytes, extension: str) -> dict[str, Any]:
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace").read()
    if extension == "txt":
        return {"text": text.strip()}
    try:
        row = json.loads(text)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
