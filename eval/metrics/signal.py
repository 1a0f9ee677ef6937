"""Metrics of the waveforms: PESQ, STOI and the distance of their log-mel spectrograms."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from eval.metrics.base import MISSING, Column, missing_figures
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from mimotok.config import TokenizerConfig
from mimotok.io.clips.clip import Clip
from mimotok.model.lengths import frames_needed
from mimotok.model.mel import log_mel

# Longer clips have PESQ by parts of this at most. The package has room for 50 utterances and writes past it: a clip of
# 108 s ended the whole process. An utterance has 0.2 s at least and a pause of 0.19 s behind it, so that 49 need 19 s.
PESQ_SECONDS = 18
PESQ = f"package pesq; the mean over parts where a clip is longer than {PESQ_SECONDS} s"
STOI_RATE = 10000  # Hz: what STOI is defined at; resampled here, since pystoi has a resampler of its own
# The floor lies above the noise of 16-bit storage in every band: below it there is nothing that a codec should keep.
MEL = TokenizerConfig(sample_rate=SAMPLE_RATE, mel_floor=1e-2)


class SignalMetrics:
    """PESQ-WB and NB (ITU-T P.862.2 and P.862, package pesq), STOI and ESTOI (pystoi), mel distance."""

    columns: tuple[Column, ...] = (
        Column(
            "pesq_wb",
            "PESQ-WB",
            f"ITU-T P.862.2 at 16 kHz, {PESQ}",
            digits=2,
            headline=True,
        ),
        Column(
            "pesq_nb",
            "PESQ-NB",
            f"ITU-T P.862 with P.862.1 mapping at 8 kHz, {PESQ}",
            digits=2,
        ),
        Column("stoi", "STOI", "at 10 kHz, package pystoi", headline=True),
        Column("estoi", "ESTOI", "extended STOI at 10 kHz, package pystoi"),
        Column(
            "mel_distance",
            "mel distance",
            f"mean absolute difference in nats of {MEL.n_mels} log-mel bands at {SAMPLE_RATE} Hz, window "
            f"{MEL.window_size}, hop {MEL.hop_length}, magnitudes of at least {MEL.mel_floor}",
            higher_is_better=False,
            headline=True,
        ),
    )

    def __init__(self) -> None:
        """Check that the packages are there. Raises ImportError where pesq or pystoi is missing."""
        try:
            import pesq  # noqa: F401
            import pystoi  # noqa: F401
        except ImportError as error:
            raise ImportError(f"PESQ and STOI need: pip install 'mimotok[eval]' ({error})") from error
        from importlib.metadata import version

        self.identity: dict[str, Any] = {
            "kind": "signal",
            "pesq": version("pesq"),
            "pystoi": version("pystoi"),
            "pesq_seconds": PESQ_SECONDS,
            "mel_floor": MEL.mel_floor,
        }

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Measure one clip, as `Metric.measure`. Silence on either side has no PESQ and no STOI."""
        figures = missing_figures(self.columns)
        figures["mel_distance"] = mel_distance(original, reconstruction)
        if min(np.abs(original).max(), np.abs(reconstruction).max()) < SILENCE:
            return figures
        figures["pesq_wb"] = pesq_score(original, reconstruction, "wb")
        figures["pesq_nb"] = pesq_score(original, reconstruction, "nb")
        figures["stoi"] = stoi_score(original, reconstruction)
        figures["estoi"] = stoi_score(original, reconstruction, extended=True)
        return figures


def pesq_score(original: np.ndarray, reconstruction: np.ndarray, band: str) -> float:
    """Compute PESQ; of a clip longer than PESQ_SECONDS the mean over parts of equal length.

    Args:
        original: float32 [T] at the protocol's rate.
        reconstruction: float32 [T].
        band: "wb" or "nb".

    Returns:
        PESQ, or NaN where it finds no utterance.
    """
    count = frames_needed(len(original), PESQ_SECONDS * SAMPLE_RATE)
    parts = zip(np.array_split(original, count), np.array_split(reconstruction, count), strict=True)
    scores = [_pesq_of_part(*pair, band) for pair in parts]
    # a piece without speech has no score, and takes nothing from those that have
    scores = [score for score in scores if not np.isnan(score)]
    return float(np.mean(scores)) if scores else MISSING


def _pesq_of_part(original: np.ndarray, reconstruction: np.ndarray, band: str) -> float:
    from pesq import PesqError, pesq

    if min(np.abs(original).max(), np.abs(reconstruction).max()) < SILENCE:
        return MISSING
    rate = 16000 if band == "wb" else 8000
    pair = (resample(wav, SAMPLE_RATE, rate) for wav in (original, reconstruction))
    score = pesq(rate, *pair, band, on_error=PesqError.RETURN_VALUES)
    return float(score) if score >= 0 else MISSING


def stoi_score(original: np.ndarray, reconstruction: np.ndarray, *, extended: bool = False) -> float:
    """Compute STOI or ESTOI of two float32 [T] at the protocol's rate; NaN where less than 0.4 s of it is speech."""
    from pystoi import stoi

    pair = (resample(wav, SAMPLE_RATE, STOI_RATE) for wav in (original, reconstruction))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            # extended STOI adds noise against division by zero: use the same noise every time, and restore the global
            # generator for whoever uses it next
            state = np.random.get_state()
            np.random.seed(0)
            return float(stoi(*pair, STOI_RATE, extended=extended))
        except (RuntimeWarning, IndexError, ValueError):
            return MISSING
        finally:
            np.random.set_state(state)


def mel_distance(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Compute the mean absolute difference of two log-mel spectrograms, in nats.

    Args:
        original: float32 [T] at the protocol's rate.
        reconstruction: float32 [T].
    """
    with torch.no_grad():
        mels, _ = log_mel(torch.from_numpy(np.stack([original, reconstruction])), None, MEL)
    return float((mels[0] - mels[1]).abs().mean())
