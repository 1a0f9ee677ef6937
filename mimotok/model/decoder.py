"""The decoder: upsampling, causal Transformer, and a coarse mel for the vocoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import valid_mask, zero_padding
from mimotok.model.transformer import Stack, StackShape, make_norm
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
        self.norm = nn.GroupNorm(1, out_dim) if upsample_norm == "group" else nn.LayerNorm(out_dim)
        self.stride = stride
        self.overhang = kernel_size - stride

    def forward(self, hidden: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """hidden: [B, T, in_dim] -> [B, T * stride, out_dim] and its lengths."""
        hidden = self.conv(zero_padding(hidden, lengths).transpose(1, 2)).transpose(1, 2)
        if lengths is not None:
            lengths = lengths * self.stride
        hidden = self._norm(hidden, lengths)
        return hidden[:, : hidden.shape[1] - self.overhang], lengths

    def _norm(self, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        if isinstance(self.norm, nn.LayerNorm):
            return self.norm(hidden)
        if lengths is None:
            return self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        return masked_group_norm(hidden, lengths + self.overhang, self.norm)


def masked_group_norm(hidden: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm of one group over the valid frames of each item. hidden: [B, T, C] -> [B, T, C]."""
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
        dim, norm = config.d_model, config.upsample_norm
        self.dconv1 = Upsample(dim, dim, config.avg_pooler, config.avg_pooler, norm) if config.avg_pooler > 1 else None
        self.layers = Stack(StackShape.of_decoder(config))
        self.layer_norm = make_norm(config.ln_type, dim)
        self.dconv2 = Upsample(dim, config.n_mels, config.decoder_kernel_size, config.decoder_stride_size, norm)
        self.vocoder = Vocoder(config)

    def forward(self, quantized: Tensor, lengths: Tensor | None = None) -> Tensor:
        """quantized: [B, F, D], lengths: [B] valid frames. Returns wav float32 [B, F * frame_size]."""
        coarse_mel, mel_lengths = self.coarse_mel(quantized, lengths)
        return self.vocoder(coarse_mel, mel_lengths)

    def coarse_mel(self, quantized: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """quantized: [B, F, D]. Returns the vocoder's input [B, T, n_mels] at the mel rate and its lengths."""
        hidden = quantized.to(self.dconv2.conv.weight.dtype)
        if self.dconv1 is not None:
            hidden, lengths = self.dconv1(hidden, lengths)
        hidden = self.layer_norm(self.layers(hidden, lengths))
        return self.dconv2(hidden, lengths)
