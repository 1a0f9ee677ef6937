"""What tests build models from: the parity fixtures' folder, and tiny random models of any configuration."""

from __future__ import annotations

from dataclasses import replace

import torch

from mimotok.config import TokenizerConfig
from mimotok.model.quantizer import ResidualQuantizer
from mimotok.tokenizer import Tokenizer

TINY = TokenizerConfig(
    n_mels=20,
    d_model=32,
    encoder_layers=4,
    encoder_attention_heads=2,
    encoder_ffn_dim=48,
    num_quantizers=4,
    codebook_sizes=(32, 32, 16),
    decoder_layers=2,
    decoder_attention_heads=2,
    decoder_ffn_dim=48,
    vocoder_dim=32,
    vocoder_intermediate_dim=48,
    vocoder_num_layers=2,
    vocoder_attention_heads=4,
)
STREAMABLE = replace(
    TINY,
    encoder_attn_window_size=(5, 2),
    decoder_attn_window_size=(6, 0),
    vocoder_attn_window_size=(7, 3),
    upsample_norm="layer",
    mel_floor=1e-3,
)


def make_tokenizer(config: TokenizerConfig, seed: int = 0) -> Tokenizer:
    """A model with random weights, codebooks of the latents' scale, and norms that are not the identity."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(config, name="tiny")
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if not isinstance(tokenizer.encoder.quantizer, ResidualQuantizer):
            return tokenizer
        weighting = tokenizer.encoder.quantizer.weighting
        if weighting is not None:
            weighting.add_(torch.randn_like(weighting) / len(weighting) ** 0.5)
        for depth, codebook in enumerate(tokenizer.encoder.quantizer.codebooks()):
            codebook.embed.normal_(std=0.7 ** (depth + 1))
            codebook.cluster_size.fill_(1)
            codebook.embed_avg.copy_(codebook.embed)
            codebook.inited.fill_(1)
    return tokenizer
