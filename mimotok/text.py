"""Comparison of transcripts: one normalisation and one count of errors for training and evaluation."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple


class ErrorRates(NamedTuple):
    """Edits per character and per word of the reference, as fractions."""

    cer: float
    wer: float


class ErrorCounts(NamedTuple):
    """Edits (substitutions, deletions, insertions) that turn a reference into what was heard, and its size."""

    char_errors: int
    chars: int
    word_errors: int
    words: int


def normalize_text(text: str) -> str:
    """Return text in lower case, with single spaces and no punctuation.

    A dash separates words; an apostrophe does not.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("'", "").replace("’", "")
    kept = (" " if unicodedata.category(c)[0] in "PSC" else c for c in text)
    return " ".join("".join(kept).split())


def error_counts(reference: str, hypothesis: str, *, normalize: Callable[[str], str] = normalize_text) -> ErrorCounts:
    """Count the edits between two texts after a normalisation. A reference that is then empty counts nothing.

    Args:
        reference: what was said.
        hypothesis: what was heard.
        normalize: brings both texts to the same spelling.

    Raises:
        ImportError: jiwer is missing.
    """
    try:
        import jiwer
    except ImportError as error:
        raise ImportError("error rates need: pip install 'mimotok[eval]'") from error

    said = normalize(reference).strip()
    heard = normalize(hypothesis).strip()
    if not said:
        return ErrorCounts(0, 0, 0, 0)
    chars = jiwer.process_characters(said, heard)
    words = jiwer.process_words(said, heard)
    return ErrorCounts(
        chars.substitutions + chars.deletions + chars.insertions,
        len(said),
        words.substitutions + words.deletions + words.insertions,
        len(said.split()),
    )


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """Compute corpus-level CER and WER after `normalize_text`; pairs whose reference is then empty do not count.

    Raises ValueError where none is left.
    """
    counts = [error_counts(r, h) for r, h in zip(references, hypotheses, strict=True)]
    chars = sum(c.chars for c in counts)
    words = sum(c.words for c in counts)
    if not words:
        raise ValueError("no reference holds a letter or digit, so there is no error rate")
    return ErrorRates(sum(c.char_errors for c in counts) / chars, sum(c.word_errors for c in counts) / words)
