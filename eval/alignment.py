"""Delay between an original and its reconstruction: by their waveforms, or by their spectrograms where those differ."""

from __future__ import annotations

import numpy as np
import torch

from mimotok.config import TokenizerConfig
from mimotok.model.mel import log_mel

# Below this normalised correlation a codec has not kept the waveform, and the peak is at some other pitch period.
KEPT_WAVEFORM = 0.5
# Log-mel frames every millisecond: fine enough for any metric here, and no phase in them.
STEP = 24
MEL = TokenizerConfig(n_mels=24, n_fft=480, window_size=480, hop_length=STEP, mel_floor=1e-2)


def find_delay(original: np.ndarray, reconstruction: np.ndarray, max_delay: int) -> int:
    """Samples by which `reconstruction` lags behind `original`, within ±max_delay; 0 where either is silent.

    original: [T], reconstruction: [T'] at 24 kHz. The largest absolute correlation of the waveforms wins, so that a
    codec which turns the polarity is aligned all the same. Parametric and generative codecs keep no waveform: where the
    correlation stays below 0.5, that of the log-mel spectrograms decides, to the millisecond.
    """
    level = np.linalg.norm(original) * np.linalg.norm(reconstruction)
    if level == 0:
        return 0
    correlation, lags = _correlation(original[:, None], reconstruction[:, None], max_delay)
    best = int(np.argmax(np.abs(correlation)))
    if abs(correlation[best]) >= KEPT_WAVEFORM * level:
        return int(lags[best])
    correlation, lags = _correlation(_bands(original), _bands(reconstruction), max_delay // STEP)
    return int(lags[np.argmax(correlation)]) * STEP


def _correlation(first: np.ndarray, second: np.ndarray, max_lag: int) -> tuple[np.ndarray, np.ndarray]:
    """first: [T, C], second: [T', C]. Returns the sum over C of their correlations at each lag, and the lags."""
    size = 1 << (len(first) + len(second) + max_lag).bit_length()
    spectrum = np.fft.rfft(second, size, axis=0) * np.conj(np.fft.rfft(first, size, axis=0))
    # lags -max_lag..max_lag, ordered from 0 outwards so that a tie goes to the smaller delay
    lags = np.array(sorted(range(-max_lag, max_lag + 1), key=abs))
    return np.fft.irfft(spectrum.sum(1), size)[lags], lags


def _bands(wav: np.ndarray) -> np.ndarray:
    """[T] -> log-mel bands [frames, 24], each with its mean removed."""
    mel, _ = log_mel(torch.from_numpy(np.ascontiguousarray(wav, np.float32))[None], None, MEL)
    return (mel[0] - mel[0].mean(0)).numpy().astype(np.float64)


def align(original: np.ndarray, reconstruction: np.ndarray, delay: int) -> np.ndarray:
    """`reconstruction` [T'] moved back by `delay` samples, cut or padded with zeros to the original's T."""
    moved = reconstruction[delay:] if delay >= 0 else np.pad(reconstruction, (-delay, 0))
    return np.pad(moved[: len(original)], (0, max(0, len(original) - len(moved))))
