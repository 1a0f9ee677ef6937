"""The vocoder: a windowed Transformer and an inverse STFT head (after Vocos; Siuzdak, 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import valid_mask
from mimotok.model.linear import Linear
from mimotok.model.mel import hann_window
from mimotok.model.transformer import Stack, StackShape, make_norm

# Vocos's safeguard against runaway magnitudes.
MAX_MAGNITUDE = 100.0


class ISTFTHead(nn.Module):
    """Log-magnitude and phase per frame, and the inverse STFT with "same" padding."""

    def __init__(self, dim: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.out = Linear(dim, n_fft + 2)
        self.n_fft = n_fft
        self.hop_length = hop_length

    def forward(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """hidden: [B, T, dim], lengths: [B] valid frames. Returns wav float32 [B, T * hop_length]."""
        return inverse_stft(*self.magnitude_phase(hidden), self.n_fft, self.hop_length, lengths)

    def magnitude_phase(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: [B, T, dim] -> magnitude and phase (radians), each float32 [B, T, n_fft // 2 + 1]."""
        # a phase of ten radians in bf16 is off by 0.03: under autocast the projection stays in the weights' dtype
        with torch.autocast(hidden.device.type, enabled=False):
            log_magnitude, phase = self.out(hidden.to(self.out.weight.dtype)).float().chunk(2, dim=-1)
        return log_magnitude.exp().clamp(max=MAX_MAGNITUDE), phase


def inverse_stft(magnitude: Tensor, phase: Tensor, n_fft: int, hop_length: int, lengths: Tensor | None) -> Tensor:
    """magnitude, phase: [B, T, n_fft // 2 + 1] -> wav [B, T * hop_length].

    Overlap-add of Hann-windowed frames, cropped by (n_fft - hop) / 2 on each side and divided by the summed squared
    window; frames past an item's length take no part.
    """
    size = magnitude.shape[1]
    window = hann_window(n_fft, magnitude.device)
    frames = torch.fft.irfft(torch.polar(magnitude, phase), n_fft) * window
    present = torch.ones(1, size, device=frames.device)
    if lengths is not None:
        present = valid_mask(lengths, size).to(frames.dtype)
        frames = frames * present[..., None]
    crop = slice((n_fft - hop_length) // 2, (n_fft - hop_length) // 2 + size * hop_length)
    # the sum of the squared windows over each sample, as one small product: hops in a window x samples in a hop
    hops = F.pad(window.square(), (0, -n_fft % hop_length)).view(-1, hop_length)
    over = F.pad(present, (len(hops) - 1, len(hops) - 1)).unfold(1, len(hops), 1).flip(2)
    envelope = (over @ hops).flatten(1)[:, crop]
    # only samples past an item's length have no window over them
    return overlap_add(frames, hop_length)[:, crop] / envelope.clamp(min=1e-11)


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """frames: [B, T, N] -> [B, at least (T - 1) * hop + N], frame t added at t * hop."""
    frames = F.pad(frames, (0, -frames.shape[2] % hop_length))
    parts = frames.unflatten(2, (-1, hop_length)).unbind(2)
    size = frames.shape[1]
    out = frames.new_zeros(frames.shape[0], size + len(parts) - 1, hop_length)
    for i, part in enumerate(parts):
        out[:, i : i + size] += part
    return out.flatten(1)


class Vocoder(nn.Module):
    """Coarse mel at the mel rate to a waveform."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.embeddings = Linear(config.n_mels, config.vocoder_dim, bias=False)
        self.layers = Stack(StackShape.of_vocoder(config))
        self.layer_norm = make_norm(config.ln_type, config.vocoder_dim)
        self.head = ISTFTHead(config.vocoder_dim, config.n_fft, config.hop_length)

    def forward(self, coarse_mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """coarse_mel: [B, T, n_mels], lengths: [B] valid frames. Returns wav float32 [B, T * hop_length]."""
        hidden = self.layers(self.embeddings(coarse_mel), lengths)
        return self.head(self.layer_norm(hidden), lengths)
