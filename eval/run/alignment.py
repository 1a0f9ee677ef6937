"""Delay between an original and its reconstruction, by their waveforms or, where these differ, spectrograms."""

from __future__ import annotations

import numpy as np
import torch

from mimotok.config import TokenizerConfig
from mimotok.model.mel import log_mel

# Below this normalised correlation a codec has not preserved the waveform, and the peak is at some other pitch period.
PRESERVED = 0.5
# Samples between log-mel frames, one millisecond: fine enough for every metric here. They hold no phase.
STEP = 24
MEL = TokenizerConfig(n_mels=24, n_fft=480, window_size=480, hop_length=STEP, mel_floor=1e-2)


def find_delay(original: np.ndarray, reconstruction: np.ndarray, max_delay: int) -> int:
    """Find by how much a reconstruction lags behind its original.

    The largest absolute correlation of the waveforms decides, so that a codec that inverts the polarity is aligned too.
    Parametric and generative codecs do not preserve the waveform: where the correlation stays below 0.5, that of the
    log-mel spectrograms decides, to the millisecond.

    Args:
        original: [T] at 24 kHz.
        reconstruction: [T'] at 24 kHz.
        max_delay: largest delay in samples, in either direction.

    Returns:
        The delay in samples, 0 where either side is silent.
    """
    level = np.linalg.norm(original) * np.linalg.norm(reconstruction)
    if level == 0:
        return 0
    correlation, lags = _correlation(original[:, None], reconstruction[:, None], max_delay)
    best = int(np.argmax(np.abs(correlation)))
    if abs(correlation[best]) >= PRESERVED * level:
        return int(lags[best])
    correlation, lags = _correlation(_bands(original), _bands(reconstruction), max_delay // STEP)
    return int(lags[np.argmax(correlation)]) * STEP


def _correlation(first: np.ndarray, second: np.ndarray, max_lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlate first [T, C] with second [T', C]. Returns the correlation, summed over C, at each lag, and the lags."""
    size = 1 << (len(first) + len(second) + max_lag).bit_length()
    spectrum = np.fft.rfft(second, size, axis=0) * np.conj(np.fft.rfft(first, size, axis=0))
    # lags -max_lag..max_lag, ordered from 0 outwards so that a tie goes to the smaller delay
    lags = np.array(sorted(range(-max_lag, max_lag + 1), key=abs))
    return np.fft.irfft(spectrum.sum(1), size)[lags], lags


def _bands(wav: np.ndarray) -> np.ndarray:
    """Compute log-mel bands [frames, 24] of wav [T], each with its mean removed."""
    mel, _ = log_mel(torch.from_numpy(np.ascontiguousarray(wav, np.float32))[None], None, MEL)
    return (mel[0] - mel[0].mean(0)).numpy().astype(np.float64)


def align(original: np.ndarray, reconstruction: np.ndarray, delay: int) -> np.ndarray:
    """Move a reconstruction [T'] back by `delay` samples and cut it, or pad it with zeros, to the original's T."""
    moved = reconstruction[delay:] if delay >= 0 else np.pad(reconstruction, (-delay, 0))
    return np.pad(moved[: len(original)], (0, max(0, len(original) - len(moved))))
