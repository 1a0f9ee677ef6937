"""Losses after two models of hearing: the disturbance of PESQ and the envelope correlations of STOI.

Both are differentiable simplifications, for training. Neither returns the score of its standard: the evaluation
computes those with the packages `pesq` and `pystoi`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from train.losses.spectra import frame_mask, powers, prepared

# P.862 plays every clip at 79 dB SPL and hears up to 8 kHz, in frames of 32 ms every 16 ms and 49 bands
LEVEL = 10**7.9
HEARD_HZ = 8000.0
BARK_BANDS = 49
ZWICKER_POWER = 0.23
# of loudness, so that disturbances come out in the units of the standard
LOUDNESS_SCALE = 0.187
# the share of the softer one of two loudnesses by which they can differ unnoticed
DEAD_ZONE = 0.25
# added sound annoys more than missing sound: a factor below 3 counts as none, one above 12 as 12
ASYMMETRY_POWER = 1.2
ASYMMETRY_FROM = 3.0
ASYMMETRY_LIMIT = 12.0
ASYMMETRY_FLOOR = 50.0
# raw PESQ is 4.5 - 0.1 (symmetric + 0.309 asymmetric)
ASYMMETRY_WEIGHT = 0.309
SOFT = 1e-3
# a frame's disturbance is divided by ((power + floor) / scale)^0.04
FRAME_POWER = 0.04
FRAME_FLOOR = 1e5
FRAME_SCALE = 1e7

# STOI: third octaves from 150 Hz, frames of about 25 ms, half overlapped, correlated over 30 of them
OCTAVE_BANDS = 15
LOWEST_HZ = 150.0
STOI_WINDOW = 0.025
STOI_FRAMES = 30
# the decoded envelope is clipped where its distance from the target's is 15 dB below the target
STOI_CLIP = 1 + 10 ** (15 / 20)
# of segments, below the loudest one: STOI drops silent frames
STOI_RANGE = 1e-4


class BarkBands(NamedTuple):
    """Bands of the Bark scale.

    Attributes:
        bank: [K, 49], the share of each of the first K bins of a spectrum in each band.
        threshold: [49], power at which each band is just heard.
        widths: [49], in Bark.
    """

    bank: Tensor
    threshold: Tensor
    widths: Tensor


def disturbance_loss(
    prediction: Tensor, target: Tensor, lengths: Tensor | None = None, *, sample_rate: int = 24000
) -> Tensor:
    """Compute the symmetric and asymmetric disturbance (ITU-T P.862, 2001, section 10.2), a mean over frames.

    It lacks the standard's compensation of delay, gain and filters. Formulas for the Bark scale (Traunmueller, 1990)
    and the threshold of hearing (Terhardt, 1979) replace its tables, and a mean over time replaces norms in which the
    worst frames decide. It is computed in fp32 whatever autocast says.

    Args:
        prediction: wav [B, T].
        target: wav [B, T], aligned in time.
        lengths: [B] samples, beyond which nothing counts.
        sample_rate: Hz.
    """
    prediction = prepared(prediction, lengths)
    target = prepared(target, lengths)
    with torch.autocast(prediction.device.type, enabled=False):
        window = 2 * (hop := round(0.016 * sample_rate))
        bands = bark_bands(sample_rate, window, target.device)
        predicted, wanted = (
            powers(wav, window, hop, bins=len(bands.bank)) @ bands.bank for wav in (prediction, target)
        )
        mask = frame_mask(wanted, lengths, hop)
        gain = _calibration(wanted.sum(-1), mask)
        predicted = gain * predicted
        wanted = gain * wanted
        error = _disturbance(predicted, wanted, bands) * mask
        return error.sum() / mask.sum().clamp(min=1)


def _disturbance(predicted: Tensor, wanted: Tensor, bands: BarkBands) -> Tensor:
    """Return the disturbance [B, F] of powers [B, F, 49]."""
    loudness = _loudness(predicted, bands.threshold)
    target_loudness = _loudness(wanted, bands.threshold)
    slack = DEAD_ZONE * torch.minimum(loudness, target_loudness)
    difference = ((loudness - target_loudness).abs() - slack).relu() * bands.widths
    # softened at zero, where a root has no slope
    symmetric = (bands.widths.sum() * difference.square().sum(-1) + SOFT**2).sqrt() - SOFT

    ratio = ((predicted.detach() + ASYMMETRY_FLOOR) / (wanted + ASYMMETRY_FLOOR)) ** ASYMMETRY_POWER
    factor = ratio.clamp(max=ASYMMETRY_LIMIT) * (ratio >= ASYMMETRY_FROM)
    asymmetric = (factor * difference).sum(-1)
    weight = ((wanted.sum(-1) + FRAME_FLOOR) / FRAME_SCALE) ** FRAME_POWER
    return (symmetric + ASYMMETRY_WEIGHT * asymmetric) / weight


def _loudness(band_power: Tensor, threshold: Tensor) -> Tensor:
    """Apply Zwicker's law: loudness per Bark of a band's power, 0 where it cannot be heard."""
    heard = (0.5 + 0.5 * band_power / threshold) ** ZWICKER_POWER - 1
    return LOUDNESS_SCALE * (threshold / 0.5) ** ZWICKER_POWER * heard.relu()


def _calibration(frame_power: Tensor, mask: Tensor) -> Tensor:
    """Return the gain [B, 1, 1] that brings the clip's mean power over its sounding frames to LEVEL."""
    sounding = mask * (frame_power > 1e-3 * frame_power.amax(1, keepdim=True))
    mean = (frame_power * sounding).sum(1) / sounding.sum(1).clamp(min=1)
    # a silent clip stays silent
    return (LEVEL / mean.clamp(min=1e-6))[:, None, None]


