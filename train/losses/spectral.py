"""The losses between spectra as pure functions of tensors; their weights are data of the config.

Equation numbers are those of "MiMo-Audio: Audio Language Models are Few-Shot Learners", section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from mimotok.model.mel import mel_filterbank
from train.losses.spectra import FilterBank, frame_mask, frame_mean, magnitudes, prepared, stft

MelScale = tuple[int, int, int]
Resolution = tuple[int, int]

PUBLISHED_SCALES: tuple[MelScale, ...] = tuple((2**i, 15 * 2 ** (i - 1), 15 * 2 ** (i - 2)) for i in (5, 6, 7))
RESOLUTIONS: tuple[Resolution, ...] = ((480, 120), (960, 240), (1920, 480))

# What a periodic Hann window of 960 samples, that of mimotok's log-mel, multiplies a noise magnitude by.
# Floors are given in the units of that mel and divided by this, as the spectra here are normalised.
MEL_GAIN = math.sqrt(960 * 3 / 8)


@dataclass(frozen=True)
class MelLoss:
    """`mel_loss` with its settings bound, for a config.

    Attributes:
        scales: (n_mels, window, hop) each, window and hop in samples.
        exponents: as in `mel_loss`.
        floor: as in `mel_loss`.
        sample_rate: Hz, for which the scales are given; a stage takes the loss `at_rate` of its model.

    Raises:
        ValueError: where a scale has a filter without input.
    """

    scales: Sequence[MelScale] = PUBLISHED_SCALES
    exponents: Sequence[float] = (1.0,)
    floor: float = 1e-3
    sample_rate: int = 24000

    def __post_init__(self) -> None:
        if not self.exponents or min(self.exponents) < 0:
            raise ValueError(f"exponents={list(self.exponents)}: give one or more, 0 for the logarithm or above")
        for n_mels, window, _ in self.scales:
            bank = mel_filterbank(n_mels, window, self.sample_rate, 0.0, self.sample_rate / 2)
            if empty := int((bank.sum(0) == 0).sum()):
                raise ValueError(
                    f"mel scale ({n_mels} bins, window {window}): {empty} filters lie between two FFT bins "
                    f"and would never train; use fewer bins or a wider window"
                )

    def at_rate(self, sample_rate: int) -> MelLoss:
        """Return the loss for another sample rate: windows of the same times, and filters as wide on the mel scale."""
        if sample_rate == self.sample_rate:
            return self
        stretch = sample_rate / self.sample_rate
        mels = _hz_to_mel(sample_rate / 2) / _hz_to_mel(self.sample_rate / 2)
        scales = tuple(
            (max(1, int(n_mels * mels)), 2 * round(window * stretch / 2), round(hop * stretch))
            for n_mels, window, hop in self.scales
        )
        return replace(self, scales=scales, sample_rate=sample_rate)

    def __call__(self, prediction: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute the scalar loss of wav [B, T] against a target [B, T] with lengths [B] samples."""
        return mel_loss(
            prediction,
            target,
            lengths,
            scales=self.scales,
            exponents=self.exponents,
            floor=self.floor,
            sample_rate=self.sample_rate,
        )


def mel_loss(
    prediction: Tensor,
    target: Tensor,
    lengths: Tensor | None = None,
    *,
    scales: Sequence[MelScale] = PUBLISHED_SCALES,
    exponents: Sequence[float] = (1.0,),
    floor: float = 1e-3,
    sample_rate: int = 24000,
) -> Tensor:
    """Compute the multi-scale L1 between mel spectrograms (eq. 2).

    It is the mean over valid frames and bins, summed over scales and exponents, in fp32 whatever autocast says.

    Args:
        prediction: wav [B, T].
        target: wav [B, T].
        lengths: [B] samples, beyond which nothing counts.
        scales: (n_mels, window, hop) each, window and hop in samples.
        exponents: the spectra are compared as (mel + floor)^e / e, and for 0 as its limit, the logarithm (Box and Cox,
            1964). 1 as published weighs only loud parts, 0 weighs loud and soft alike, 0.3 about as loudness does
            (Stevens, 1957).
        floor: in the units of mimotok's own mel. It is added, not clamped, so that a prediction below it still receives
            a gradient.
        sample_rate: Hz.
    """
    prediction = prepared(prediction, lengths)
    target = prepared(target, lengths)
    with torch.autocast(prediction.device.type, enabled=False):
        total = prediction.new_zeros(())
        for n_mels, window, hop in scales:
            bank = _normalised_bank(n_mels, window, sample_rate, prediction.device)
            predicted = bank(magnitudes(prediction, window, hop)) + floor / MEL_GAIN
            wanted = bank(magnitudes(target, window, hop)) + floor / MEL_GAIN
            for exponent in exponents:
                error = (_box_cox(predicted, exponent) - _box_cox(wanted, exponent)).abs()
                total = total + frame_mean(error, lengths, hop)
        return total


