"""A recording that metrics accept as speech, and a progress bar that shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from eval.protocol import SAMPLE_RATE
from mimotok.io.clips.clip import Clip

CLIP = Clip("clip", audio="", text="Hello there.", language="en")


def speech(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Make harmonics of a gliding pitch under syllables and formants: float32 [T] at 24 kHz, peak 0.7."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 130 * 2 ** (0.3 * np.sin(2 * np.pi * 0.7 * time + generator.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    formants = generator.uniform([300, 900, 2200, 4000], [800, 2000, 3500, 7000])
    wav = np.zeros_like(time)
    for harmonic in range(1, 60):
        weight = sum(np.exp(-(((harmonic * 130 - f) / (150 + f / 8)) ** 2)) for f in formants) + 0.02
        wav += weight * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * time + generator.uniform(0, 6)), 0, 1) ** 0.5
    wav = wav * syllables + 0.003 * generator.standard_normal(len(time))
    return (0.7 * wav / np.abs(wav).max()).astype(np.float32)


def noisy(wav: np.ndarray, snr_db: float) -> np.ndarray:
    """Add white noise to a recording at a signal-to-noise ratio."""
    noise = np.random.default_rng(1).standard_normal(len(wav)).astype(np.float32)
    return wav + noise * np.float32(wav.std() / 10 ** (snr_db / 20))


@contextmanager
def no_progress(*_: object) -> Iterator[Callable[[], None]]:
    """Show nothing."""
    yield lambda: None
