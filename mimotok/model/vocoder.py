"""The vocoder: a windowed Transformer and an inverse STFT head (after Vocos; Siuzdak, 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import frames_needed, valid_mask
from mimotok.model.linear import Linear, dtype_of
from mimotok.model.mel import hann_window
from mimotok.model.precision import full_precision
from mimotok.model.receptive_field import istft_reach
from mimotok.model.state import StreamState
from mimotok.model.transformer import Frames, Stack, StackShape, make_norm

# Vocos's safeguard against runaway magnitudes.
MAX_MAGNITUDE = 100.0


class ISTFTHead(nn.Module):
    """Log-magnitude and phase per frame, and the inverse STFT with "same" padding."""

    def __init__(self, dim: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.out = Linear(dim, n_fft + 2)
        self.n_fft = n_fft
        self.hop_length = hop_length
        # samples cut off the start of the overlap-add
        self.crop = (n_fft - hop_length) // 2

    def forward(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        """hidden: [B, T, dim], lengths: [B] valid frames. Returns wav float32 [B, T * hop_length]."""
        size = hidden.shape[1]
        if lengths is None:
            valid = torch.ones(1, size, dtype=torch.bool, device=hidden.device)
        else:
            valid = valid_mask(lengths, size)
        blocks = self._overlap_added(self._frames(hidden), valid)
        return blocks.flatten(1)[:, self.crop : self.crop + size * self.hop_length]

    def step(self, state: StreamState, hidden: Tensor, valid: Tensor) -> Frames:
        """hidden: [B, n, dim], valid: bool [B, n].

        Returns samples [B, n, hop_length] of istft_reach().right frames ago.
        """
        count = hidden.shape[1]
        overlap = frames_needed(self.n_fft, self.hop_length) - 1
        frames = state.extend("frames", overlap, self._frames(hidden))
        known = state.extend("valid", overlap, valid)
        # a block of samples is final once the last frame that covers it has come
        blocks = self._overlap_added(frames, known)[:, overlap : overlap + count]
        lag = istft_reach(self.n_fft, self.hop_length).right
        offset = self.crop - (lag - 1) * self.hop_length
        blocks = state.extend("blocks", 1, blocks)
        wav = torch.cat((blocks[:, :-1, offset:], blocks[:, 1:, :offset]), dim=2)
        return Frames(wav, state.delay("passed", lag, valid))

    def magnitude_phase(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: [B, T, dim]. Returns magnitude and phase (radians), each float32 [B, T, n_fft // 2 + 1]."""
        # a phase of ten radians in bf16 is off by 0.03: under autocast the projection stays in the weights' dtype
        with full_precision(hidden):
            log_magnitude, phase = self.out(hidden.to(dtype_of(self.out))).float().chunk(2, dim=-1)
        # clamped before the exponential, whose gradient would be NaN where it overflows
        return log_magnitude.clamp(max=math.log(MAX_MAGNITUDE)).exp(), phase

    def _frames(self, hidden: Tensor) -> Tensor:
        """hidden: [B, T, dim]. Returns windowed frames of samples [B, T, n_fft]."""
        spectrum = torch.polar(*self.magnitude_phase(hidden))
        return torch.fft.irfft(spectrum, self.n_fft) * hann_window(self.n_fft, hidden.device)

    def _overlap_added(self, frames: Tensor, valid: Tensor) -> Tensor:
        """frames: [B, T, n_fft], valid: bool [B or 1, T]. Returns blocks of samples [B, more than T, hop_length].

        Block t begins at the first sample of frame t. Each sample is the sum of the valid frames over it, divided by
        the sum of their squared windows.
        """
        present = valid.to(frames.dtype)
        if valid.shape[0] == frames.shape[0]:
            frames = frames * present[..., None]
        squared = F.pad(hann_window(self.n_fft, frames.device).square(), (0, -self.n_fft % self.hop_length))
        # the squared windows over each sample, as one small product: hops in a window x samples in a hop
        hops = squared.view(-1, self.hop_length)
        over = F.pad(present, (len(hops) - 1, len(hops) - 1)).unfold(1, len(hops), 1).flip(2)
        # only samples past an item's length have no window over them
        with full_precision(frames):
            weights = (over @ hops).clamp(min=1e-11)
        return overlap_add(frames, self.hop_length) / weights


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """frames: [B, T, N]. Returns their sum in blocks [B, T + ceil(N / hop) - 1, hop], frame t added from block t on."""
    frames = F.pad(frames, (0, -frames.shape[2] % hop_length))
    parts = frames.unflatten(2, (-1, hop_length)).unbind(2)
    size = frames.shape[1]
    out = frames.new_zeros(frames.shape[0], size + len(parts) - 1, hop_length)
    for i, part in enumerate(parts):
        out[:, i : i + size] += part
    return out


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

    def step(self, state: StreamState, coarse_mel: Tensor, valid: Tensor) -> Frames:
        """coarse_mel: [B, n, n_mels], valid: bool [B, n]. Returns samples [B, n, hop_length], some frames later."""
        hidden, valid = self.hidden_step(state, coarse_mel, valid)
        return self.head.step(state.scope("head"), hidden, valid)

    def hidden_step(self, state: StreamState, coarse_mel: Tensor, valid: Tensor) -> Frames:
        """coarse_mel: [B, n, n_mels], valid: bool [B, n]. Returns what goes into the head, [B, n, dim]."""
        hidden, valid = self.layers.step(state.scope("layers"), self.embeddings(coarse_mel), valid)
        return Frames(self.layer_norm(hidden), valid)
