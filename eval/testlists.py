"""Test lists: the recordings that are measured, and what is said in them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimotok.io.alignments import Phone, read_alignments
from mimotok.io.audio import AUDIO_SUFFIXES
from mimotok.io.clips import Clip, read_clips
from mimotok.io.files import open_regular
from mimotok.io.manifest import read_rows

# Columns of AudioFolder's metadata.
FILE_NAME = "file_name"
TEXT_COLUMNS = ("transcription", "transcript", "text", "sentence")


@dataclass(frozen=True)
class LabelledClip:
    """A recording and the phones that are spoken in it, in order."""

    clip: Clip
    phones: tuple[Phone, ...]


def read_test_list(path: Path, *, root: Path | None = None, split: str | None = "test") -> list[Clip]:
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

    Returns:
        The recordings.

    Raises:
        ValueError: the list is missing, empty or not understood.
    """
    if path.is_dir():
        clips = _read_folder(path)
    elif not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    elif path.suffix == ".lst":
        clips = _read_seed_tts(path)
    else:
        clips = _read_manifest(path, root or path.parent, split)
    if not clips:
        raise ValueError(f"{path}: no recordings in it")
    counts = Counter(clip.id for clip in clips)
    for clip_id, count in counts.items():
        if count > 1:
            raise ValueError(f"{path}: two recordings are called {clip_id}")
    return clips


def read_labelled_clips(labels: Path, manifest: Path, *, root: Path | None = None) -> list[LabelledClip]:
    """Find the clips of a manifest, of all its splits, that have phone labels.

    Args:
        labels: what `python -m train align` wrote.
        manifest: the manifest that was aligned, or another that names the same recordings.
        root: folder of the manifest's relative paths, its own if None.

    Returns:
        The clips that have labels, in the manifest's order.

    Raises:
        ValueError: a file cannot be read, or no clip of the manifest has labels.
    """
    phones = read_alignments(labels)
    clips = read_test_list(manifest, root=root, split=None)
    labelled = [LabelledClip(clip, phones[clip.id]) for clip in clips if clip.id in phones]
    if not labelled:
        raise ValueError(f"{labels}: has no phones of the recordings in {manifest}")
    return labelled


def _read_folder(folder: Path) -> list[Clip]:
    for path in (folder / "metadata.csv", folder / "metadata.jsonl"):
        if path.is_file():
            return _read_metadata(path)
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if transcripts:
        return [clip for path in transcripts for clip in _read_librispeech(path, folder)]
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir())
    return [Clip(id=str(path.relative_to(folder)), audio=str(path)) for path in files]


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read_manifest(path: Path, root: Path, split: str | None) -> list[Clip]:
    clips = read_clips(str(path), str(root))
    return [clip for clip in clips if split is None or clip.split in ("", split)]


def _fields(path: Path, number: int, line: str, least: int) -> list[str]:
    fields = line.split("|")
    if len(fields) < least:
        raise ValueError(f"{path}:{number}: {len(fields)} fields, expected at least {least} between |")
    return fields


def _read_seed_tts(path: Path) -> list[Clip]:
    clips: dict[str, Clip] = {}
    language = path.parent.name if path.parent.name in ("en", "zh") else None
    for number, line in _lines(path):
        _, text, audio = _fields(path, number, line, 3)[:3]
        # several sentences are to be spoken after the same prompt
        clips.setdefault(audio, Clip(id=audio, audio=str(path.parent / audio), text=text, language=language))
    return list(clips.values())


def _read_metadata(path: Path) -> list[Clip]:
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
    return _read_ljspeech(path)


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


def _read_ljspeech(path: Path) -> list[Clip]:
    clips = []
    for number, line in _lines(path):
        name, *texts = _fields(path, number, line, 2)
        clips.append(Clip(id=name, audio=str(path.parent / "wavs" / f"{name}.wav"), text=texts[-1], language="en"))
    return clips


def _read_librispeech(path: Path, folder: Path) -> list[Clip]:
    clips = []
    for _, line in _lines(path):
        name, _, text = line.partition(" ")
        audio = path.parent / f"{name}.flac"
        clips.append(Clip(id=str(audio.relative_to(folder)), audio=str(audio), text=text, language="en"))
    return clips


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
