"""The sizes of a tiny wav2vec 2.0, of which tests build recognisers and speaker models."""

from __future__ import annotations

from typing import Any

SMALL_WAV2VEC: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (160, 2),
    "conv_kernel": (160, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
