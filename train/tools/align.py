"""Labels of phones and words by forced alignment with pocketsphinx, which carries an English model and dictionary."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from mimotok.io.audio import resample
from mimotok.io.clips.alignments import Part
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.languages import language_code
from mimotok.io.clips.phones import PHONES, SILENCE, Phone, Word, check_phones
from mimotok.io.files import atomic_path, writing
from mimotok.io.terminal.progress import with_progress
from train.data.manifest import BadClipError, check_root, decode, read_manifest

RATE = 16000  # Hz, of the acoustic model
FRAME = 0.01  # seconds, of the acoustic model
# The decoder's second pass finds no path through about a quarter of all clips, whatever the beams, and finds one
# where the same speech stands in a little more silence: (seconds of silence on either side, noise level) in turn.
ATTEMPTS = ((0.1, 1e-4), (0.0, 0.0), (0.0, 3e-4), (0.2, 1e-3), (0.25, 3e-4))
NUMBER = re.compile(r"0|[1-9]\d{0,2}|1[1-9]\d\d", re.ASCII)
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NOISE = re.compile(r"[<\[+]")  # how the decoder's entries begin that are no words
VARIANT = re.compile(r"\(\d+\)$")  # "the(2)" is another pronunciation of "the"
REASONS = ("no text", "not English", "not in the dictionary", "not aligned", "unreadable")
TRIED_AGAIN = ("no text", "unreadable")  # a second call may find another manifest, and files that have come


class Alignment(NamedTuple):
    """What is spoken when in a clip; the phones cover all of it, silence between the words included."""

    phones: list[Phone]
    words: list[Word]


class NotAlignedError(Exception):
    """A clip that gets no labels; the message begins with one of REASONS."""


class Aligner:
    """Forced alignment of English speech with a known text.

    Raises ImportError where pocketsphinx is missing.
    """

    def __init__(self) -> None:
        try:
            from pocketsphinx import Config, Decoder, get_model_path
        except ImportError as error:
            raise ImportError("alignment needs: pip install 'mimotok[align]' (pocketsphinx)") from error
        model = Path(get_model_path()) / "en-us"
        files = {"hmm": str(model / "en-us"), "dict": str(model / "cmudict-en-us.dict"), "lm": None}
        self._decoder: Any = Decoder(Config(**files, loglevel="FATAL"))

    def words(self, text: str) -> list[str]:
        """Split a text into words of the dictionary. Raises NotAlignedError where one is not in it."""
        spoken = [self._in_dictionary(word) for word in spell(text)]
        if not spoken:
            raise NotAlignedError("no text")
        return spoken

    def pronounce(self, word: str) -> list[str]:
        """Return the phones of a word that `words` returned, in its most usual pronunciation."""
        return str(self._decoder.lookup_word(word)).split()

    def _in_dictionary(self, word: str) -> str:
        # the dictionary has "don't" and "o'clock", but not every "hers'"
        for spelling in (word, word.strip("'"), word.replace("'", "")):
            if spelling and self._decoder.lookup_word(spelling) is not None:
                return spelling
        owner = word.removesuffix("'s")
        owned = self._decoder.lookup_word(owner) if owner != word else None
        if owned is not None:
            self._decoder.add_word(word, f"{owned} {_possessive(owned.split()[-1])}", True)
            return word
        raise NotAlignedError(f"not in the dictionary: {word}")

    def align(self, wav: np.ndarray, text: str) -> Alignment:
        """Find the phones and words of a text in speech.

        Args:
            wav: float32 [T] at 16 kHz.
            text: what is spoken.

        Raises:
            NotAlignedError: where a word is not in the dictionary or the text does not fit the speech.
        """
        words = " ".join(self.words(text))
        for number, (margin, noise) in enumerate(ATTEMPTS):
            samples = round(margin * RATE)
            padded = np.pad(wav, samples)
            padded = padded + noise * np.random.default_rng(number).standard_normal(len(padded))
            found = self._attempt(padded, words)
            if found is not None:
                seconds = len(wav) / RATE
                return Alignment(fitted(found.phones, margin, seconds), moved(found.words, margin, seconds))
        raise NotAlignedError("not aligned: the text does not fit the speech")

    def _attempt(self, wav: np.ndarray, words: str) -> Alignment | None:
        pcm = (np.clip(wav, -1, 32767 / 32768) * 32768).astype("<i2").tobytes()
        try:
            # the first pass places words and chooses among pronunciations, the second places the phones of these
            self._decoder.set_align_text(words)
            self._hear(pcm)
            if self._decoder.hyp() is None:
                return None
            self._decoder.set_alignment()
            self._hear(pcm)
            alignment = self._decoder.get_alignment()
        except RuntimeError:
            return None
        if alignment is None:
            return None
        spoken = []
        entries = []
        # an entry is valid until the next one is asked for
        for word in alignment:
            if not NOISE.match(word.name):
                spoken.append(Word(VARIANT.sub("", word.name), *_seconds(word)))
            entries += [(phone.name, *_seconds(phone)) for phone in word]
        return Alignment(list(_merged(entries)), spoken)

    def _hear(self, pcm: bytes) -> None:
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(pcm, no_search=False, full_utt=True)
        finally:
            self._decoder.end_utt()


def _possessive(last: str) -> str:
    """Return the phones of an s after a word that ends in the phone `last`."""
    if last in ("S", "Z", "SH", "ZH", "CH", "JH"):
        return "IH Z"
    if last in ("P", "T", "K", "F", "TH"):
        return "S"
    return "Z"


def spell(text: str) -> list[str]:
    """Split a text into lower-case words without punctuation, which keep their apostrophes.

    Whole numbers below 1000 become words, and those from 1100 to 1999 as years are read.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    kept = (" " if c != "'" and unicodedata.category(c)[0] in "PSC" else c for c in text)
    words = [word for word in "".join(kept).split() if word.strip("'")]
    return [part for word in words for part in (_number(int(word)) if NUMBER.fullmatch(word) else [word])]


