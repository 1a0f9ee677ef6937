"""The shared beginning and end of spectral losses: clean input, a short-time spectrum, a mean over valid frames."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimotok.model.lengths import mel_frames, valid_mask
from mimotok.model.mel import hann_window
from mimotok.model.vocoder import overlap_add


def prepared(wav: Tensor, lengths: Tensor | None) -> Tensor:
    """Return wav [B, T] in fp32, zero past its length."""
    wav = wav.float()
    return wav if lengths is None else wav * valid_mask(lengths, wav.shape[1])


def stft(wav: Tensor, window: int, hop: int, nfft: int | None = None) -> Tensor:
    """Compute the STFT of wav [B, T], divided by the window's root energy.

    Zeros, not reflections, surround the clip: they are what a padded clip already has past its end.

    Args:
        wav: [B, T].
        window: samples.
        hop: samples.
        nfft: samples; the window where None.

    Returns:
        Complex [B, T // hop + 1, nfft // 2 + 1].
    """
    hann = hann_window(window, wav.device)
    spectrum = torch.stft(
        wav, nfft or window, hop, window, hann / hann.norm(), center=True, pad_mode="constant", return_complex=True
    )
    return spectrum.transpose(1, 2)


def magnitudes(wav: Tensor, window: int, hop: int) -> Tensor:
    """Return `stft(wav, window, hop).abs()`, [B, F, K], at half the time and memory.

    torch goes back through its complex spectra one operation at a time, the last of them a transform of the full length
    that makes a real signal of no symmetry. Here it is one real transform, and only spectrum and magnitude are kept.
    """
    return _Magnitudes.apply(wav, window, hop)


class FilterBank:
    """Filters that each reach over a few neighbouring bins only: `bank(spectrum)` is spectrum [..., K] @ matrix [K, N].

    Zeros are most of a wide bank. On a CPU each group of filters is a product of its own, with just the bins that they
    reach over, which takes a tenth of the time of the whole product for 256 filters.
    """

    GROUP = 16

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        size = self.GROUP if matrix.device.type == "cpu" else matrix.shape[1]
        self.groups = [_group(matrix, slice(first, first + size)) for first in range(0, matrix.shape[1], size)]

    def __call__(self, spectrum: Tensor) -> Tensor:
        """Filter a spectrum [..., K]."""
        return _Filtered.apply(spectrum, self)


class FilterGroup(NamedTuple):
    """Neighbouring filters: their place in the bank, the bins that they reach over, and their part of the matrix."""

    filters: slice
    bins: slice
    part: Tensor


def _group(matrix: Tensor, filters: slice) -> FilterGroup:
    used = matrix[:, filters].any(1).nonzero().flatten().tolist() or [0]
    bins = slice(used[0], used[-1] + 1)
    return FilterGroup(filters, bins, matrix[bins, filters].contiguous())


class _Filtered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, bank: FilterBank) -> Tensor:
        ctx.bank = bank
        return torch.cat([spectrum[..., group.bins] @ group.part for group in bank.groups], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        back = gradient.new_zeros(*gradient.shape[:-1], len(ctx.bank.matrix))
        for group in ctx.bank.groups:
            back[..., group.bins] += gradient[..., group.filters] @ group.part.T
        return back, None


def powers(wav: Tensor, window: int, hop: int, nfft: int | None = None, bins: int | None = None) -> Tensor:
    """Return the squares of `stft(wav, window, hop, nfft).abs()`, of the first `bins` or of all. See `magnitudes`."""
    return _Powers.apply(wav, window, hop, nfft or window, bins)


class _Magnitudes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wav: Tensor, window: int, hop: int) -> Tensor:
        spectrum = _spectrum(wav, window, hop, window)
        magnitude = _square(spectrum).sqrt_()
        ctx.save_for_backward(spectrum, magnitude)
        ctx.shape = (wav.shape[1], window, hop, window)
        return magnitude

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        spectrum, magnitude = ctx.saved_tensors
        # the gradient of an absolute value is 0 at zero, as torch has it; no root of a square in fp32 is between
        slope = gradient / magnitude.clamp(min=1e-23)
        return _back_to_sound(spectrum, slope, *ctx.shape), None, None


class _Powers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wav: Tensor, window: int, hop: int, nfft: int, bins: int | None) -> Tensor:
        spectrum = _spectrum(wav, window, hop, nfft)[..., :bins]
        ctx.save_for_backward(spectrum)
        ctx.shape = (wav.shape[1], window, hop, nfft)
        return _square(spectrum)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (spectrum,) = ctx.saved_tensors
        return _back_to_sound(spectrum, 2 * gradient, *ctx.shape), None, None, None, None


def _window(window: int, device: torch.device) -> Tensor:
    hann = hann_window(window, device)
    return hann / hann.norm()


def _spectrum(wav: Tensor, window: int, hop: int, nfft: int) -> Tensor:
    """Return that of `stft`, but for its phase: with nfft above the window, the zeros all follow the frame."""
    before = nfft // 2 - (nfft - window) // 2
    count = (wav.shape[1] + nfft // 2 * 2 - nfft) // hop + 1
    after = max(0, (count - 1) * hop + window - before - wav.shape[1])
    frames = F.pad(wav, (before, after)).unfold(1, window, hop)[:, :count]
    return torch.fft.rfft(frames * _window(window, wav.device), nfft)


def _square(spectrum: Tensor) -> Tensor:
    # a sum over pairs takes four times as long as two passes with a stride
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def _back_to_sound(spectrum: Tensor, slope: Tensor, size: int, window: int, hop: int, nfft: int) -> Tensor:
    """Return the gradient of sound [B, size] from that of its spectrum, which is `slope` times the spectrum.

    slope is changed in place.
    """
    # a real inverse transform counts each bin twice, but for the first one and the one at half the rate
    last = nfft // 2 + 1 if nfft % 2 else nfft // 2
    slope[..., 1:last] *= 0.5
    frames = torch.fft.irfft(spectrum * slope, nfft, norm="forward")[..., :window] * _window(window, slope.device)
    before = nfft // 2 - (nfft - window) // 2
    sound = overlap_add(frames, hop).flatten(1)[:, before : before + size]
    return F.pad(sound, (0, size - sound.shape[1]))


def power(spectrum: Tensor) -> Tensor:
    """Return |spectrum|^2 of a complex tensor, with a gradient at zero too."""
    return spectrum.real.square() + spectrum.imag.square()


def frame_mean(error: Tensor, lengths: Tensor | None, hop: int) -> Tensor:
    """Return the mean of error, [B, F, K], over the frames that lie in the clips and over K."""
    mask = frame_mask(error, lengths, hop)
    return (error.mean(-1) * mask).sum() / mask.sum()


def frame_mask(frames: Tensor, lengths: Tensor | None, hop: int) -> Tensor:
    """Return [B, F] as fp32, 1 at frames that lie in the clips.

    Args:
        frames: [B, F, K], hop samples apart.
        lengths: [B] samples, None where all frames are valid.
        hop: samples.
    """
    if lengths is None:
        return torch.ones(frames.shape[:2], device=frames.device)
    return valid_mask(mel_frames(lengths, hop), frames.shape[1]).float()
