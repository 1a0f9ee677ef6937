"""The layouts in which speech corpora are handed out: folders and lists that are no JSONL, read into clips."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mimotok.io.audio import AUDIO_SUFFIXES
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.places import Places
from mimotok.io.folders import search
from mimotok.io.manifest import read_rows

# columns of AudioFolder's metadata
FILE_NAME = "file_name"
TEXT_COLUMNS = ("transcription", "transcript", "text", "sentence")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
METADATA = ("metadata.csv", "metadata.jsonl")
# names of parts of a corpus
SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "val": "dev", "validation": "dev", "test": "test"}
LISTS = (".lst", ".tsv")
_LIBRISPEECH_PART = re.compile(r"(train|dev|test)\b.*")
# the names that the corpus itself has; others use its layout in any language
_LJSPEECH_NAME = re.compile(r"LJ\d{3}-\d{4}")
_COMMON_VOICE = ("path", "sentence")
_DURATIONS = "clip_durations.tsv"


def read_folder(folder: Path, places: Places) -> list[Clip]:
    """Read a folder in LJSpeech's, AudioFolder's, Common Voice's or LibriSpeech's layout, else all audio below it.

    Args:
        folder: the folder.
        places: where its files may lie.

    Raises:
        ValueError: a list in it is not understood, or names a file elsewhere; the message names list and line.
    """
    listed = read_layout(folder, places)
    if listed is not None:
        return listed
    found = search(folder, AUDIO_SUFFIXES)
    left_out = found.left_out()
    if not found.files and left_out:
        raise ValueError(f"{folder}: no recordings in it; it holds {left_out}")
    return [Clip(id=str(path), audio=places.file(os.path.abspath(folder / path))) for path in found.files]


def read_layout(folder: Path, places: Places) -> list[Clip] | None:
    """Read a folder in one of the known layouts, None where it has none of them. Raises ValueError as `read_folder`."""
    for layout in _LAYOUTS:
        clips = layout(folder, places)
        if clips is not None:
            return clips
    return None


def read_list(path: Path, places: Places) -> list[Clip]:
    """Read Seed-TTS-Eval's `meta.lst`, or one of Common Voice's .tsv files. Raises ValueError as `read_folder`."""
    if path.suffix == ".lst":
        return _read_seed_tts(path, places)
    return _read_common_voice(path, places, split="", seconds=_common_voice_seconds(path.parent))


def _audio_folder_or_ljspeech(folder: Path, places: Places) -> list[Clip] | None:
    """Read `metadata.csv` or `metadata.jsonl` of a folder, or of its parts, such as `train` and `test`."""
    path = _metadata_of(folder)
    if path is not None:
        return _read_metadata(path, places)
    parts = [part for part in sorted(folder.iterdir()) if part.name.lower() in SPLITS and part.is_dir()]
    lists = [found for found in map(_metadata_of, parts) if found is not None]
    if not lists:
        return None
    return [clip for found in lists for clip in _read_metadata(found, places, split=SPLITS[found.parent.name.lower()])]


def _metadata_of(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _common_voice(folder: Path, places: Places) -> list[Clip] | None:
    """Read train.tsv, dev.tsv and test.tsv; where none of them is there, validated.tsv, which holds what is good."""
    if not (folder / "clips").is_dir():
        return None
    seconds = _common_voice_seconds(folder)
    parts = [path for split in ("train", "dev", "test") if (path := folder / f"{split}.tsv").is_file()]
    if parts:
        return [clip for part in parts for clip in _read_common_voice(part, places, SPLITS[part.stem], seconds)]
    whole = folder / "validated.tsv"
    return _read_common_voice(whole, places, "", seconds) if whole.is_file() else None


def _librispeech(folder: Path, places: Places) -> list[Clip] | None:
    """Read all `*.trans.txt`, which lie beside the audio, as deep as they may be."""
    transcripts = sorted(path for path in folder.rglob("*.trans.txt") if path.is_file())
    if not transcripts:
        return None
    return [clip for path in transcripts for clip in _read_transcripts(path, folder, places)]


Layout = Callable[[Path, Places], list[Clip] | None]
_LAYOUTS: tuple[Layout, ...] = (_audio_folder_or_ljspeech, _common_voice, _librispeech)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        # with or without a byte order mark
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _placed(path: Path, number: int, audio: Path, places: Places) -> str:
    """Return the file that a line names. Raises ValueError with the line's number where it may not lie there."""
    try:
        return places.file(os.path.abspath(audio) if "\0" not in str(audio) else str(audio))
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
        placed = _placed(path, number, path.parent / audio, places)
        clips.setdefault(audio, Clip(id=audio, audio=placed, text=text, language=language))
    return list(clips.values())


