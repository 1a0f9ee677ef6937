"""Pitch: whether a reconstruction keeps the melody of speech, and where it is voiced."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from eval.metrics.base import MISSING, Column, missing_figures
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from mimotok.io.clips.clip import Clip

RATE = 16000  # Hz
HOP = 320  # samples, 20 ms
WINDOW = 1024  # samples: four periods of the lowest pitch
LOWEST = 65.0  # Hz, of low men's voices
HIGHEST = 500.0  # Hz, of children's voices
MIN_VOICED = 10  # frames that are voiced on both sides, without which there is no correlation


class Pitch(NamedTuple):
    """F0 in Hz, [F], and where the sound is voiced, bool [F]."""

    f0: np.ndarray
    voiced: np.ndarray


class PitchMetrics:
    """F0 correlation and voicing error, by probabilistic YIN (Mauch and Dixon 2014) of package librosa."""

    columns: tuple[Column, ...] = (
        Column(
            "f0_correlation",
            "F0 correlation",
            f"Pearson correlation of log F0 in frames of {1000 * HOP // RATE} ms voiced on both sides; pYIN of "
            "package librosa",
        ),
        Column(
            "voicing_error",
            "voicing error",
            "share of frames that are voiced on one side only; pYIN of package librosa",
            higher_is_better=False,
        ),
    )

    def __init__(self) -> None:
        """Check that the package is there. Raises ImportError where librosa is missing."""
        try:
            import librosa  # noqa: F401
        except ImportError as error:
            raise ImportError(f"pitch needs: pip install 'mimotok[eval]' (librosa: {error})") from error
        self.identity: dict[str, Any] = {"kind": "pitch", "librosa": version("librosa"), "hop": HOP}
        # the original's pitch serves all codecs, which are measured one after another on the same clip
        self._last_original = np.zeros(0)
        self._last_pitch: Pitch | None = None

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Measure one clip, as `Metric.measure`. Silence on either side has no figures."""
        if min(np.abs(original).max(), np.abs(reconstruction).max()) < SILENCE:
            return missing_figures(self.columns)
        if self._last_pitch is None or not np.array_equal(self._last_original, original):
            self._last_original = original
            self._last_pitch = find_pitch(original)
        return compare_pitch(self._last_pitch, find_pitch(reconstruction))


def find_pitch(wav: np.ndarray) -> Pitch:
    """Find the pitch of wav, float32 [T] at the protocol's rate."""
    import librosa

    low = resample(wav, SAMPLE_RATE, RATE)
    f0, voiced, _ = librosa.pyin(low, fmin=LOWEST, fmax=HIGHEST, sr=RATE, frame_length=WINDOW, hop_length=HOP)
    return Pitch(f0, voiced)


def compare_pitch(original: Pitch, reconstruction: Pitch) -> dict[str, float]:
    """Compare two pitches of as many frames. No correlation without 10 frames in which both sides are voiced."""
    both = original.voiced & reconstruction.voiced
    figures = {"f0_correlation": MISSING, "voicing_error": float((original.voiced != reconstruction.voiced).mean())}
    if both.sum() >= MIN_VOICED:
        logs = np.log(np.stack([original.f0[both], reconstruction.f0[both]]))
        # a monotone has no melody to correlate
        if logs.std(1).min() > 0:
            figures["f0_correlation"] = float(np.corrcoef(logs)[0, 1])
    return figures
