"""What the waveforms tell: PESQ, STOI and the distance of their log-mel spectrograms."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from eval.metrics import MISSING, Column
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from eval.testlists import Clip
from mimotok.config import TokenizerConfig
from mimotok.model.mel import log_mel

STOI_RATE = 10000  # Hz: what STOI is defined at; resampled here, since pystoi has a resampler of its own
# The floor lies above the noise of 16-bit storage in every band: below it there is nothing that a codec should keep.
MEL = TokenizerConfig(sample_rate=SAMPLE_RATE, mel_floor=1e-2)


class SignalMetrics:
    """PESQ-WB and NB (ITU-T P.862.2 and P.862, package pesq), STOI and ESTOI (pystoi), mel distance."""

    columns: tuple[Column, ...] = (
        Column("pesq_wb", "PESQ-WB", "ITU-T P.862.2 at 16 kHz, package pesq", digits=2, headline=True),
        Column("pesq_nb", "PESQ-NB", "ITU-T P.862 with P.862.1 mapping at 8 kHz, package pesq", digits=2),
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
        """Raises ImportError where pesq or pystoi is missing."""
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
            "mel_floor": MEL.mel_floor,
        }

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """As `Metric.measure`. Silence on either side has no PESQ and no STOI."""
        figures = dict.fromkeys((column.name for column in self.columns), MISSING)
        figures["mel_distance"] = mel_distance(original, reconstruction)
        if min(np.abs(original).max(), np.abs(reconstruction).max()) < SILENCE:
            return figures
        figures["pesq_wb"] = pesq_score(original, reconstruction, "wb")
        figures["pesq_nb"] = pesq_score(original, reconstruction, "nb")
        figures["stoi"] = stoi_score(original, reconstruction)
        figures["estoi"] = stoi_score(original, reconstruction, extended=True)
        return figures


def pesq_score(original: np.ndarray, reconstruction: np.ndarray, band: str) -> float:
    """PESQ of two float32 [T] at the protocol's rate; band: "wb" or "nb". NaN where PESQ finds no utterance."""
    from pesq import PesqError, pesq

    rate = 16000 if band == "wb" else 8000
    pair = (resample(wav, SAMPLE_RATE, rate) for wav in (original, reconstruction))
    score = pesq(rate, *pair, band, on_error=PesqError.RETURN_VALUES)
    return float(score) if score >= 0 else MISSING


def stoi_score(original: np.ndarray, reconstruction: np.ndarray, *, extended: bool = False) -> float:
    """STOI or ESTOI of two float32 [T] at the protocol's rate. NaN where less than 0.4 s of it is speech."""
    from pystoi import stoi

    pair = (resample(wav, SAMPLE_RATE, STOI_RATE) for wav in (original, reconstruction))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            # extended STOI adds noise against division by zero: the same noise every time, and no one else's dice
            state = np.random.get_state()
            np.random.seed(0)
            return float(stoi(*pair, STOI_RATE, extended=extended))
        except (RuntimeWarning, IndexError, ValueError):
            return MISSING
        finally:
            np.random.set_state(state)


def mel_distance(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean absolute difference, in nats, of the log-mel spectrograms of two float32 [T] at the protocol's rate."""
    with torch.no_grad():
        mels, _ = log_mel(torch.from_numpy(np.stack([original, reconstruction])), None, MEL)
    return float((mels[0] - mels[1]).abs().mean())
