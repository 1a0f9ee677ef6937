"""The shared beginning and end of spectral losses: clean input, a short-time spectrum, a mean over valid frames."""

from __future__ import annotations

import torch
from torch import Tensor

from mimotok.model.lengths import mel_frames, valid_mask
from mimotok.model.mel import hann_window


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
