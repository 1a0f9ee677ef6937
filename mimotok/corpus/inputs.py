"""List the clips of a corpus: folders, JSONL manifests, Lhotse CutSets and WebDataset tars, local or behind fsspec."""

from __future__ import annotations

import io
import json
import math
import os
import posixpath
import tarfile
import zlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import soundfile

from mimotok.corpus.clips import Item, stamp_of
from mimotok.corpus.cuts import is_cut, lhotse
from mimotok.corpus.ledger import Failure
from mimotok.corpus.shar import find_shards, is_shar, packed_cuts
from mimotok.corpus.supervisions import MOST_SECONDS, said_in
from mimotok.identity import digest_of
from mimotok.io.audio import AUDIO_SUFFIXES
from mimotok.io.clips.clip import clip_of
from mimotok.io.clips.encoding import encoding_problem
from mimotok.io.clips.layouts import read_layout
from mimotok.io.clips.places import Places
from mimotok.io.files import open_regular
from mimotok.io.manifest import MAX_LINE, read_rows
from mimotok.io.remote import file_system, is_remote, open_file, without_scheme
from mimotok.io.terminal.streams import error_line
from mimotok.transcode import files_below

# bytes a second of what is not looked into: only batches and the time left depend on them
_BYTES_PER_SECOND = {".wav": 32_000, ".flac": 20_000}
_OTHER_BYTES_PER_SECOND = 6_000
_UNKNOWN_SECONDS = 10.0
_PROBES = 8  # headers read at a time
_STAMPED_BYTES = 1 << 14


class Listing(NamedTuple):
    """The clips of a corpus.

    Attributes:
        clips: in order, each key once.
        failed: what could not even be listed.
        notes: lines on what is not read.
        changed: keys of known clips whose sound was replaced.
    """

    clips: list[Item]
    failed: list[Failure]
    notes: list[str] = []  # noqa: RUF012  (never changed)
    changed: list[str] = []  # noqa: RUF012


def read_input(
    source: str,
    *,
    root: str = ".",
    known: Container[str] = (),
    stamps: Mapping[str, str] = MappingProxyType({}),
    allow_outside: bool = False,
) -> Listing:
    """List the clips of `source`, without those whose keys are `known`.

    Args:
        source: a folder or address of sound files (key: path below it; texts and speakers are read where a local
            folder has the layout of a corpus, see `mimotok.corpus.recordings`) and of tars of WebDataset or Shar (key:
            tar and sample),
            one tar, a JSONL manifest (key: id, or else audio; see `mimotok.io.clips.clip`), or a Lhotse CutSet in JSONL
            (key: the cut's id); .gz too.
        root: folder or address of a manifest's relative paths.
        known: keys to leave out.
        stamps: `stamp_of` known clips when they were read, by key.
        allow_outside: a manifest's files may lie elsewhere than below `root` and the manifest's folder.

    Raises:
        ValueError: where the source does not exist, a line is not understood, or two clips have one key.
    """
    listing = _listed(source, root, allow_outside)
    seen: set[str] = set()
    for clip in listing.clips:
        if clip.key in seen:
            raise ValueError(f"{source}: two clips are called {clip.key!r}; give them different ids")
        seen.add(clip.key)
    if not listing.clips and not listing.failed:
        hint = f" ({'; '.join(listing.notes)})" if listing.notes else ""
        raise ValueError(f"{source}: no sound in it{hint}")
    unwritable = {clip.key: problem for clip in listing.clips if (problem := _problem(clip)) is not None}
    failed = listing.failed + [
        Failure(clip.key, clip.place, unwritable[clip.key]) for clip in listing.clips if clip.key in unwritable
    ]
    clips = [clip for clip in listing.clips if clip.key not in known and clip.key not in unwritable]
    with ThreadPoolExecutor(_PROBES) as pool:
        changed = pool.map(partial(_changed, stamps), listing.clips, chunksize=64)
        return Listing(
            list(pool.map(_looked_at, clips, chunksize=64)),
            [failure for failure in failed if failure.key not in known],
            listing.notes,
            [clip.key for clip, another in zip(listing.clips, changed, strict=True) if another],
        )


def _problem(clip: Item) -> str | None:
    """Return why a clip cannot be kept in any shard, or None: that must not stop the others."""
    if "\0" in clip.key or "\0" in str(clip.audio.get("path", "")):
        return "a name with a NUL character"
    return encoding_problem([clip.key, clip.audio, clip.metadata])


def _changed(stamps: Mapping[str, str], clip: Item) -> bool:
    then = stamps.get(clip.key)
    if not then:
        return False
    now = stamp_of(clip)
    # what is not there any more was there then
    return bool(now) and now != then


def _listed(source: str, root: str, allow_outside: bool) -> Listing:
    source = _absolute(source)
    try:
        if source.endswith((".jsonl", ".jsonl.gz", ".json")):
            return Listing(list(_manifest(source, root, allow_outside)), [])
        if source.endswith(".tar"):
            return _tars([(source, posixpath.basename(source))])
        return _folder(source)
    except (OSError, ImportError, EOFError) as error:
        if isinstance(error, ImportError) and "mimotok[" in str(error):
            raise
        raise ValueError(f"{source}: cannot be read ({error_line(error)})") from error


