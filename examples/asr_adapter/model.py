"""The model: frozen features, four frames joined by Linear-GELU-Linear into one position of a small causal LM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from examples.corpus import Item
from examples.training import Example
from mimotok.text import normalize_text
from train.stages.text_decoder import TextDecoder, TextDecoderConfig

STACK = 4


class Batch(NamedTuple):
    """features: [B, F, D], padded; lengths: [B] frames; texts: B normalised transcripts."""

    features: Tensor
    lengths: Tensor
    texts: list[str]


class Reader(Example):
    """Learns adapter and LM; the tokenizer that made the features is not in it, so nothing changes it."""

    def __init__(
        self, d_model: int, steps: int, learning_rate: float = 1e-3, width: int = 256, layers: int = 4
    ) -> None:
        super().__init__(steps, learning_rate)
        self.save_hyperparameters()
        config = TextDecoderConfig(hidden_size=width, num_layers=layers, ffn_dim=3 * width, stack=STACK)
        self.reader = TextDecoder(d_model, config)
        adapter = nn.Sequential(nn.Linear(STACK * d_model, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        # in the place of its single linear layer
        self.reader.add_module("projection", adapter)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Nats per byte of text."""
        return {"loss": self.reader(*batch).text}


def collate(items: Sequence[Item]) -> Batch:
    """Clips, whose features are [F, D], as one batch."""
    features = nn.utils.rnn.pad_sequence([item.features for item in items], batch_first=True)
    lengths = torch.tensor([len(item.features) for item in items])
    return Batch(features, lengths, [normalize_text(item.text) for item in items])