def _number(value: int) -> list[str]:
    if value >= 1000:
        century, year = divmod(value, 100)
        if year == 0:
            return [*_number(century), "hundred"]
        return [*_number(century), *["oh"] * (year < 10), *_number(year)]
    if value >= 100:
        words = [ONES[value // 100], "hundred"]
        if value % 100:
            words += _number(value % 100)
        return words
    if value < 20:
        return [ONES[value]]
    words = [TENS[value // 10]]
    if value % 10:
        words.append(ONES[value % 10])
    return words


def fitted(phones: Iterable[Phone], margin: float, seconds: float) -> list[Phone]:
    """Move phones back by a margin of silence and cut them at the clip's ends; they then cover all of it.

    Raises NotAlignedError where no phone is left.
    """
    kept = [phone for phone in moved(phones, margin, seconds) if phone.start < phone.end]
    if not any(phone.label != SILENCE for phone in kept):
        raise NotAlignedError("not aligned: no phone was found")
    kept[0] = kept[0]._replace(start=0.0)
    kept[-1] = kept[-1]._replace(end=seconds)
    try:
        check_phones(kept)
    except ValueError as error:
        raise NotAlignedError(f"not aligned: {error}") from error
    return kept


def moved(parts: Iterable[Part], margin: float, seconds: float) -> list[Part]:
    """Move phones or words back by a margin of silence, to times within the clip."""
    times = ((part, max(part.start - margin, 0.0), min(part.end - margin, seconds)) for part in parts)
    return [part._replace(start=min(start, seconds), end=max(end, 0.0)) for part, start, end in times]


def _seconds(entry: Any) -> tuple[float, float]:
    """Return when an entry of the decoder begins and ends."""
    return entry.start * FRAME, (entry.start + entry.duration) * FRAME


def _merged(entries: Iterable[tuple[str, float, float]]) -> Iterator[Phone]:
    """Yield the decoder's entries as phones; noises count as silence, and neighbouring silences become one."""
    held: Phone | None = None
    for name, start, end in entries:
        label = name if name in PHONES else SILENCE
        if held is not None and held.label == label == SILENCE:
            held = held._replace(end=end)
            continue
        if held is not None:
            yield held
        held = Phone(label, start, end)
    if held is not None:
        yield held


def align(manifest: str | list[str], root: str, out: str | Path, *, allow_outside: bool = False) -> str:
    """Write the phones and words of every English clip of one or several manifests to `out`.

    `mimotok.io.clips.alignments` says how they are written. A second call continues after the clips that `out` has.
    Returns a line that counts the aligned clips, and the others by reason.
    """
    clips = read_manifest(manifest, root, allow_outside=allow_outside)
    counts = _resume(Path(out))
    check_root(clips, root)
    done = {name for name, _ in counts}
    aligner = Aligner()
    tally = Counter(reason for _, reason in counts)
    with writing(out), open(out, "a", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [
            {"audio": _manifest_path(clip, root), "id": clip.id, "source": clip.source} for clip in clips
        ]
        todo = [(clip, row) for clip, row in zip(clips, rows, strict=True) if _name(row) not in done]
        for clip, row in with_progress(todo, "Aligning", len(todo)):
            try:
                found = align_clip(aligner, clip)
            except NotAlignedError as error:
                tally[_reason(str(error))] += 1
                row["skipped"] = str(error)
            else:
                tally["aligned"] += 1
                row |= {
                    "text_source": clip.text_source,
                    "phones": _rounded(found.phones),
                    "words": _rounded(found.words),
                }
            _write(file, row)
    return ", ".join(f"{count} {reason}" for reason, count in tally.most_common())


def _rounded(parts: Iterable[Phone | Word]) -> list[list[Any]]:
    return [[name, round(start, 3), round(end, 3)] for name, start, end in parts]


def align_clip(aligner: Aligner, clip: Clip) -> Alignment:
    """Find the phones and words of one clip. Raises NotAlignedError with the reason where it gets none."""
    if language_code(clip.language) not in (None, "en"):
        raise NotAlignedError("not English")
    if clip.text is None:
        raise NotAlignedError("no text")
    aligner.words(clip.text)
    try:
        wav, rate = decode(clip)
    except BadClipError as error:
        raise NotAlignedError(f"unreadable: {error}") from error
    return aligner.align(resample(wav, rate, RATE), clip.text)


def _write(file: TextIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _reason(message: str) -> str:
    return message.split(":")[0]


def _name(row: dict[str, Any]) -> tuple[str, str]:
    """Return what tells a clip from all others: ids alone repeat where two folders name their files alike."""
    # a clip within a Shar folder has no path
    return row["audio"] or row.get("source", ""), row["id"]


def _resume(out: Path) -> list[tuple[tuple[str, str], str]]:
    """Return the clips that a file has, each with "aligned" or its reason.

    An unfinished last line goes out of the file, and so do clips that were skipped for what may have been put right.
    """
    if not out.is_file():
        return []
    data = out.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    try:
        rows = [json.loads(line) for line in lines]
        found = [(_name(row), _reason(row["skipped"]) if "skipped" in row else "aligned") for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out}: not an alignment file ({error}); name another file or remove it") from error
    kept = [number for number, (_, reason) in enumerate(found) if reason not in TRIED_AGAIN]
    if (left := b"".join(lines[number] for number in kept)) != data:
        with atomic_path(out) as temporary:
            temporary.write_bytes(left)
    return [found[number] for number in kept]


def _manifest_path(clip: Clip, root: str) -> str:
    path = Path(clip.audio)
    folder = os.path.abspath(root)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else clip.audio
