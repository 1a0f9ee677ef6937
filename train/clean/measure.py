"""Estimates on a segment of speech: signal-to-noise ratio, clipping, bandwidth, and a fingerprint. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mimotok.io.audio import resample
from train.clean.segments import Span

_FRAME = 0.02  # seconds
_CONTEXT = 2.0  # seconds around a segment in which noise is heard
_GUARD = 0.06  # seconds beside speech that are neither speech nor noise: reverberation, and the detector's frames
_LEAST_NOISE = 5  # frames
_BEST_SNR = 80.0  # dB: of digital silence between words
_FLAT = 0.999  # of the peak
_FLAT_RUN = 3  # samples in a row
_SPECTRUM = 2048  # samples
_BAND_FLOOR = 75.0  # dB below the strongest band: above it a band holds something
_RATE = 8000  # Hz, of fingerprints: what survives any codec
_BANDS = 16
_STEPS = 32


class Levels(NamedTuple):
    """Frames of 20 ms of a recording: the power of each, whether it is speech, and whether speech is near."""

    powers: np.ndarray
    spoken: np.ndarray
    near_speech: np.ndarray


def levels_of(wav: np.ndarray, rate: int, speech: Sequence[Span]) -> Levels:
    """Measure a recording, [T] at `rate` Hz, with all its stretches of speech."""
    size = max(1, round(_FRAME * rate))
    powers = np.square(wav[: len(wav) // size * size].reshape(-1, size), dtype=np.float64).mean(axis=1)
    spoken = np.zeros(len(powers), bool)
    near_speech = np.zeros(len(powers), bool)
    for span in speech:
        spoken[_frames(span)] = True
        near_speech[_frames(Span(span.start - _GUARD, span.end + _GUARD))] = True
    return Levels(powers, spoken, near_speech)


def _frames(span: Span) -> slice:
    """Return the frames whose middle lies in a span."""
    return slice(max(0, round(span.start / _FRAME)), max(0, round(span.end / _FRAME)))


def estimate_snr(levels: Levels, segment: Span) -> float:
    """Estimate a segment's signal-to-noise ratio in dB, at most 80.

    Noise is the mean power of the frames without speech, within two seconds of the segment; where there are fewer than
    five of them, of the quietest tenth of the segment's frames.
    """
    inside = _frames(segment)
    around = _frames(Span(segment.start - _CONTEXT, segment.end + _CONTEXT))
    voiced = levels.powers[inside][levels.spoken[inside]]
    if not len(voiced):
        return 0.0
    noise = np.sort(voiced)[: max(1, len(voiced) // 10)].mean()
    silence = levels.powers[around][~levels.near_speech[around]]
    if len(silence) >= _LEAST_NOISE:
        noise = silence.mean()
    signal = max(voiced.mean() - noise, 1e-12)
    return float(min(10 * np.log10(signal / max(noise, 1e-12)), _BEST_SNR))


def clipping_share(wav: np.ndarray) -> float:
    """Return the share of samples of a segment, [T], in flat tops: three or more in a row at its peak, either sign."""
    peak = np.abs(wav).max(initial=0.0)
    if peak == 0:
        return 0.0
    count = 0
    for top in (wav >= _FLAT * peak, wav <= -_FLAT * peak):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], top.astype(np.int8), [0]])))
        lengths = edges[1::2] - edges[::2]
        count += int(lengths[lengths >= _FLAT_RUN].sum())
    return count / len(wav)


def bandwidth(wav: np.ndarray, rate: int) -> float:
    """Return the highest frequency in Hz at which a segment, [T], holds anything: 75 dB below its strongest band.

    Dither and the rest of a resampler stay below that; a recording that was once narrow-band shows its old limit.
    """
    size = min(_SPECTRUM, len(wav))
    frames = np.lib.stride_tricks.sliding_window_view(wav, size)[:: max(1, size // 2)]
    spectrum = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1))).mean(axis=0)
    held = np.flatnonzero(spectrum > spectrum.max(initial=0.0) * 10 ** (-_BAND_FLOOR / 10))
    return float(held[-1] * rate / size) if len(held) else 0.0


def fingerprint(wav: np.ndarray, rate: int) -> np.ndarray:
    """Return int8 [512]: the shape of a segment's spectrogram below 4 kHz on a grid of 16 bands and 32 moments.

    The cosine of two fingerprints is near 1 for the same sound at another level, rate or in another codec, and low for
    the same words said again.
    """
    narrow = resample(wav, rate, _RATE)
    size = 256
    narrow = np.pad(narrow, (0, max(0, size * 2 - len(narrow))))
    frames = np.lib.stride_tricks.sliding_window_view(narrow, size)[:: size // 4]
    spectrum = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)))
    edges = np.unique(np.geomspace(3, size // 2, _BANDS + 1).round().astype(int))
    bands = np.stack([spectrum[:, a:b].mean(axis=1) for a, b in pairwise(edges)])
    # means over moments, which change little where a copy begins a little earlier or later
    places = (np.arange(_STEPS) * bands.shape[1] / _STEPS).astype(int)
    counts = np.maximum(np.diff(np.append(places, bands.shape[1])), 1)
    moments = np.add.reduceat(bands, places, axis=1) / counts
    # what lies far below the loudest is noise, which differs
    grid = np.log(np.maximum(moments, 1e-3 * moments.max(initial=1e-20)))
    grid = grid - grid.mean(axis=1, keepdims=True)
    scale = np.abs(grid).max(initial=1e-9)
    flat = np.round(grid / scale * 127).astype(np.int8).ravel()
    return np.pad(flat, (0, _BANDS * _STEPS - len(flat)))
