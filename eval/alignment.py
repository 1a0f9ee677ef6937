"""Delay between an original and its reconstruction, found by cross-correlation."""

from __future__ import annotations

import numpy as np


def find_delay(original: np.ndarray, reconstruction: np.ndarray, max_delay: int) -> int:
    """Samples by which `reconstruction` lags behind `original`, within ±max_delay; 0 where either is silent.

    original: [T], reconstruction: [T']. The largest absolute correlation wins, so that a codec which turns the
    polarity is aligned all the same.
    """
    size = 1 << (len(original) + len(reconstruction) + max_delay).bit_length()
    spectrum = np.fft.rfft(reconstruction, size) * np.conj(np.fft.rfft(original, size))
    correlation = np.fft.irfft(spectrum, size)
    # lags -max_delay..max_delay, ordered from 0 outwards so that a tie goes to the smaller delay
    lags = np.array(sorted(range(-max_delay, max_delay + 1), key=abs))
    return int(lags[np.argmax(np.abs(correlation[lags]))])


def align(original: np.ndarray, reconstruction: np.ndarray, delay: int) -> np.ndarray:
    """`reconstruction` [T'] moved back by `delay` samples, cut or padded with zeros to the original's T."""
    moved = reconstruction[delay:] if delay >= 0 else np.pad(reconstruction, (-delay, 0))
    return np.pad(moved[: len(original)], (0, max(0, len(original) - len(moved))))
