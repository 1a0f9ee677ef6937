"""The model: an adapter that writes, from a tokenizer's frames, what the convolutions of a frozen Whisper would give.

It learns from sound alone: what Whisper's encoder makes of the adapter's output must be what it makes of the sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.corpus import Item
from examples.training import Example
from mimotok.model.lengths import valid_mask
from train.losses.speech import BUNDLED, Teacher, feature_distance
from train.losses.whisper import WhisperEncoder

POSITIONS = 2  # of Whisper, at 50 Hz, in a frame of 25 Hz
MELS = 4  # of Whisper's mel frames, at 100 Hz, in a frame of 25 Hz
KERNEL = 5


class Batch(NamedTuple):
    """features: [B, F, D], padded; mel: [B, n_mels, 4 * F], what Whisper hears in the sound; lengths: [B] frames."""

    features: Tensor
    mel: Tensor
    lengths: Tensor


class Adapter(nn.Module):
    """Two convolutions over frames of 25 Hz and a linear layer, which makes two positions of 50 Hz of each frame."""

    def __init__(self, d_model: int, hidden: int, width: int) -> None:
        """d_model: width of the frames. width: of the positions."""
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, hidden, KERNEL, padding=KERNEL // 2) for channels in (d_model, hidden)
        )
        self.out = nn.Linear(hidden, POSITIONS * width)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """features: [B, F, D], lengths: [B] frames. Returns [B, 2 * F, width], of which the padding says nothing."""
        mask = valid_mask(lengths, features.shape[1])[:, None]
        x = self.norm(features).transpose(1, 2)
        for conv in self.convs:
            # zero the padding: a convolution would carry it into the last frames
            x = F.gelu(conv(x * mask))
        return self.out(x.transpose(1, 2)).unflatten(2, (POSITIONS, -1)).flatten(1, 2)


class Reader(Example):
    """Learns the adapter. Tokenizer and Whisper are not in it, so nothing changes them.

    hidden: channels of the adapter. encoder: of `train.losses.speech.Teacher`, a Whisper. stem_steps: of `steps`, the
    first ones, in which the output of the convolutions alone is learnt, without the work of the blocks.
    """

    def __init__(
        self,
        d_model: int,
        steps: int,
        learning_rate: float = 2e-3,
        hidden: int = 512,
        encoder: str = BUNDLED,
        stem_steps: int = 0,
    ) -> None:
        super().__init__(steps, learning_rate)
        self.save_hyperparameters()
        self.stem_steps = stem_steps
        self.teacher = Teacher(encoder)
        self.adapter = Adapter(d_model, hidden, self.whisper().width)

    def whisper(self) -> WhisperEncoder:
        """Return the frozen encoder. Raises ValueError where the speech encoder is no Whisper."""
        encoder = self.teacher.load(self.device)
        if not isinstance(encoder, WhisperEncoder):
            raise ValueError(f"encoder={self.teacher.encoder}: expected a Whisper")
        return encoder

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return how far convolutions and last block are from those of the sound, in units of the sound's."""
        whisper = self.whisper()
        positions = POSITIONS * batch.lengths
        with torch.no_grad():
            wanted = whisper.convolve(batch.mel.float(), MELS * batch.lengths)
        written = self.adapter(batch.features, batch.lengths)
        mask = valid_mask(positions, wanted.shape[1])
        stem = (written - wanted)[mask].abs().mean() / wanted[mask].abs().mean()
        if self.global_step < self.stem_steps:
            return {"loss": stem, "stem": stem}
        with torch.no_grad():
            said = whisper.attend(wanted, positions)[-1]
        states = feature_distance(whisper.attend(written, positions)[-1], said, mask)
        return {"loss": stem + states, "stem": stem, "states": states}


def collate(pairs: Sequence[tuple[Item, Item]]) -> Batch:
    """Batch clips, of which one item holds features [F, D] and the other one Whisper's mel frames [4 * F, n_mels]."""
    features = nn.utils.rnn.pad_sequence([item.features for item, _ in pairs], batch_first=True)
    mel = nn.utils.rnn.pad_sequence([heard.features for _, heard in pairs], batch_first=True)
    return Batch(features, mel.transpose(1, 2), torch.tensor([len(item.features) for item, _ in pairs]))
