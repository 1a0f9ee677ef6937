"""Alignments: which phone and which word is spoken when, one line of JSON for each clip.

`python -m train align` writes such a file; training and evaluation read it. A line is

    {"audio": "dev/a.opus", "id": "a", "source": "books", "text_source": "human",
     "phones": [["SIL", 0.0, 0.11], ["AH", 0.11, 0.19], ...], "words": [["a", 0.11, 0.19], ...]}

`audio` is the path as the manifest has it, `id` the clip's id where the manifest gives one (otherwise the path again),
and `source` the corpus that it is from. `phones` are ARPAbet labels without stress, `words` are as they are spoken ("7"
is "seven"), in lower case and without the silence between them; each has its start and end in seconds from the start of
the clip. A clip that could not be aligned has `skipped`, the reason, in place of both. Files of before 2026-11-26 have
no `words`, those of before 2026-11-27 no `source`.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mimotok.io.clips.clip import Clip
from mimotok.io.clips.phones import Phone, Word, check_phones
from mimotok.io.terminal.streams import excerpt

Part = TypeVar("Part", Phone, Word)


@dataclass(frozen=True, slots=True)
class _Row(Generic[Part]):
    audio: str
    id: str
    source: str
    parts: tuple[Part, ...] | None  # None where the clip could not be aligned


class Alignments(Generic[Part]):
    """The phones or the words of the clips that an alignment file has."""

    def __init__(self, path: str | Path, rows: Sequence[_Row[Part]]) -> None:
        self._path = path
        self._by_id: dict[str, list[_Row[Part]]] = defaultdict(list)
        self._by_audio: dict[str, list[_Row[Part]]] = defaultdict(list)
        for row in rows:
            self._by_id[row.id].append(row)
            self._by_audio[row.audio].append(row)

    def parts_of(self, clips: Sequence[Clip], root: str | Path = ".") -> list[tuple[Part, ...] | None]:
        """Find the phones or words of clips.

        A clip is known by its id. Where several have one, as files of two folders may, path and source tell which is
        which: labels that are one clip's by these are no other's.

        Args:
            clips: of one or several manifests.
            root: folder of the relative paths in the file.

        Returns:
            For each clip its parts in order, or None where the file has none.

        Raises:
            ValueError: two clips have one id and nothing tells whose labels are whose.
        """
        sure = [self._surely(clip, root) for clip in clips]
        taken = {id(row) for row in sure if row is not None}
        namesakes: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for clip, row in zip(clips, sure, strict=True):
            if row is None:
                namesakes[clip.id].add((clip.audio, clip.source))
        found = []
        for clip, row in zip(clips, sure, strict=True):
            if row is not None:
                found.append(row.parts)
                continue
            left = {row.parts for row in self._by_id.get(clip.id, ()) if id(row) not in taken}
            if len(left) > 1 or (left and len(namesakes[clip.id]) > 1):
                raise ValueError(
                    f"{self._path}: several clips are called {excerpt(clip.id)}, and neither path nor source tells "
                    "whose labels are whose; align this manifest with this root, or give the clips different ids"
                )
            found.append(left.pop() if left else self._by_path(clip, root))
        return found

    def _surely(self, clip: Clip, root: str | Path) -> _Row[Part] | None:
        """Return the row with the clip's id that has its path too, or the one that has its source."""
        rows = self._by_id.get(clip.id, ())
        for row in rows:
            if clip.audio and clip.audio in (row.audio, os.path.abspath(os.path.join(root, row.audio))):
                return row
        of_source = [row for row in rows if clip.source and row.source == clip.source]
        return of_source[0] if len({row.parts for row in of_source}) == 1 else None

    def _by_path(self, clip: Clip, root: str | Path) -> tuple[Part, ...] | None:
        # a cut is a part of its file, of which the others have labels of their own
        if clip.cut is not None or not clip.audio:
            return None
        rows = self._by_audio.get(clip.audio) or self._by_audio.get(os.path.relpath(clip.audio, root)) or []
        return rows[0].parts if len(rows) == 1 else None


def read_alignments(path: str | Path) -> Alignments[Phone]:
    """Read the phones of every aligned clip.

    Raises ValueError where the file cannot be read, or names the line that does not fit.
    """
    return _read(path, _phones_of)


def read_words(path: str | Path) -> Alignments[Word]:
    """Read the words of every aligned clip, as `read_alignments` reads the phones."""
    return _read(path, _words_of)


def _read(path: str | Path, parts_of: Callable[[dict[str, Any]], tuple[Part, ...]]) -> Alignments[Part]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no alignments can be read from it ({error})") from error
    rows: list[_Row[Part]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            audio = str(row["audio"])
            parts = None if "skipped" in row else parts_of(row)
            rows.append(_Row(audio, str(row.get("id") or audio), str(row.get("source") or ""), parts))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}:{number}: not an alignment of `python -m train align`: {error}") from error
    return Alignments(path, rows)


def _phones_of(row: dict[str, Any]) -> tuple[Phone, ...]:
    phones = tuple(Phone(str(label), float(start), float(end)) for label, start, end in row["phones"])
    check_phones(phones)
    return phones


def _words_of(row: dict[str, Any]) -> tuple[Word, ...]:
    if "words" not in row:
        raise ValueError("it has phones and no words; align the clips again")
    words = tuple(Word(str(text), float(start), float(end)) for text, start, end in row["words"])
    end = 0.0
    for word in words:
        if not end - 1e-3 <= word.start <= word.end:
            raise ValueError(f"{word.text!r} at {word.start} to {word.end} s, after a word that ends at {end} s")
        end = word.end
    return words
