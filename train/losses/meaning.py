"""What makes the first codebook carry meaning: phones and characters, read in its vectors alone.

Both losses follow PAST (Har-Tuv et al., 2025): a linear classifier of phones, frame by frame, and a small recurrent
network that spells the transcript by CTC. Gradients pass straight through the codebook into the encoder.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mimotok.io.clips.phones import PHONES, UNKNOWN
from mimotok.text import normalize_text

ALPHABET = " abcdefghijklmnopqrstuvwxyz"  # id 0 is CTC's blank, these follow it


class PhoneScores(NamedTuple):
    """loss: mean cross-entropy of the frames with a label, 0 where there are none; accuracy: share of them that is
    right; frames: how many they are."""

    loss: Tensor
    accuracy: Tensor
    frames: int


class PhoneClassifier(nn.Linear):
    """A linear classifier of phones on single frames."""

    def __init__(self, width: int) -> None:
        super().__init__(width, len(PHONES))

    def score(self, frames: Tensor, labels: Tensor) -> PhoneScores:
        """frames: [B, F, D]; labels: int64 [B, F'], the place in PHONES or UNKNOWN.

        F' may differ from F by the frame that a clip's end rounds up to; frames without a label do not count. Raises
        ValueError where F' is of another frame rate.
        """
        labels = fit_labels(labels, frames.shape[1])
        known = labels != UNKNOWN
        count = int(known.sum())
        logits = self(frames).float()
        # over no frame at all the sum is 0, and still reaches every parameter
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNKNOWN, reduction="sum")
        right = ((logits.argmax(-1) == labels) & known).sum()
        return PhoneScores(loss / max(count, 1), right / max(count, 1), count)


def fit_labels(labels: Tensor, frames: int) -> Tensor:
    """Cut or fill labels [B, F'] up to [B, frames]. Raises ValueError where they are of another frame rate."""
    missing = frames - labels.shape[1]
    if abs(missing) > max(1, frames // 20):
        raise ValueError(
            f"{labels.shape[1]} phone labels for {frames} frames: set the data module's frame_rate to the model's"
        )
    return F.pad(labels, (0, missing), value=UNKNOWN)


@dataclass(frozen=True)
class CharacterConfig:
    """hidden: units of the recurrent network in each direction."""

    hidden: int = 512


class CharacterReader(nn.Module):
    """One bidirectional LSTM that spells a transcript in a-z and spaces by CTC."""

    def __init__(self, width: int, config: CharacterConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(width, config.hidden, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * config.hidden, 1 + len(ALPHABET))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """frames: [B, F, D], lengths: [B]. Returns log-probabilities [B, F, 1 + len(ALPHABET)]."""
        # packed, so that the backward direction starts at a clip's own end
        packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=frames.shape[1])
        return self.output(hidden).float().log_softmax(-1)

    def loss(self, frames: Tensor, lengths: Tensor, texts: list[str | None]) -> Tensor:
        """Compute CTC per character, averaged over the clips whose text can be spelled; 0 where none can.

        frames: [B, F, D], lengths: [B] frames.
        """
        spelled = [spelling(text) for text in texts]
        spellable = [i for i, ids in enumerate(spelled) if ids]
        # one clip without a target where there is none: among several ranks, every parameter takes part in each step
        used = spellable or [0]
        targets = [torch.tensor(spelled[i] or [1]) for i in used]
        lengths = lengths[used]
        log_probs = self(frames[used], lengths)
        loss = F.ctc_loss(
            log_probs.transpose(0, 1),
            torch.cat(targets).to(frames.device),
            lengths.cpu(),
            torch.tensor([len(target) for target in targets]),
            # a text that has more letters than the clip has frames cannot be spelled
            zero_infinity=True,
        )
        return loss if spellable else 0 * loss


def spelling(text: str | None) -> list[int] | None:
    """Spell a transcript as ids of letters, accents removed; None where it has no letter, or a character beyond a-z."""
    plain = unicodedata.normalize("NFKD", (text or "").casefold())
    plain = normalize_text("".join(c for c in plain if not unicodedata.combining(c)))
    ids = [ALPHABET.find(c) + 1 for c in plain]
    return ids if ids and all(ids) else None