def _absolute(path: str) -> str:
    """Make a path absolute: tokens keep the place of their sound, and may be read from any folder."""
    path = without_scheme(path)
    return path if is_remote(path) else os.path.abspath(path)


def _folder(source: str) -> Listing:
    suffixes = AUDIO_SUFFIXES | {".tar"}
    notes: list[str] = []
    if is_remote(source):
        sizes = _remote_files(source, suffixes, notes)
    else:
        if not Path(source).is_dir():
            if not Path(source).exists():
                raise ValueError(f"{source}: no such file or folder")
            raise ValueError(f"{source}: not a folder, .jsonl, .jsonl.gz or .tar")
        # sizes are not needed here: headers tell the length
        found = files_below(Path(source), suffixes, notify=notes.append)
        sizes = dict.fromkeys((path.as_posix() for path in found), 0)
    tars = {name: None for name in sizes if name.lower().endswith(".tar")}
    paths = {name: posixpath.join(source, name) for name in sizes}
    files = {name: size for name, size in sizes.items() if name not in tars}
    sounds = [Item(name, _estimate(name, size), {"path": paths[name]}) for name, size in files.items()]
    inside = _tars([(paths[name], name) for name in tars])
    listed = _ListedTexts({}) if is_remote(source) else _read_listed_texts(Path(source))
    sounds = [_with_text(clip, listed) for clip in sounds]
    inside = inside._replace(clips=[_with_text(clip, listed) for clip in inside.clips])
    if listed.problem:
        notes.append(f"{source}: its texts are not read: {listed.problem}")
    elif listed.texts:
        notes = [f"{source}: texts and speakers of {len(listed.texts)} recordings are read from its lists"]
    if sounds and tars:
        notes.append(f"{source}: {len(sounds)} sound files and {len(tars)} tars, both of which are read")
    return Listing(sounds + inside.clips, inside.failed, notes + inside.notes)


class _ListedTexts(NamedTuple):
    """Texts of a folder's sounds, by path and first byte, out of its lists; and why these cannot be read, or ""."""

    texts: dict[tuple[str, int], dict[str, str]]
    problem: str = ""


def _read_listed_texts(folder: Path) -> _ListedTexts:
    """Read texts, speakers and languages out of the lists of a corpus in one of the known layouts, or of Shar."""
    try:
        if is_shar(folder):
            return _ListedTexts(dict(_shar_texts(str(folder))))
        clips = read_layout(folder, Places(str(folder))) or []
    except (ValueError, OSError, ImportError, tarfile.TarError, EOFError, StopIteration) as error:
        return _ListedTexts({}, error_line(error))
    texts = {
        (clip.audio, 0): _known(text=clip.text, speaker=clip.speaker, language=clip.language, split=clip.split or None)
        for clip in clips
        if clip.problem is None
    }
    return _ListedTexts({place: text for place, text in texts.items() if text})


def _shar_texts(folder: str) -> Iterator[tuple[tuple[str, int], dict[str, str]]]:
    for shard in find_shards(folder):
        for cut, packed in packed_cuts(shard):
            yield (packed.path, packed.start), _known(**said_in(cut.to_dict())._asdict())


def _known(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _with_text(clip: Item, listed: _ListedTexts) -> Item:
    place = (os.path.abspath(clip.audio["path"]), clip.audio.get("span", [0])[0])
    return replace(clip, metadata=clip.metadata | listed.texts.get(place, {}))


def _remote_files(source: str, suffixes: Container[str], notes: list[str]) -> dict[str, int]:
    """Find the bytes by path below a remote folder, in order; other files there give a line of `notes`."""
    system, inner = file_system(source)
    inner = inner.rstrip("/")
    found = {}
    others: Counter[str] = Counter()
    for path, status in sorted(system.find(inner, detail=True).items()):
        suffix = posixpath.splitext(path)[1].lower()
        if suffix in suffixes:
            found[path[len(inner) :].lstrip("/")] = int(status.get("size") or 0)
        else:
            others[suffix] += 1
    left_out = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.most_common())
    if not found:
        raise ValueError(f"{source}: no sound files and no tars in it{f'; it holds {left_out}' if left_out else ''}")
    if left_out:
        notes.append(f"{source}: not read: {left_out}")
    return found


def _estimate(name: str, size: int) -> float:
    """Estimate the seconds of a file of `size` bytes from its name."""
    if not size:
        return _UNKNOWN_SECONDS
    return size / _BYTES_PER_SECOND.get(posixpath.splitext(name)[1].lower(), _OTHER_BYTES_PER_SECOND)


def _looked_at(clip: Item) -> Item:
    """Return the clip with its stamp, and with the length in its header where none was given."""
    return replace(_probe(clip), stamp=stamp_of(clip))


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
    return replace(clip, seconds=seconds)