@lru_cache(maxsize=8)
def bark_bands(sample_rate: int, window: int, device: torch.device) -> BarkBands:
    """Compute the bands over the bins of an STFT of this window; bins above HEARD_HZ are in none."""
    with torch.inference_mode(False):
        hertz = torch.arange(window // 2 + 1, dtype=torch.float64) * sample_rate / window
        edges = torch.linspace(float(_bark(torch.tensor(0.0))), float(_bark(torch.tensor(HEARD_HZ))), BARK_BANDS + 1)
        position = (_bark(hertz) - edges[0]) / (edges[1] - edges[0])
        # triangles one band wide on either side: the lowest bands are narrower than a bin
        bank = (1 - (position[:, None] - torch.arange(BARK_BANDS) - 0.5).abs()).clamp(min=0)
        bank[0] = 0
        bank = bank[hertz <= HEARD_HZ]
        centre = _hertz((edges[1:] + edges[:-1]) / 2) / 1000
        quiet = 3.64 * centre**-0.8 - 6.5 * (-0.6 * (centre - 3.3) ** 2).exp() + 1e-3 * centre**4
        widths = edges.diff()
        return BarkBands(*(t.float().to(device) for t in (bank, 10 ** (quiet / 10), widths)))


def _bark(hertz: Tensor) -> Tensor:
    return 26.81 * hertz / (1960 + hertz) - 0.53


def _hertz(bark: Tensor) -> Tensor:
    return 1960 * (bark + 0.53) / (26.28 - bark)


def stoi_loss(prediction: Tensor, target: Tensor, lengths: Tensor | None = None, *, sample_rate: int = 24000) -> Tensor:
    """Compute 1 minus the mean correlation of short-time envelopes in third octaves.

    Taal et al., 2011, "An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech". Silent
    segments are left out, where STOI drops silent frames and joins the others. A clip shorter than 30 frames (0.4 s)
    counts nothing. Arguments as in `disturbance_loss`.
    """
    prediction = prepared(prediction, lengths)
    target = prepared(target, lengths)
    with torch.autocast(prediction.device.type, enabled=False):
        window = round(STOI_WINDOW * sample_rate)
        hop = window // 2
        bank = _octave_bank(sample_rate, window, target.device)
        if target.shape[1] // hop + 1 < STOI_FRAMES:
            return prediction.sum() * 0
        envelopes = [
            (powers(wav, window, hop, 2 * window, len(bank)) @ bank + 1e-9).sqrt() for wav in (prediction, target)
        ]
        predicted, wanted = (envelope.unfold(1, STOI_FRAMES, 1) for envelope in envelopes)
        # a segment counts where all its frames do, and where it sounds
        energy = wanted.square().sum((2, 3))
        mask = frame_mask(envelopes[1], lengths, hop).unfold(1, STOI_FRAMES, 1).amin(-1)
        mask = mask * (energy > STOI_RANGE * energy.amax(1, keepdim=True))
        correlation = _correlation(predicted, wanted)
        if not mask.any():
            return prediction.sum() * 0
        return 1 - (correlation * mask).sum() / mask.sum()


def _correlation(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Scale and clip envelopes [B, S, bands, 30] as STOI does. Returns their mean correlation over bands [B, S]."""
    # envelopes are above 0, so that these roots have slopes
    level = (_energy(wanted) / _energy(predicted)).sqrt()
    predicted = torch.minimum(level * predicted, STOI_CLIP * wanted)
    predicted = predicted - predicted.mean(-1, keepdim=True)
    wanted = wanted - wanted.mean(-1, keepdim=True)
    # as torch.cosine_similarity, whose norms take ten times as long as these sums
    scale = (_energy(predicted).clamp(min=1e-16) * _energy(wanted).clamp(min=1e-16)).sqrt()
    return ((predicted * wanted).sum(-1, keepdim=True) / scale).mean((-2, -1))


def _energy(envelopes: Tensor) -> Tensor:
    return envelopes.square().sum(-1, keepdim=True)


@lru_cache(maxsize=8)
def _octave_bank(sample_rate: int, window: int, device: torch.device) -> Tensor:
    """Return [K, 15]: the first bins of an STFT that is padded to twice its window, in third octaves."""
    with torch.inference_mode(False):
        hertz = torch.arange(window + 1) * sample_rate / (2 * window)
        band = (3 * (hertz / LOWEST_HZ).clamp(min=1e-3).log2()).round()
        band = band[band < OCTAVE_BANDS]
        return (band[:, None] == torch.arange(OCTAVE_BANDS)).float().to(device)
