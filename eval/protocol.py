"""The conditions of every measurement: rates, levels and alignment, stated once and printed in every report."""

from __future__ import annotations

from mimotok.io.audio import RESAMPLER
from mimotok.io.audio import resample as resample

VERSION = 2  # raise it when a figure's meaning changes: cached figures of another version are not used
SAMPLE_RATE = 24000  # Hz: originals and reconstructions are compared, stored and played at this rate
PEAK = 0.7  # leaves headroom, so that a codec's overshoot is not clipped when it is stored
MAX_DELAY = 0.1  # seconds in either direction that alignment searches
MAX_LENGTH_ERROR = 0.1  # seconds: a codec that changes the length by more is reported
SILENCE = 1e-3  # peak (-60 dBFS) below which there is nothing to measure in a recording

RULES = (
    f"Originals: mono, resampled to {SAMPLE_RATE} Hz, scaled to a peak of {PEAK}, stored as 16-bit FLAC. Every codec "
    "reads that file's samples, resampled to its own rate.",
    f"Resampler, everywhere: soxr at quality {RESAMPLER}.",
    f"Alignment: the delay within ±{MAX_DELAY * 1000:.0f} ms is found per clip and removed: the largest absolute "
    "cross-correlation of the waveforms or, where that stays below 0.5 of their energies because the codec keeps no "
    "waveform, the largest cross-correlation of log-mel spectrograms with a step of 1 ms.",
    f"Length: after alignment a reconstruction is cut, or padded with zeros, to its original; a length off by more "
    f"than {MAX_LENGTH_ERROR * 1000:.0f} ms counts as a failure, and the clip is still measured.",
    f"Reconstructions are stored as 16-bit FLAC at {SAMPLE_RATE} Hz, clipped to [-1, 1], and measured as stored: the "
    "files that can be heard are those that were measured. Their level is unchanged; PESQ levels both sides itself.",
    "A metric that fails on a clip (PESQ finds no utterance, a silent reconstruction, speech in a language that the "
    "recogniser does not know) has no value for it. The clip is counted as missing and is not part of the mean.",
    "Intervals: 95 %, percentile bootstrap over clips.",
)
