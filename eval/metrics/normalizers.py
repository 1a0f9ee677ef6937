"""Whisper's text normalisation, which most published error rates use: "6" and "six" are one word."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

PACKAGE = "whisper-normalizer"


class WhisperNormalizers(NamedTuple):
    """The normalisers of English and of other languages, and the release of the package that they come from."""

    english: Callable[[str], str]
    basic: Callable[[str], str]
    release: str

    def of(self, language: str | None) -> Callable[[str], str]:
        """Choose by a language's code. What is not said to be English is not rewritten by English rules."""
        return self.english if language == "en" else self.basic


def load_whisper_normalizers() -> WhisperNormalizers | None:
    """Load Whisper's normalisers, None where their package is missing."""
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        return None
    return WhisperNormalizers(EnglishTextNormalizer(), BasicTextNormalizer(), version(PACKAGE))