def _read_metadata(path: Path, places: Places, *, split: str = "") -> list[Clip]:
    """Read `metadata.csv` or `metadata.jsonl`, in LJSpeech's layout or in AudioFolder's."""
    if path.suffix == ".jsonl":
        return _read_audio_folder(path, read_rows(str(path)), places, split)
    lines = _lines(path)
    header = next(csv.reader([line.lstrip("\ufeff") for _, line in lines[:1]]), [])
    if FILE_NAME in (name.strip() for name in header):
        return _read_audio_folder(path, _csv_rows(path), places, split)
    if lines and "|" not in lines[0][1]:
        raise ValueError(
            f"{path}:{lines[0][0]}: neither LJSpeech's layout (name|text|normalised text, sound in wavs/) "
            f"nor AudioFolder's (a header with {FILE_NAME} and transcription)"
        )
    return _read_ljspeech(path, lines, places, split)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # quoted text may hold commas and line breaks
    yield from _table(path, "comma-separated", strict=True)


def _tsv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # quotes are signs of a sentence like any other
    yield from _table(path, "tab-separated", delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(path: Path, kind: str, **dialect: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, **dialect)
            header = [name.strip() for name in next(reader, [])]
            for fields in reader:
                if len(fields) != len(header) and fields:
                    raise ValueError(
                        f"{path}:{reader.line_num}: {len(fields)} fields, but its header names {len(header)}"
                    )
                if fields:
                    yield reader.line_num, dict(zip(header, fields, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as {kind} text ({error})") from None


def _read_audio_folder(
    path: Path, rows: Iterable[tuple[int, dict[str, Any]]], places: Places, split: str
) -> list[Clip]:
    clips = []
    for number, row in rows:
        name = row.get(FILE_NAME)
        values = {
            "text": _first(row, TEXT_COLUMNS),
            "speaker": _first(row, SPEAKER_COLUMNS),
            "language": _first(row, ("language",)),
        }
        if not isinstance(name, str) or not name or not all(isinstance(v, str | None) for v in values.values()):
            raise ValueError(
                f"{path}:{number}: a recording needs {FILE_NAME}, its file, and a text in {TEXT_COLUMNS[0]}"
            )
        text = (values["text"] or "").strip() or None
        placed = _placed(path, number, path.parent / name, places)
        # of a part of the folder, the part's name tells its files from those of the others
        clip_id = f"{path.parent.name}/{name}" if split else name
        clips.append(
            Clip(
                id=clip_id,
                audio=placed,
                text=text,
                language=values["language"],
                speaker=values["speaker"],
                split=split,
            )
        )
    return clips


def _first(row: dict[str, Any], names: Iterable[str]) -> Any:
    """Return the first value that is not empty; numbers as texts, since a speaker may be one."""
    value = next((row[name] for name in names if row.get(name)), None)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _read_ljspeech(path: Path, lines: list[tuple[int, str]], places: Places, split: str) -> list[Clip]:
    clips = []
    for number, line in lines:
        name, *texts = _fields(path, number, line, 2)
        file = name if Path(name).suffix.lower() in AUDIO_SUFFIXES else f"{name}.wav"
        placed = _placed(path, number, path.parent / "wavs" / file, places)
        # numbers are written out in the last column, which some corpora leave empty
        text = next((text.strip() for text in reversed(texts) if text.strip()), None)
        language = "en" if _LJSPEECH_NAME.fullmatch(name) else None
        clips.append(Clip(id=name, audio=placed, text=text, language=language, split=split))
    return clips


def _read_transcripts(path: Path, folder: Path, places: Places) -> list[Clip]:
    clips = []
    below = path.relative_to(folder).parts[:-1]
    part = _LIBRISPEECH_PART.fullmatch(below[0] if below else "")
    split = "" if part is None else part[1]
    for number, line in _lines(path):
        name, _, text = line.partition(" ")
        audio = path.parent / f"{name}.flac"
        clips.append(
            Clip(
                id=str(audio.relative_to(folder)),
                audio=_placed(path, number, audio, places),
                text=text.strip() or None,
                language="en",
                # SPEAKER-CHAPTER-NUMBER
                speaker=name.partition("-")[0],
                split=split,
            )
        )
    return clips


def _read_common_voice(path: Path, places: Places, split: str, seconds: dict[str, float]) -> list[Clip]:
    clips = []
    for number, row in _tsv_rows(path):
        if not row.get("path") or "sentence" not in row:
            raise ValueError(
                f"{path}:{number}: Common Voice's lists have columns named {' and '.join(_COMMON_VOICE)}, "
                f"this has {', '.join(list(row)[:8])}"
            )
        # early releases name clips without their suffix
        name = row["path"] if Path(row["path"]).suffix.lower() in AUDIO_SUFFIXES else f"{row['path']}.mp3"
        clips.append(
            Clip(
                id=name,
                audio=_placed(path, number, path.parent / "clips" / name, places),
                text=row["sentence"].strip() or None,
                language=row.get("locale") or None,
                speaker=row.get("client_id") or None,
                duration=seconds.get(name, math.nan),
                split=split,
            )
        )
    return clips


def _common_voice_seconds(folder: Path) -> dict[str, float]:
    """Return the length of each clip by name, where the corpus tells it."""
    path = folder / _DURATIONS
    if not path.is_file():
        return {}
    seconds = {}
    for number, row in _tsv_rows(path):
        try:
            name, milliseconds = list(row.values())[:2]
            seconds[name] = int(milliseconds) / 1000
        except ValueError:
            raise ValueError(
                f"{path}:{number}: expected a clip and its milliseconds, not {list(row.values())}"
            ) from None
    return seconds
