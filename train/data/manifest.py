"""The clips of a training corpus, from all that `mimotok.corpus.recordings` reads, and their samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from mimotok.corpus.cuts import files_in
from mimotok.corpus.recordings import read_cut, read_recordings, with_durations
from mimotok.io.audio import load_audio
from mimotok.io.clips.alignments import read_alignments
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.encoding import escaped
from mimotok.io.remote import is_remote
from mimotok.io.terminal.streams import excerpt

WAV_HEADER = 44  # bytes: a canonical RIFF header, as the standard library's `wave` writes it
_MOST_TRIED = 10_000  # files, before a root is called wrong
SILENCE = 1e-3  # peak, -60 dBFS: below it a whole clip holds no speech


class BadClipError(Exception):
    """A clip that cannot be trained on; the message says why in a few words."""


@cache
def _samples(path: str) -> np.memmap:
    return np.memmap(path, dtype="<i2", mode="r", offset=WAV_HEADER)


def decode(clip: Clip) -> tuple[np.ndarray, int]:
    """Decode a whole clip.

    Returns:
        float32 [T], mono, and the clip's own rate in Hz.

    Raises:
        BadClipError: for a missing, unreadable, empty or silent file, and for a clip with a problem.
    """
    if clip.problem is not None:
        raise BadClipError(clip.problem)
    if (clip.audio or clip.cut is None) and not Path(clip.audio).is_file():
        # of a pipe nothing may ever come
        if Path(clip.audio).exists():
            raise BadClipError("not a regular file")
        raise BadClipError("missing")
    try:
        wav, rate = _audio(clip)
    except Exception as error:  # every backend has its own errors, and none may stop a run
        raise BadClipError(f"corrupt: {type(error).__name__}: {excerpt(error)}") from error
    if not len(wav):
        raise BadClipError("empty")
    if not np.abs(wav).max() >= SILENCE:  # `not >=`: a NaN peak is as useless as silence
        raise BadClipError("silent")
    return wav, rate


def _audio(clip: Clip) -> tuple[np.ndarray, int]:
    if clip.cut is not None:
        return read_cut(clip), clip.cut.sampling_rate
    rate = sf.info(clip.audio).samplerate
    return load_audio(clip.audio, rate)[0].numpy(), rate


def read(clip: Clip, start: float = 0.0, seconds: float = 1e6) -> tuple[np.ndarray, int]:
    """Read a part of a clip.

    Args:
        clip: the clip.
        start: second where the part begins.
        seconds: its length; it is shorter at the clip's end.

    Returns:
        float32 [T], and the rate in Hz.

    Raises:
        BadClipError: as `decode`.
    """
    if clip.pcm is None:
        wav, rate = decode(clip)
        first = round(start * rate)
        return wav[first : first + round(seconds * rate)], rate
    rate = clip.pcm.rate
    frames = clip.pcm.frames
    first = min(round(start * rate), frames)
    count = min(round(seconds * rate), frames - first)
    begin = clip.pcm.start + first
    try:
        part = _samples(clip.pcm.path)[begin : begin + count]
    except (OSError, ValueError) as error:
        raise BadClipError(f"corrupt: {clip.pcm.path}: {error}") from error
    if len(part) < count:
        raise BadClipError(f"corrupt: {clip.pcm.path} is truncated")
    return part.astype(np.float32) / 32768, rate


def read_manifest(paths: str | Iterable[str], root: str = ".", *, allow_outside: bool = False) -> list[Clip]:
    """Read the clips of one or several corpora, in order.

    Args:
        paths: folders and lists, see `mimotok.corpus.recordings.read_recordings`. A clip without `source` gets the
            file's or folder's name, one without `split` is for training, and durations that are not given are read from
            the headers of the files.
        root: folder of relative audio paths of manifests.
        allow_outside: audio may lie elsewhere than below `root` or the manifest's folder.

    Raises:
        ValueError: for a file that cannot be read, a line that is not understood, and a source without recordings.
    """
    clips: list[Clip] = []
    if isinstance(paths, str):
        paths = [paths]
    for path in paths:
        source = _source_of(Path(path).absolute())
        clips += [for_training(clip, source) for clip in read_recordings(path, root, allow_outside=allow_outside)]
    return with_durations(clips)


def _source_of(path: Path) -> str:
    """Return a folder's name, or a file's without its suffixes."""
    return path.name if path.is_dir() else path.name.split(".")[0]


def manifest_row(clip: Clip) -> dict[str, Any]:
    """Return the line of a manifest for a clip, with absolute paths: a cut, or the fields of a JSONL manifest."""
    if clip.cut is not None:
        row: dict[str, Any] = clip.cut.to_dict()
        # as in a manifest's line: the split is that of the run which the clip was read for
        return row | {"custom": {name: value for name, value in (row.get("custom") or {}).items() if name != "split"}}
    row = {
        "audio": os.path.abspath(clip.audio),
        "id": clip.id,
        "duration": clip.duration,
        "text": clip.text,
        "text_source": clip.text_source,
        "language": clip.language,
        "speaker": clip.speaker,
        "source": clip.source,
    }
    return {name: value for name, value in row.items() if value is not None}


def check_root(clips: Sequence[Clip], root: str) -> None:
    """Check that the root is a folder and that a clip's file is there. Raises ValueError, naming a path that was tried.

    Stops at the first file that is there: of a large corpus that costs nothing, and single missing clips are skipped.
    """
    paths = (clip.audio or next(iter(files_in(clip.cut.to_dict())), "") for clip in clips)
    local = [path for path in islice(paths, _MOST_TRIED) if path and not is_remote(path)]
    if local and not any(Path(path).exists() for path in local):
        where = "not the folder of these clips"
        if not is_remote(root) and not Path(root).is_dir():
            where = "no such folder"
        raise ValueError(f"root={root}: {where}: of {len(local)} files that were tried none is there, e.g. {local[0]}")


def for_training(clip: Clip, source: str) -> Clip:
    """Return a clip as training has it: with a source and a split, and a name that can be written down."""
    # without the metadata, which nobody needs here: a corpus may have millions of clips
    clip = replace(clip, source=clip.source or source, split=clip.split or "train", metadata={})
    if clip.problem is None:
        return clip
    # it will be skipped, under a name that can be written down
    return replace(clip, id=escaped(clip.id), source=escaped(clip.source), text=None, speaker=None, language=None)


def with_phones(clips: Iterable[Clip], alignments: str, root: str = ".") -> list[Clip]:
    """Add phones to the clips that the file `alignments` names (see `mimotok.io.clips.alignments`).

    Raises ValueError where it names none of them, and where two are called the same and it cannot tell them apart.
    """
    clips = list(clips)
    found = read_alignments(alignments).parts_of(clips, root)
    labelled = [replace(clip, phones=phones or None) for clip, phones in zip(clips, found, strict=True)]
    if labelled and all(clip.phones is None for clip in labelled):
        first = excerpt(labelled[0].id)
        raise ValueError(
            f"{alignments}: has phones of none of the {len(labelled)} clips, e.g. {first}: write it from this "
            "manifest, or see in its lines why they were skipped"
        )
    return labelled
