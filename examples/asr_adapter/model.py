"""The model: frozen features, four frames joined by Linear-GELU-Linear into one position of a small causal LM.

A listener may stand before the adapter, a recurrent network that has learnt to spell by CTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from examples.corpus import Item
from examples.training import Example
from mimotok.text import normalize_text
from train.losses.meaning import CharacterConfig, CharacterReader
from train.stages.text_decoder import TextDecoder, TextDecoderConfig

STACK = 4


class Batch(NamedTuple):
    """features: [B, F, D], padded; lengths: [B] frames; texts: B normalised transcripts."""

    features: Tensor
    lengths: Tensor
    texts: list[str]


class Listener(CharacterReader):
    """A bidirectional LSTM over the frames, whose states the adapter reads and a linear layer spells by CTC.

    Next-token loss on a few hours learns how English is spelt long before it looks at the sound; CTC has nothing but
    the sound to learn from (joint CTC and attention: Kim et al., 2017).
    """

    def __init__(self, width: int, units: int) -> None:
        super().__init__(width, CharacterConfig(units))
        # the second layer hears in whole syllables what the first one hears in phones
        self.lstm = nn.LSTM(width, units, num_layers=2, dropout=0.2, batch_first=True, bidirectional=True)

    def hidden(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """frames: [B, F, D], lengths: [B]. Returns the states of both directions, [B, F, 2 * units]."""
        packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=frames.shape[1])[0]


def hide_stretches(frames: Tensor, lengths: Tensor, count: int = 2, longest: int = 12) -> Tensor:
    """Return frames [B, F, D] of which `count` stretches of up to `longest` in each clip are zero.

    What was said there has to be guessed from both sides, which keeps a listener from learning few clips by heart
    (SpecAugment's time masks: Park et al., 2019).
    """
    position = torch.arange(frames.shape[1], device=frames.device)
    hidden = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
    for _ in range(count):
        start = torch.rand(len(frames), device=frames.device) * lengths
        size = torch.randint(longest + 1, (len(frames),), device=frames.device)
        hidden |= (position >= start[:, None]) & (position < (start + size)[:, None])
    return frames.masked_fill(hidden[..., None], 0.0)


class Reader(Example):
    """Learns adapter and LM; the tokenizer that made the features is not in it, so nothing changes it.

    listen_steps: of `steps`, the first ones, in which a listener learns by CTC alone, without the LM's work; 0 for a
    model without one.
    """

    def __init__(
        self,
        d_model: int,
        steps: int,
        learning_rate: float = 1e-3,
        width: int = 256,
        layers: int = 4,
        listen_steps: int = 0,
    ) -> None:
        super().__init__(steps, learning_rate)
        self.save_hyperparameters()
        self.listen_steps = listen_steps
        self.listener = Listener(d_model, width) if listen_steps else None
        read = 2 * width if listen_steps else d_model
        config = TextDecoderConfig(hidden_size=width, num_layers=layers, ffn_dim=3 * width, stack=STACK)
        self.reader = TextDecoder(read, config)
        adapter = nn.Sequential(nn.Linear(STACK * read, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        # in the place of its single linear layer
        self.reader.add_module("projection", adapter)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Nats per byte of text, and with a listener those of CTC per letter."""
        features, lengths, texts = batch
        if self.training:
            features = hide_stretches(features, lengths)
        if self.listener is None:
            return {"loss": self.reader(features, lengths, texts).text}
        ctc = self.listener.loss(features, lengths, list(texts))
        if self.global_step < self.listen_steps:
            return {"loss": ctc, "ctc": ctc}
        text = self.reader(self.listener.hidden(features, lengths), lengths, texts).text
        return {"loss": text + ctc, "text": text, "ctc": ctc}

    def transcribe(self, batch: Batch) -> list[str]:
        """Write what is read in a batch."""
        features = batch.features
        if self.listener is not None:
            with torch.no_grad():
                features = self.listener.hidden(features, batch.lengths)
        return self.reader.transcribe(features, batch.lengths)


def collate(items: Sequence[Item]) -> Batch:
    """Clips, whose features are [F, D], as one batch."""
    features = nn.utils.rnn.pad_sequence([item.features for item in items], batch_first=True)
    lengths = torch.tensor([len(item.features) for item in items])
    return Batch(features, lengths, [normalize_text(item.text) for item in items])
