"""The decoder: upsampling, causal Transformer, and a coarse mel for the vocoder."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import frames_needed, valid_mask, zero_invalid, zero_padding
from mimotok.model.linear import dtype_of, is_plain
from mimotok.model.state import StreamState
from mimotok.model.transformer import Frames, Stack, StackShape, make_norm
from mimotok.model.vocoder import Vocoder


class Upsample(nn.Module):
    """Causal transposed convolution, norm, and a crop of what reaches past the last frame.

    The official norm is a GroupNorm of one group, whose statistics span all of time, the frames cropped afterwards
    among them: a quirk that decides the waveform, kept as `upsample_norm: "group"`. With "layer" each frame is
    normalised on its own, so that decoding is causal.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, stride: int, upsample_norm: str) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_dim, out_dim, kernel_size, stride)
        self.norm_spans_time = upsample_norm == "group"
        self.norm = nn.GroupNorm(1, out_dim) if self.norm_spans_time else nn.LayerNorm(out_dim)
        self.stride = stride
        self.overhang = kernel_size - stride

    def forward(self, hidden: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """hidden: [B, T, in_dim]. Returns [B, T * stride, out_dim] and its lengths."""
        hidden = self.conv(zero_padding(hidden, lengths).transpose(1, 2)).transpose(1, 2)
        if lengths is not None:
            lengths = lengths * self.stride
        hidden = self._norm(hidden, lengths)
        return hidden[:, : hidden.shape[1] - self.overhang], lengths

    def step(self, state: StreamState, hidden: Tensor) -> Tensor:
        """hidden: [B, n, in_dim], zero where invalid. Returns [B, n * stride, out_dim], without delay."""
        past = frames_needed(self.overhang, self.stride)
        joined, _ = self(state.extend("past", past, hidden), None)
        return joined[:, past * self.stride :]

    def _norm(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        if not self.norm_spans_time:
            return self.norm(hidden)
        if lengths is None:
            return self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        lengths = lengths + self.overhang
        if is_plain(self.norm, nn.GroupNorm):
            return masked_group_norm(hidden, lengths, cast(nn.GroupNorm, self.norm))
        # something of the user's: it sees each item alone
        items = [self.norm(item[None, :size].mT).mT for item, size in zip(hidden, lengths.tolist(), strict=True)]
        return torch.cat([F.pad(item, (0, 0, 0, hidden.shape[1] - item.shape[1])) for item in items])


def masked_group_norm(hidden: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Apply a GroupNorm of one group over the valid frames of each item. hidden: [B, T, C]. Returns [B, T, C]."""
    x = hidden.float()
    mask = valid_mask(lengths, x.shape[1])[..., None]
    count = (lengths * x.shape[2])[:, None, None]
    mean = (x * mask).sum((1, 2), keepdim=True) / count
    variance = ((x - mean) * mask).square().sum((1, 2), keepdim=True) / count
    normalised = (x - mean) * torch.rsqrt(variance + norm.eps)
    return (normalised * norm.weight.float() + norm.bias.float()).to(hidden.dtype)


class Decoder(nn.Module):
    """Quantized latents at the frame rate to a waveform (MiMo-Audio, section 2.1)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        dim = config.d_model
        norm = config.upsample_norm
        self.dconv1 = Upsample(dim, dim, config.avg_pooler, config.avg_pooler, norm) if config.avg_pooler > 1 else None
        self.layers = Stack(StackShape.of_decoder(config))
        self.layer_norm = make_norm(config.ln_type, dim)
        self.dconv2 = Upsample(dim, config.n_mels, config.decoder_kernel_size, config.decoder_stride_size, norm)
        self.vocoder = Vocoder(config)

    def forward(self, quantized: Tensor, lengths: Tensor | None = None) -> Tensor:
        """quantized: [B, F, D], lengths: [B] valid frames. Returns wav float32 [B, F * frame_size]."""
        coarse_mel, mel_lengths = self.coarse_mel(quantized, lengths)
        return self.vocoder(coarse_mel, mel_lengths)

    def step(self, state: StreamState, quantized: Tensor, valid: Tensor) -> Frames:
        """quantized: [B, n, D], valid: bool [B, n]. Returns a hop of samples per mel frame, [B, n * frame_stride, hop].

        They are those of `decoder_reach(config).right` mel frames ago. The receptive field must be bounded.
        """
        coarse_mel, valid = self.coarse_mel_step(state, quantized, valid)
        return self.vocoder.step(state.scope("vocoder"), coarse_mel, valid)

    def coarse_mel_step(self, state: StreamState, quantized: Tensor, valid: Tensor) -> Frames:
        """quantized: [B, n, D], valid: bool [B, n]. Returns the vocoder's input [B, n * frame_stride, n_mels]."""
        hidden = zero_invalid(quantized.to(dtype_of(self.dconv2.conv)), valid)
        if self.dconv1 is not None:
            hidden = self.dconv1.step(state.scope("dconv1"), hidden)
            valid = valid.repeat_interleave(self.dconv1.stride, 1)
        hidden, valid = self.layers.step(state.scope("layers"), hidden, valid)
        coarse_mel = self.dconv2.step(state.scope("dconv2"), zero_invalid(self.layer_norm(hidden), valid))
        return Frames(coarse_mel, valid.repeat_interleave(self.dconv2.stride, 1))

    def coarse_mel(self, quantized: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """quantized: [B, F, D]. Returns the vocoder's input [B, T, n_mels] at the mel rate and its lengths."""
        hidden = quantized.to(dtype_of(self.dconv2.conv))
        if self.dconv1 is not None:
            hidden, lengths = self.dconv1(hidden, lengths)
        hidden = self.layer_norm(self.layers(hidden, lengths))
        return self.dconv2(hidden, lengths)
