"""What both kinds of text decoder share: the losses' form, the stacking of frames, token ids, and greedy search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.model.lengths import frames_needed, zero_padding
from mimotok.text import normalize_text
from train.stages.optim import OptimizerConfig, parameter_groups
from train.stages.text import ByteTokenizer, HuggingFaceTokenizer

IGNORED = -100
# The longest transcript that greedy search may write: faster than anyone speaks, even in three-byte scripts.
TOKENS_PER_FRAME = 1.5
EXTRA_TOKENS = 16


class TextLosses(NamedTuple):
    """Both in nats per token, mean over the batch's tokens; ctc is None where the decoder has no such head."""

    text: Tensor
    ctc: Tensor | None


class Stacked(NamedTuple):
    """Neighbouring frames joined: frames [B, ceil(F / stack), stack * d_model], zero past lengths [B]."""

    frames: Tensor
    lengths: Tensor


class TokenIds(NamedTuple):
    """ids: [B, N], what the model has read; labels: [B, N], the token after each, or IGNORED."""

    ids: Tensor
    labels: Tensor


class Writing(Protocol):
    """A batch of transcripts that is being written, one token at a time."""

    def begin(self) -> Tensor:
        """Read the audio and the tokens that stand before each transcript. Returns logits of the first, [B, V]."""

    def follow(self, tokens: Tensor) -> Tensor:
        """tokens: [B], the last ones written. Returns logits of the next ones, [B, V]."""


class AudioToText(nn.Module, ABC):
    """A model that writes the text it reads in quantized audio. Subclasses say what language model it has."""

    d_model: int
    config: Any  # the subclass's frozen settings; all have stack and normalize
    tokenizer: ByteTokenizer | HuggingFaceTokenizer
    has_ctc = False

    @abstractmethod
    def forward(self, quantized: Tensor, lengths: Tensor, texts: Sequence[str]) -> TextLosses:
        """quantized: [B, F, d_model]; lengths: [B] frames; texts: B transcripts, none of them missing."""

    @abstractmethod
    def start_writing(self, quantized: Tensor, lengths: Tensor) -> Writing:
        """quantized: [B, F, d_model]; lengths: [B] frames. Returns transcripts of which nothing is written yet."""

    @abstractmethod
    def save(self, folder: Path | str) -> None:
        """Write into `folder` what `load_text_decoder` reads, without a network."""

    @torch.no_grad()
    def transcribe(self, quantized: Tensor, lengths: Tensor) -> list[str]:
        """quantized: [B, F, d_model]; lengths: [B] frames. Returns B greedy transcripts."""
        limits = self.longest_transcripts(lengths)
        writing = self.start_writing(quantized, lengths)
        logits = writing.begin()
        written: list[Tensor] = []
        running = torch.ones_like(lengths, dtype=torch.bool)
        while running.any():
            token = logits.argmax(-1)
            running = running & (token != self.tokenizer.eos)
            written.append(torch.where(running, token, self.tokenizer.eos))
            running = running & (len(written) < limits)
            if running.any():
                logits = writing.follow(token)
        rows = torch.stack(written, dim=1).tolist()
        return [self.tokenizer.decode([i for i in row if i != self.tokenizer.eos]) for row in rows]

    def longest_transcripts(self, lengths: Tensor) -> Tensor:
        """lengths: [B] frames. Returns after how many tokens greedy search stops, [B]."""
        return (lengths * TOKENS_PER_FRAME).long() + EXTRA_TOKENS

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Return what is trained, as `train.stages.optim.parameter_groups` does."""
        return parameter_groups(self, config)

    def stack_frames(self, quantized: Tensor, lengths: Tensor) -> Stacked:
        """quantized: [B, F, d_model]; lengths: [B] frames. Joins `config.stack` neighbours, padding with zeros."""
        stack: int = self.config.stack
        quantized = zero_padding(quantized, lengths)
        quantized = F.pad(quantized, (0, 0, 0, -quantized.shape[1] % stack))
        return Stacked(quantized.reshape(len(quantized), -1, stack * self.d_model), frames_needed(lengths, stack))

    def tokenize(self, texts: Sequence[str], start: Sequence[int], room: Tensor | None = None) -> TokenIds:
        """Return ids of start and text, and the labels of text and its end; both on the CPU, padded.

        start: ids that stand before every text. room: [B], how many ids the model has positions for; the rest of a
        text is not learned.
        """
        texts = [normalize_text(t) for t in texts] if self.config.normalize else texts
        ids, labels = [], []
        for row, text in enumerate(texts):
            limit = None if room is None else int(room[row])
            tokens = torch.tensor([*start, *self.tokenizer.encode(text), self.tokenizer.eos])
            ids.append(tokens[:-1][:limit])
            following = tokens[1:][:limit].clone()
            following[: len(start) - 1] = IGNORED
            labels.append(following)
        return TokenIds(
            nn.utils.rnn.pad_sequence(ids, True, self.tokenizer.pad),
            nn.utils.rnn.pad_sequence(labels, True, IGNORED),
        )


def check_texts(texts: Sequence[str], quantized: Tensor) -> None:
    """Raises ValueError where there is not one text for each clip."""
    if len(texts) != len(quantized):
        raise ValueError(f"{len(texts)} transcripts for {len(quantized)} clips")


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """logits: [B, N, V], labels: [B, N]. Returns the mean cross-entropy of the labels that are not IGNORED (eq. 1)."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def take(hidden: Tensor, index: Tensor) -> Tensor:
    """hidden: [B, T, C], index: [B, N]. Returns hidden at these positions, [B, N, C]."""
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2]))