def _manifest(source: str, root: str, allow_outside: bool) -> Iterator[Item]:
    folder = posixpath.dirname(source)
    places = Places(_absolute(root), folder, allow_outside=allow_outside)
    count = 0
    for count, row in read_rows(source):
        place = f"{source}:{count}"
        if is_cut(row):
            if row.get("id") is None:
                raise ValueError(f"{place}: a cut needs an `id`")
            yield _cut_clip(row, places.root, folder, allow_outside)
            continue
        clip = clip_of(row, places, place=place)
        seconds = _UNKNOWN_SECONDS if math.isnan(clip.duration) else clip.duration
        yield Item(clip.id, seconds, {"path": clip.audio}, clip.metadata)
    if not count:
        raise ValueError(f"{source}: empty, no clips in it")


def _cut_clip(row: dict[str, Any], root: str, folder: str, allow_outside: bool) -> Item:
    lhotse()
    texts = {name: value for name, value in said_in(row)._asdict().items() if value is not None}
    duration = row.get("duration")
    # JSON has whole numbers that no float holds
    seconds = float(duration) if isinstance(duration, int | float) and 0 < duration < MOST_SECONDS else _UNKNOWN_SECONDS
    audio = {"cut": row, "root": root, "folder": folder, **({"outside": True} if allow_outside else {})}
    return Item(str(row["id"]), seconds, audio, texts)


def _tars(tars: Sequence[tuple[str, str]]) -> Listing:
    clips: list[Item] = []
    failed: list[Failure] = []
    others: Counter[str] = Counter()
    empty = 0
    for path, name in tars:
        before = len(clips)
        try:
            with open_file(path) as raw:
                for clip in _tar_clips(raw, path, name, others):
                    clips.append(clip)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            if len(tars) == 1 and not isinstance(error, tarfile.TarError | EOFError):
                raise
            # the samples before the break are good
            failed.append(Failure(name, path, f"{path}: damaged tar ({error_line(error)}); get a whole copy"))
        else:
            empty += len(clips) == before
    left_out = [f"{count} {what}" for what, count in others.most_common()]
    notes = [f"in tars, not read: {', '.join(left_out)}"] if left_out else []
    if empty:
        notes.append(f"{empty} of {len(tars)} tars hold no sound")
    return Listing(clips, failed, notes)


class _Member(NamedTuple):
    """A sound in a tar. sample, stem: its name up to the first and to the last dot of its base."""

    name: str
    sample: str
    stem: str
    first: int
    size: int
    stamp: str


def _tar_clips(raw: Any, path: str, name: str, others: Counter[str]) -> Iterator[Item]:
    """List the samples of a tar: members with one name up to the first dot, one of them sound, .json and .txt about it.

    Several sounds that share a name so far are a sample each, under their whole names; what is said of one of them has
    its name up to the last dot, what is said of all the name that they share. others: counts what is not read.
    """
    sounds: list[_Member] = []
    metadata: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(fileobj=raw, mode="r:") as tar:
            for member in tar:
                folder, base = posixpath.split(member.name)
                stem, suffix = posixpath.splitext(base)
                # a hidden file's first dot begins its name
                sample = posixpath.join(folder, base[:1] + base[1:].partition(".")[0])
                stem = posixpath.join(folder, stem)
                if not member.isfile():
                    others["links and devices"] += not member.isdir()
                elif suffix.lower() in AUDIO_SUFFIXES:
                    stamp = _member_stamp(tar, member, path)
                    sounds.append(_Member(member.name, sample, stem, member.offset_data, member.size, stamp))
                elif suffix in (".json", ".txt") and (file := tar.extractfile(member)) is not None:
                    metadata.setdefault(stem, {}).update(_about(file.read(MAX_LINE), suffix[1:]))
                else:
                    others[suffix or "without a suffix"] += 1
    finally:
        yield from _named(sounds, metadata, path, name)


def _named(sounds: list[_Member], metadata: dict[str, dict[str, Any]], path: str, tar_name: str) -> Iterator[Item]:
    in_sample = Counter(sound.sample for sound in sounds)
    uses: Counter[str] = Counter()
    for sound in sounds:
        alone = in_sample[sound.sample] == 1
        key = sound.sample if alone else sound.name
        uses[key] += 1
        if uses[key] > 1:
            # a tar may hold several members of one name, as after `tar --append`
            key = f"{key}#{uses[key]}"
        about = metadata.get(sound.sample, {}) | metadata.get(sound.stem, {})
        duration = about.get("duration")
        seconds = _estimate(sound.name, sound.size)
        if isinstance(duration, int | float) and 0 <= duration < float("inf"):
            seconds = float(duration)
        audio = {"path": path, "span": [sound.first, sound.size], "member": sound.name}
        yield Item(f"{tar_name}/{key}", seconds, audio, about, sound.stamp)


def _member_stamp(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> str:
    """Make a stamp of the header and, where that costs nothing, the first bytes: tars often lack times."""
    file = None if is_remote(path) or member.issparse() else tar.extractfile(member)
    start = b"" if file is None else file.read(_STAMPED_BYTES)
    return digest_of([member.name, member.size, member.mtime, zlib.crc32(start)])


def _about(data: bytes, extension: str) -> dict[str, Any]:
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace").read()
    if extension == "txt":
        return {"text": text.strip()}
    try:
        row = json.loads(text)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
