"""What every codec is measured under: rates, levels and alignment, stated once and printed in every report."""

from __future__ import annotations

import numpy as np
import soxr

from mimotok.io.audio import RESAMPLER

VERSION = 2  # raise it when a figure's meaning changes: cached figures of another version are not used
SAMPLE_RATE = 24000  # Hz: originals and reconstructions are compared, stored and played at this rate
PEAK = 0.7  # leaves headroom, so that a codec's overshoot is not clipped when it is stored
MAX_DELAY = 0.1  # seconds either way that alignment searches
MAX_LENGTH_ERROR = 0.1  # seconds: a codec that changes the length by more is reported
SILENCE = 1e-3  # peak (-60 dBFS) below which a recording holds nothing to measure

RULES = (
    f"Originals: mono, resampled to {SAMPLE_RATE} Hz, scaled to a peak of {PEAK}, stored as 16-bit FLAC. Every codec "
    "reads that file's samples, resampled to its own rate.",
    f"Resampler, everywhere: soxr at quality {RESAMPLER}.",
    f"Alignment: the delay within ±{MAX_DELAY * 1000:.0f} ms is found per clip and removed: the largest absolute "
    "cross-correlation of the waveforms or, where that stays below 0.5 of their energies because the codec keeps no "
    "waveform, the largest cross-correlation of log-mel spectrograms with a step of 1 ms.",
    f"Length: after alignment a reconstruction is cut, or padded with zeros, to its original; a length off by more "
    f"than {MAX_LENGTH_ERROR * 1000:.0f} ms counts as a failure, and the clip is still measured.",
    f"Reconstructions are stored as 16-bit FLAC at {SAMPLE_RATE} Hz, clipped to [-1, 1], and measured as stored: what "
    "can be heard is what was measured. Their level is left as it is; PESQ levels both sides itself.",
    "A metric that fails on a clip (PESQ finds no utterance, a silent reconstruction, speech in another language than "
    "the recogniser's) has no value there. It is counted as missing and averaged nowhere.",
    "Intervals: 95 %, percentile bootstrap over clips.",
)


def resample(wav: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """wav: float32 [T] at `source_rate` Hz -> float32 [T'] at `rate` Hz."""
    if source_rate == rate:
        return wav
    return soxr.resample(wav, source_rate, rate, quality=RESAMPLER).astype(np.float32)