def _hz_to_mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def _box_cox(x: Tensor, exponent: float) -> Tensor:
    """Apply the transform without its constant, which cancels in differences."""
    return x.log() if exponent == 0 else x**exponent / exponent


def stft_loss(
    prediction: Tensor,
    target: Tensor,
    lengths: Tensor | None = None,
    *,
    resolutions: Sequence[Resolution] = RESOLUTIONS,
    floor: float = 1e-3,
) -> Tensor:
    """Compute the multi-resolution STFT loss (Yamamoto et al. 2020, "Parallel WaveGAN"), averaged over resolutions.

    It is the spectral convergence (per clip, then averaged) plus L1 of ln(magnitude + floor). Tensors, lengths and
    floor are as in `mel_loss`; resolutions are (window, hop) in samples.
    """
    prediction = prepared(prediction, lengths)
    target = prepared(target, lengths)
    total = prediction.new_zeros(())
    for window, hop in resolutions:
        # the floor also bounds the ratio below: on a silent clip it would divide by zero
        predicted = magnitudes(prediction, window, hop) + floor / MEL_GAIN
        wanted = magnitudes(target, window, hop) + floor / MEL_GAIN
        log_error = (predicted.log() - wanted.log()).abs()
        mask = frame_mask(wanted, lengths, hop)[..., None]
        predicted = predicted * mask
        wanted = wanted * mask
        error = torch.linalg.vector_norm(predicted - wanted, dim=(1, 2))
        level = torch.linalg.vector_norm(wanted, dim=(1, 2))
        total = total + (error / level).mean() + frame_mean(log_error, lengths, hop)
    return total / len(resolutions)


def complex_loss(
    prediction: Tensor,
    target: Tensor,
    lengths: Tensor | None = None,
    *,
    resolutions: Sequence[Resolution] = RESOLUTIONS,
    power: float = 0.3,
    floor: float = 1e-3,
) -> Tensor:
    """Compute the phase-aware L1 of compressed spectra |S|^power e^(j phase), averaged over resolutions.

    The compression is that of Ephrat et al. 2018 ("Looking to Listen"), with |S| softened by `floor`, where the power
    would have an infinite slope. Tensors, lengths and floor are as in `mel_loss`.
    """
    prediction = prepared(prediction, lengths)
    target = prepared(target, lengths)
    total = prediction.new_zeros(())
    for window, hop in resolutions:
        predicted = _compressed(stft(prediction, window, hop), power, floor / MEL_GAIN)
        wanted = _compressed(stft(target, window, hop), power, floor / MEL_GAIN)
        total = total + frame_mean((predicted - wanted).abs(), lengths, hop)
    return total / len(resolutions)


@lru_cache(maxsize=64)
def _normalised_bank(n_mels: int, window: int, sample_rate: int, device: torch.device) -> FilterBank:
    # a tensor created in inference mode (a validation loop's) could not be saved for a later backward pass
    with torch.inference_mode(False):
        return FilterBank(mel_filterbank(n_mels, window, sample_rate, 0.0, sample_rate / 2).to(device))


def _compressed(spectrum: Tensor, power: float, floor: float) -> Tensor:
    """Return the real and imaginary parts [B, F, 2 K] of complex [B, F, K] with the magnitude raised to `power`."""
    parts = torch.view_as_real(spectrum)
    gain = (parts.square().sum(-1, keepdim=True) + floor**2) ** ((power - 1) / 2)
    return (parts * gain).flatten(2)
