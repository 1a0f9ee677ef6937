"""The encoder: convolutional stem, Transformer with the early-layer skip, downsampling to the frame rate."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import ceil_div, zero_padding
from mimotok.model.quantizer import ResidualQuantizer
from mimotok.model.transformer import Stack, StackShape, make_norm


class Encoder(nn.Module):
    """Log-mel to latents at the frame rate (MiMo-Audio, section 2.1); holds the quantizer as the official file does."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        dim, pool = config.d_model, config.avg_pooler
        self.stride = config.stride_size
        self.pool = pool
        self.skip = config.encoder_skip_layer_id
        self.conv1 = nn.Conv1d(config.n_mels, dim, config.kernel_size, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, config.kernel_size, stride=config.stride_size, padding=1)
        self.layers = Stack(StackShape.of_encoder(config))
        self.layer_norm = make_norm(config.ln_type, dim)
        if pool > 1:
            self.down_sample_layer = nn.Sequential(nn.Conv1d(dim, dim, pool, stride=pool, bias=False), nn.GELU())
            self.down_sample_norm = make_norm(config.ln_type, dim)
        self.quantizer = ResidualQuantizer(config)

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """mel: [B, T, n_mels], lengths: [B] valid mel frames. Returns latents [B, F, D] and their lengths.

        Latents past an item's length are meaningless.
        """
        hidden, lengths = self._stem(mel.to(self.conv1.weight.dtype), lengths)
        hidden = self.layer_norm(self.layers(hidden, lengths, tap=self.skip))
        # the last frame's missing part is zero, alone as in a batch
        hidden = F.pad(zero_padding(hidden, lengths), (0, 0, 0, -hidden.shape[1] % self.pool))
        return self.pooled(hidden), None if lengths is None else ceil_div(lengths, self.pool)

    def _stem(self, mel: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden = F.gelu(self.conv1(mel.transpose(1, 2)))
        # conv1's bias fills the padding, and the strided conv would read one frame past the end
        hidden = zero_padding(hidden.transpose(1, 2), lengths).transpose(1, 2)
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        return hidden, None if lengths is None else ceil_div(lengths, self.stride)

    def pooled(self, hidden: Tensor) -> Tensor:
        """hidden: [B, F * avg_pooler, D] -> [B, F, D], the downsampler; unchanged at a pool of 1."""
        if self.pool == 1:
            return hidden
        return self.down_sample_norm(self.down_sample_layer(hidden.transpose(1, 2)).transpose(1, 2))
