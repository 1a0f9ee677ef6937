"""Test lists: the recordings that are measured, and what is said in them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mimotok.io.alignments import Phone, read_alignments
from mimotok.io.audio import AUDIO_SUFFIXES
from mimotok.io.clips import Clip, read_clips
from mimotok.io.encoding import encoding_problem, escaped
from mimotok.io.files import open_regular
from mimotok.io.folders import search
from mimotok.io.manifest import read_rows
from mimotok.io.places import Places

# Columns of AudioFolder's metadata.
FILE_NAME = "file_name"
TEXT_COLUMNS = ("transcription", "transcript", "text", "sentence")


@dataclass(frozen=True)
class LabelledClip:
    """A recording and the phones that are spoken in it, in order."""

    clip: Clip
    phones: tuple[Phone, ...]


def read_test_list(
    path: Path, *, root: Path | None = None, split: str | None = "test", allow_outside: bool = False
) -> list[Clip]:
    """Read the recordings of a test list, in its order.

    Args:
        path: one of
            - a JSONL manifest (`audio`, and optionally `text`, `text_source`, `language`, `split`, `id`, `speaker`,
              `source`);
            - Seed-TTS-Eval's `meta.lst` (`id|prompt text|prompt audio|...`), whose prompts are real recordings; each is
              read once, with its text; its language is the folder's name (`en`, `zh`);
            - a folder in LJSpeech's layout (`metadata.csv` of `name|text|normalised text` beside `wavs/`), in
              AudioFolder's (`metadata.csv` or `metadata.jsonl` with `file_name` and `transcription`) or in
              LibriSpeech's (`*.trans.txt` beside the audio);
            - any other folder: all audio below it, without texts.
        root: folder of a manifest's relative paths, the manifest's own if None.
        split: rows of a manifest to read, besides rows without a split; None for all.
        allow_outside: recordings may lie elsewhere than below the root or the list's folder.

    Returns:
        The recordings.

    Raises:
        ValueError: the list is missing, empty or not understood.
    """
    folder = path if path.is_dir() else path.parent
    places = Places(str(root or folder), str(folder), allow_outside=allow_outside)
    if path.is_dir():
        clips = _read_folder(path, places)
    elif not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    elif path.suffix == ".lst":
        clips = _read_seed_tts(path, places)
    else:
        clips = _read_manifest(path, root or path.parent, split, allow_outside)
    if not clips:
        raise ValueError(f"{path}: no recordings in it")
    counts = Counter(clip.id for clip in clips)
    for clip_id, count in counts.items():
        if count > 1:
            raise ValueError(f"{path}: two recordings are called {clip_id}")
    return clips


def read_labelled_clips(
    labels: Path, manifest: Path, *, root: Path | None = None, allow_outside: bool = False
) -> list[LabelledClip]:
    """Find the clips of a manifest, of all its splits, that have phone labels.

    Args:
        labels: what `python -m train align` wrote.
        manifest: the manifest that was aligned, or another that names the same recordings.
        root: folder of the manifest's relative paths, its own if None.
        allow_outside: recordings may lie elsewhere than below the root or the manifest's folder.

    Returns:
        The clips that have labels, in the manifest's order.

    Raises:
        ValueError: a file cannot be read, or no clip of the manifest has labels.
    """
    phones = read_alignments(labels)
    clips = read_test_list(manifest, root=root, split=None, allow_outside=allow_outside)
    labelled = [LabelledClip(clip, phones[clip.id]) for clip in clips if clip.id in phones]
    if not labelled:
        raise ValueError(f"{labels}: has no phones of the recordings in {manifest}")
    return labelled


def _read_folder(folder: Path, places: Places) -> list[Clip]:
    for path in (folder / "metadata.csv", folder / "metadata.jsonl"):
        if path.is_file():
            return _read_metadata(path, places)
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if transcripts:
        return [clip for path in transcripts for clip in _read_librispeech(path, folder)]
    found = search(folder, AUDIO_SUFFIXES)
    left_out = found.left_out()
    if not found.files and left_out:
        raise ValueError(f"{folder}: no recordings in it; it holds {left_out}")
    return [Clip(id=str(path), audio=str(folder / path)) for path in found.files]


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        # with or without a byte order mark
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read_manifest(path: Path, root: Path, split: str | None, allow_outside: bool) -> list[Clip]:
    clips = read_clips(str(path), str(root), allow_outside=allow_outside)
    return [clip for clip in clips if split is None or clip.split in ("", split)]


def _placed(path: Path, number: int, audio: str, places: Places) -> str:
    """The file that a line of a list names. Raises ValueError with the line's number where it may not lie there."""
    try:
        return places.file(audio)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: {error}") from None


def _fields(path: Path, number: int, line: str, least: int) -> list[str]:
    fields = line.split("|")
    if len(fields) < least:
        raise ValueError(f"{path}:{number}: {len(fields)} fields, expected at least {least} between |")
    return fields


