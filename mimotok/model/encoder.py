"""The encoder: convolutional stem, Transformer with the early-layer skip, downsampling to the frame rate."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import frames_needed, zero_invalid, zero_padding
from mimotok.model.linear import dtype_of
from mimotok.model.quantizers import make_quantizer
from mimotok.model.receptive_field import encoder_lag, stem_reach
from mimotok.model.state import StreamState
from mimotok.model.transformer import Frames, Stack, StackShape, make_norm


class Encoder(nn.Module):
    """Log-mel to latents at the frame rate (MiMo-Audio, section 2.1); holds the quantizer as the official file does."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        dim = config.d_model
        pool = config.avg_pooler
        self.stride = config.stride_size
        self.pool = pool
        # the convolutions get their context explicitly: zeros around a whole clip, the past in a stream
        self.conv1 = nn.Conv1d(config.n_mels, dim, config.kernel_size)
        self.conv2 = nn.Conv1d(dim, dim, config.kernel_size, stride=config.stride_size)
        self.layers = Stack(StackShape.of_encoder(config), skip=config.encoder_skip_layer_id)
        self.layer_norm = make_norm(config.ln_type, dim)
        if pool > 1:
            self.down_sample_layer = nn.Sequential(nn.Conv1d(dim, dim, pool, stride=pool, bias=False), nn.GELU())
            self.down_sample_norm = make_norm(config.ln_type, dim)
        self.quantizer: Any = make_quantizer(config)
        self._lag = encoder_lag(config) if config.encoder_is_bounded else 0

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """mel: [B, T, n_mels], lengths: [B] valid mel frames. Returns latents [B, F, D].

        F is T / frame_stride, rounded up. Latents past an item's length are meaningless.
        """
        hidden = _convolved(self.conv1, _padded(mel.to(dtype_of(self.conv1))))
        # conv1's bias fills the padding, and the strided conv would read one frame past the end
        hidden = _convolved(self.conv2, _padded(zero_padding(hidden, lengths)))
        if lengths is not None:
            lengths = frames_needed(lengths, self.stride)
        hidden = self.layer_norm(self.layers(hidden, lengths))
        # the last frame's missing part is zero, alone as in a batch
        hidden = F.pad(zero_padding(hidden, lengths), (0, 0, 0, -hidden.shape[1] % self.pool))
        return self._downsampled(hidden)

    def step(self, state: StreamState, mel: Tensor, valid: Tensor) -> Frames:
        """mel: [B, n, n_mels], n a multiple of the mel frames per code frame; valid: bool [B, n].

        Returns latents [B, F, D] of `encoder_reach(config).right` code frames ago. Every window must be bounded.
        """
        hidden, valid = self._stem_step(state, mel.to(dtype_of(self.conv1)), valid)
        hidden, valid = self.layers.step(state.scope("layers"), hidden, valid)
        hidden = zero_invalid(self.layer_norm(hidden), valid)
        # the downsampler must join what it joins in the whole file
        rest = -self._lag % self.pool
        hidden = state.delay("downsampler", rest, hidden)
        valid = state.delay("downsampler.valid", rest, valid)
        return Frames(self._downsampled(hidden), valid[:, :: self.pool])

    def _stem_step(self, state: StreamState, mel: Tensor, valid: Tensor) -> Frames:
        count = mel.shape[1] // self.stride
        past = stem_reach(self.stride).right * self.stride + 2
        mel = state.extend("stem", past, zero_invalid(mel, valid))
        known = state.extend("stem.valid", past, valid)
        hidden = _convolved(self.conv1, mel)
        hidden = _convolved(self.conv2, zero_invalid(hidden, known[:, 1:-1]))
        return Frames(hidden, known[:, 2 :: self.stride][:, :count])

    def _downsampled(self, hidden: Tensor) -> Tensor:
        """hidden: [B, F * avg_pooler, D]. Returns [B, F, D]; unchanged at a pool of 1."""
        if self.pool == 1:
            return hidden
        return self.down_sample_norm(self.down_sample_layer(hidden.transpose(1, 2)).transpose(1, 2))


def _padded(hidden: Tensor) -> Tensor:
    return F.pad(hidden, (0, 0, 1, 1))


def _convolved(conv: nn.Conv1d, hidden: Tensor) -> Tensor:
    return F.gelu(conv(hidden.transpose(1, 2))).transpose(1, 2)
