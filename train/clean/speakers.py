"""Who speaks: voices of windows of a recording by Resemblyzer's encoder, where that package is installed."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from train.clean.segments import Span

RATE = 16000  # Hz, of the encoder
_LEVEL = 0.03  # RMS of speech that the encoder was trained with, -30 dBFS
_WINDOWS_PER_SECOND = 1.25
_SHORTEST = 1.6  # seconds of the encoder's window: a voice in less is uncertain


class Voices(NamedTuple):
    """Unit vectors [W, D] of windows of a recording, and the second in the middle of each, [W]."""

    vectors: np.ndarray
    middles: np.ndarray

    def inside(self, span: Span) -> np.ndarray:
        """Return the vectors of the windows whose middle lies in a span."""
        return self.vectors[(self.middles >= span.start) & (self.middles < span.end)]

    def mean(self, span: Span) -> np.ndarray | None:
        """Return the voice of a span, a unit vector; None where it is too short to tell."""
        vectors = self.inside(span)
        return unit(vectors.mean(axis=0)) if len(vectors) else None

    def same(self, first: Span, second: Span, threshold: float) -> bool:
        """Return whether two spans sound like one speaker; where a voice is uncertain nothing speaks against it."""
        if min(first.seconds, second.seconds) < _SHORTEST:
            return True
        one = self.mean(first)
        other = self.mean(second)
        return one is None or other is None or float(one @ other) >= threshold

    def consistency(self, span: Span) -> float | None:
        """Return the lowest cosine of a window in a span with the span's voice; None where it is too short to tell."""
        voice = self.mean(span)
        return None if voice is None else float((self.inside(span) @ voice).min())


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector of length one."""
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def has_encoder() -> bool:
    """Return whether the encoder's package is installed."""
    try:
        _encoder()
    except ImportError:
        return False
    return True


@lru_cache(maxsize=1)
def _encoder() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one of its packages warns about pkg_resources
            from resemblyzer import VoiceEncoder
    except ImportError as error:
        raise ImportError(f"speakers need: pip install 'mimotok[clean]' (resemblyzer; {error})") from error
    return VoiceEncoder("cpu", verbose=False)


def hear_voices(wav: np.ndarray) -> Voices:
    """Return the voices of overlapping windows of 1.6 s of a recording, float32 [T] at 16 kHz."""
    level = float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))
    loud = wav * np.float32(_LEVEL / max(level, 1e-6))
    _, vectors, slices = _encoder().embed_utterance(loud, return_partials=True, rate=_WINDOWS_PER_SECOND)
    middles = np.array([(part.start + min(part.stop, len(wav))) / 2 / RATE for part in slices])
    return Voices(np.asarray(vectors), middles)


def number_speakers(voices: list[np.ndarray | None], threshold: float) -> list[int | None]:
    """Number the speakers of a recording's segments in the order in which they are first heard.

    A segment is of the speaker to whose mean voice its own is nearest, or of a new one where no cosine reaches the
    threshold. Where the voice of a segment is unknown, so is its speaker.
    """
    sums: list[np.ndarray] = []
    numbers: list[int | None] = []
    for voice in voices:
        if voice is None:
            numbers.append(None)
            continue
        cosines = [float(unit(total) @ voice) for total in sums]
        if cosines and max(cosines) >= threshold:
            number = int(np.argmax(cosines))
            sums[number] = sums[number] + voice
        else:
            number = len(sums)
            sums.append(voice)
        numbers.append(number)
    return numbers
