"""Log-mel features in plain torch: HTK filterbank, magnitude spectrum, natural logarithm (MiMo-Audio, section 2.1)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import mel_frames, valid_mask
from mimotok.model.precision import full_precision

# Spectra at once: those of minutes of audio leave the cache, at half the speed.
BLOCK_FRAMES = 6000


def log_mel(wav: Tensor, lengths: Tensor | None, config: TokenizerConfig) -> tuple[Tensor, Tensor | None]:
    """wav: float [B, T] at config.sample_rate; lengths: [B] samples. Returns mel [B, frames, n_mels] and its lengths.

    Each clip is reflected at its own end, so its frames do not depend on what it is padded with.
    """
    half = config.n_fft // 2
    padded = reflect_pad(wav, lengths, half, half)
    mel = frame_log_mel(padded, config)
    if lengths is None:
        return mel, None
    frames = mel_frames(lengths, config.hop_length)
    return mel * valid_mask(frames, mel.shape[1])[..., None], frames


def frame_log_mel(padded: Tensor, config: TokenizerConfig) -> Tensor:
    """padded: [B, n_fft + (frames - 1) * hop]: the STFT without centring. Returns mel [B, frames, n_mels] in fp32."""
    hop = config.hop_length
    kept = config.n_fft - config.hop_length
    frames = (padded.shape[1] - kept) // hop
    if torch.compiler.is_compiling():  # a graph holds no loop over blocks
        return _block(padded, config)
    starts = range(0, max(frames, 1), BLOCK_FRAMES)
    blocks = [_block(padded[:, start * hop : (start + BLOCK_FRAMES) * hop + kept], config) for start in starts]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)


def _block(padded: Tensor, config: TokenizerConfig) -> Tensor:
    # codes depend on its last bits, under autocast too
    with full_precision(padded):
        return _log_mel_of(padded.float(), config)


def _log_mel_of(padded: Tensor, config: TokenizerConfig) -> Tensor:
    window = hann_window(config.window_size, padded.device)
    spectrum = torch.stft(
        padded,
        config.n_fft,
        config.hop_length,
        config.window_size,
        window,
        center=False,
        return_complex=True,
    )
    # abs() would guard against overflow, which windowed samples in fp32 do not come near, at three times the time
    power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
    # the root has no gradient at 0, which digital silence is
    magnitude = power.clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    bank = mel_filterbank(config.n_mels, config.n_fft, config.sample_rate, config.fmin, config.mel_top)
    return (magnitude.transpose(1, 2) @ bank.to(padded.device)).clamp(min=config.mel_floor).log()


def reflect_pad(wav: Tensor, lengths: Tensor | None, left: int, right: int) -> Tensor:
    """wav: [B, T] -> [B, left + T + right], each clip mirrored at its first and last valid sample.

    As numpy's "reflect": a clip shorter than the padding is mirrored again and again, one sample is repeated.
    """
    # in a graph the length is a symbol, which may be either
    if lengths is None and not torch.compiler.is_compiling() and wav.shape[1] > max(left, right):
        return F.pad(wav, (left, right), mode="reflect")
    if lengths is None:
        lengths = torch.full((wav.shape[0],), wav.shape[1], device=wav.device)
    position = torch.arange(-left, wav.shape[1] + right, device=wav.device)
    period = (2 * (lengths - 1)).clamp(min=1)[:, None]
    position = position % period
    index = torch.where(lengths[:, None] == 1, 0, torch.minimum(position, period - position))
    return wav.gather(1, index)


def hann_window(size: int, device: torch.device) -> Tensor:
    """Make a periodic Hann window [size], fp32."""
    # what a graph computes is no tensor to keep
    return _window(size, device) if torch.compiler.is_compiling() else _kept_window(size, device)


def mel_filterbank(n_mels: int, n_fft: int, sample_rate: int, fmin: float, fmax: float) -> Tensor:
    """Make HTK's triangular filters [n_fft // 2 + 1, n_mels] on the CPU, fp32, without area normalisation."""
    make = _bank if torch.compiler.is_compiling() else _kept_bank
    return make(n_mels, n_fft, sample_rate, fmin, fmax)


def _window(size: int, device: torch.device) -> Tensor:
    return torch.hann_window(size, dtype=torch.float32, device=device)


def _bank(n_mels: int, n_fft: int, sample_rate: int, fmin: float, fmax: float) -> Tensor:
    frequencies = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1, dtype=torch.float32, device="cpu")
    edges = _mel_to_hz(
        torch.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), n_mels + 2, dtype=torch.float32, device="cpu")
    )
    slopes = edges[None, :] - frequencies[:, None]
    widths = edges[1:] - edges[:-1]
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0)


@lru_cache(maxsize=64)
def _kept_window(size: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _window(size, device)


@lru_cache(maxsize=64)
def _kept_bank(n_mels: int, n_fft: int, sample_rate: int, fmin: float, fmax: float) -> Tensor:
    with torch.inference_mode(False):
        return _bank(n_mels, n_fft, sample_rate, fmin, fmax)


def _hz_to_mel(frequency: float) -> float:
    return 2595.0 * math.log10(1.0 + frequency / 700.0)


def _mel_to_hz(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
