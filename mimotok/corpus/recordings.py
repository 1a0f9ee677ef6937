"""The one reader of recordings for training and evaluation: folders, corpus layouts, JSONL, CutSets and Shar."""

from __future__ import annotations

import json
import math
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mimotok.corpus.cuts import is_cut, load_cut, make_cut, with_sound
from mimotok.corpus.shar import find_shards, is_shar, packed_cuts, read_packed
from mimotok.corpus.supervisions import said_in
from mimotok.io.audio import declared_seconds, load_audio, resample
from mimotok.io.clips.clip import Clip, clip_of, require_seconds
from mimotok.io.clips.encoding import encoding_problem, escaped
from mimotok.io.clips.layouts import LISTS, read_folder, read_list
from mimotok.io.clips.places import Places
from mimotok.io.files import StrPath
from mimotok.io.manifest import read_rows
from mimotok.io.remote import is_remote, without_scheme
from mimotok.io.terminal.streams import error_line, excerpt

_PROBES = 8  # headers read at a time


def read_recordings(source: StrPath, root: StrPath | None = None, *, allow_outside: bool = False) -> Iterator[Clip]:
    """Read the recordings of a folder or a list, in its order.

    Args:
        source: one of
            - a folder in LJSpeech's layout (`metadata.csv` of `name|text|normalised text` beside `wavs/`), in
              AudioFolder's (`metadata.csv` or `metadata.jsonl` with `file_name` and `transcription`, also in folders
              named train, validation and test), in Common Voice's (`clips/` beside train.tsv, dev.tsv and test.tsv,
              or validated.tsv) or in LibriSpeech's (`*.trans.txt` beside the audio);
            - a Lhotse Shar folder;
            - any other folder: all audio below it, without texts;
            - a JSONL manifest or Lhotse CutSet, .gz or not, also at an allowed address;
            - one of Common Voice's .tsv files;
            - Seed-TTS-Eval's `meta.lst` (`id|prompt text|prompt audio|...`), whose prompts are real recordings; each
              is read once, with its text; its language is the folder's name (`en`, `zh`).
        root: folder or address of the relative paths in a manifest, the manifest's own if None. Paths in a folder's
            own lists begin at that folder.
        allow_outside: recordings may lie elsewhere than below the root or the list's folder.

    Yields:
        The recordings. `source`, `split` and `duration` are unknown where the list does not tell them.

    Raises:
        ValueError: the source is missing, empty or not understood, or names what may not be read.
    """
    source = without_scheme(os.fspath(source))
    root = root if root is None else os.fspath(root)
    count = 0
    for clip in _clips(source, root, allow_outside):
        count += 1
        yield clip
    if not count:
        raise ValueError(f"{source}: no recordings in it")


def _clips(source: str, root: str | None, allow_outside: bool) -> Iterable[Clip]:
    path = Path(source)
    if is_remote(source):
        return _rows(source, root, allow_outside)
    if path.is_dir():
        if is_shar(path):
            return _shar(source)
        return read_folder(path, Places(root or source, source, allow_outside=allow_outside))
    if not path.exists():
        raise ValueError(f"{source}: no such file or folder")
    if path.suffix in LISTS and path.is_file():
        folder = str(path.parent)
        return read_list(path, Places(root or folder, folder, allow_outside=allow_outside))
    return _rows(source, root, allow_outside)


def _rows(source: str, root: str | None, allow_outside: bool) -> Iterator[Clip]:
    folder = posixpath.dirname(source) or "."
    places = Places(root or folder, folder, allow_outside=allow_outside)
    for number, row in read_rows(source):
        place = f"{source}:{number}"
        if not is_cut(row):
            yield clip_of(row, places, place=place)
            continue
        try:
            if not isinstance(row.get("id"), str):
                raise ValueError("a cut needs an `id`, a text")
            yield clip_of_cut(make_cut(row, places.root, folder, allow_outside=allow_outside))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def _shar(folder: str) -> Iterator[Clip]:
    for shard in find_shards(folder):
        try:
            yield from (replace(clip_of_cut(cut), packed=packed) for cut, packed in packed_cuts(shard))
        except (tarfile.TarError, EOFError, OSError, StopIteration, RuntimeError, json.JSONDecodeError) as error:
            raise ValueError(f"{shard.recording}: damaged ({error_line(error)}); get a whole copy") from error


def clip_of_cut(cut: Any) -> Clip:
    """Turn a checked Lhotse cut into a `Clip`; `source` and `split` come from its custom fields where it has them."""
    seconds = require_seconds(cut.duration, f"cut {excerpt(cut.id)}: duration")
    custom = cut.custom or {}
    said = said_in(cut.to_dict())
    problem = encoding_problem([cut.id, *said, custom.get("source"), custom.get("split")])
    return Clip(
        id=escaped(cut.id),
        audio=next(iter(_files(cut)), ""),
        duration=seconds,
        source=custom.get("source") or "",
        text=said.text if problem is None else None,
        split=custom.get("split") or "",
        speaker=said.speaker,
        language=said.language,
        cut=cut,
        problem=problem,
    )


def _files(cut: Any) -> list[str]:
    recording = getattr(cut, "recording", None)
    return [str(source.source) for source in getattr(recording, "sources", []) if source.type == "file"]


def load_recording(clip: Clip, sample_rate: int) -> np.ndarray:
    """Read the sound of a clip, from its cut or its file.

    Returns:
        float32 [T], mono, at `sample_rate`.

    Raises:
        ValueError: the clip has a problem, or its sound cannot be read.
    """
    if clip.problem is not None:
        raise ValueError(clip.problem)
    if clip.cut is None:
        return load_audio(clip.audio, sample_rate)[0].numpy()
    try:
        wav = read_cut(clip)
    except Exception as error:  # Lhotse and the file systems behind it have errors of their own
        raise ValueError(f"cut {excerpt(clip.id)}: cannot be read ({error_line(error)})") from error
    if not len(wav):
        raise ValueError(f"cut {excerpt(clip.id)}: no audio in it (0 samples)")
    return resample(wav, clip.cut.sampling_rate, sample_rate)


def read_cut(clip: Clip) -> np.ndarray:
    """Read the sound of a clip that is a cut, float32 [T], mono, at the cut's rate.

    Raises ValueError, and what Lhotse and remote file systems raise.
    """
    cut = clip.cut
    if clip.packed is not None:
        cut = with_sound(cut, read_packed(clip.packed))
    return load_cut(cut)


def with_durations(clips: Iterable[Clip]) -> list[Clip]:
    """Fill in the durations that no list gives, from the headers of the files.

    A clip whose file cannot be read has 0 seconds and the reason as its problem: it must not stop the others.
    """
    with ThreadPoolExecutor(_PROBES) as pool:
        return list(pool.map(_timed, clips, chunksize=64))


def _timed(clip: Clip) -> Clip:
    if not math.isnan(clip.duration):
        return clip
    if clip.problem is not None:
        return replace(clip, duration=0.0)
    if not Path(clip.audio).exists():
        return replace(clip, duration=0.0, problem="missing")
    try:
        seconds = declared_seconds(clip.audio)
        if seconds is None:
            seconds = soundfile.info(clip.audio).duration
    except Exception as error:  # decoders have errors of their own
        return replace(clip, duration=0.0, problem=f"corrupt: {excerpt(error, 200)}")
    return replace(clip, duration=seconds)