def _read_seed_tts(path: Path, places: Places) -> list[Clip]:
    clips: dict[str, Clip] = {}
    language = path.parent.name if path.parent.name in ("en", "zh") else None
    for number, line in _lines(path):
        _, text, audio = _fields(path, number, line, 3)[:3]
        # several sentences are to be spoken after the same prompt
        placed = _placed(path, number, str((path.parent / audio).absolute()), places)
        clips.setdefault(audio, Clip(id=audio, audio=placed, text=text, language=language))
    return list(clips.values())


def _read_metadata(path: Path, places: Places) -> list[Clip]:
    """Read `metadata.csv` or `metadata.jsonl`, in LJSpeech's layout or in AudioFolder's."""
    if path.suffix == ".jsonl":
        return _read_audio_folder(path, read_rows(str(path)))
    lines = _lines(path)
    header = next(csv.reader([line.lstrip("\ufeff") for _, line in lines[:1]]), [])
    if FILE_NAME in (name.strip() for name in header):
        return _read_audio_folder(path, _csv_rows(path))
    if lines and "|" not in lines[0][1]:
        raise ValueError(
            f"{path}:{lines[0][0]}: neither LJSpeech's layout (name|text|normalised text, sound in wavs/) "
            f"nor AudioFolder's (a header with {FILE_NAME} and transcription)"
        )
    return _read_ljspeech(path, places)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        # quoted text may hold commas and line breaks
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader)]
            for fields in reader:
                if len(fields) != len(header) and fields:
                    raise ValueError(
                        f"{path}:{reader.line_num}: {len(fields)} fields, but its header names {len(header)}"
                    )
                if fields:
                    yield reader.line_num, dict(zip(header, fields, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as comma-separated text ({error})") from None


def _read_audio_folder(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> list[Clip]:
    clips = []
    for number, row in rows:
        name = row.get(FILE_NAME)
        texts = [row.get(key) for key in TEXT_COLUMNS]
        text = next((text for text in texts if text), None)
        if not isinstance(name, str) or not name or not isinstance(text, (str, type(None))):
            raise ValueError(
                f"{path}:{number}: a recording needs {FILE_NAME}, its file, and a text in {TEXT_COLUMNS[0]}"
            )
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{path}:{number}: {name} is not below {path.parent}")
        text = (text or "").strip() or None
        clips.append(Clip(id=name, audio=str(path.parent / name), text=text, language=row.get("language") or None))
    return clips


def _read_ljspeech(path: Path, places: Places) -> list[Clip]:
    clips = []
    for number, line in _lines(path):
        name, *texts = _fields(path, number, line, 2)
        placed = _placed(path, number, str((path.parent / "wavs" / f"{name}.wav").absolute()), places)
        clips.append(Clip(id=name, audio=placed, text=texts[-1], language="en"))
    return clips


def _read_librispeech(path: Path, folder: Path) -> list[Clip]:
    clips = []
    for _, line in _lines(path):
        name, _, text = line.partition(" ")
        audio = path.parent / f"{name}.flac"
        clips.append(Clip(id=str(audio.relative_to(folder)), audio=str(audio), text=text, language="en"))
    return clips


class Usable(NamedTuple):
    """The clips that a report can name, and a line on each of the others."""

    clips: list[Clip]
    problems: list[str]


def usable(clips: Iterable[Clip]) -> Usable:
    """Set apart the clips whose names or texts cannot be written down: they must not stop the others."""
    kept = []
    problems = []
    for clip in clips:
        problem = encoding_problem([clip.id, clip.audio, clip.text, clip.language, clip.speaker, clip.source])
        if problem is None:
            kept.append(clip)
        else:
            problems.append(f"{escaped(clip.id)}: {problem}")
    return Usable(kept, problems)


def thin(clips: list[Clip], *, every: int = 1, min_seconds: float = 0.0, notify: Callable[[str], None]) -> list[Clip]:
    """Select a part of a test list.

    Args:
        clips: the recordings.
        every: take every `every`th.
        min_seconds: leave out shorter ones first; a file without a readable header is kept, to be reported later.
        notify: receives one line that says how many were left out.

    Raises:
        ValueError: `every` is below 1, or no recording is left.
    """
    if every < 1:
        raise ValueError(f"every={every}: give at least 1")
    long_enough = [clip for clip in clips if _seconds(clip.audio) >= min_seconds]
    if len(long_enough) < len(clips):
        notify(f"{len(clips) - len(long_enough)} recordings are shorter than {min_seconds} s and left out")
    if not long_enough:
        raise ValueError(f"no recording lasts {min_seconds} s")
    return long_enough[::every]


def _seconds(audio: str) -> float:
    """Read how long a sound file is, infinity where its header cannot be read."""
    import soundfile

    try:
        # a pipe would be waited for
        open_regular(audio).close()
        return soundfile.info(audio).duration
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return float("inf")
