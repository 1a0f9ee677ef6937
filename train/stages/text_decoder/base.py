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
    """Losses in nats per token, mean over the batch's tokens; ctc is None where the decoder has no such head."""

    text: Tensor
    ctc: Tensor | None


class Stacked(NamedTuple):
    """Neighbouring frames joined: frames [B, ceil(F / stack), stack * d_model], zero past their lengths [B]."""

    frames: Tensor
    lengths: Tensor


class TokenIds(NamedTuple):
    """Tokens of texts: ids [B, N], which the model reads, and labels [B, N], the token after each, or IGNORED."""

    ids: Tensor
    labels: Tensor


class Writing(Protocol):
    """A batch of transcripts that is being written, one token at a time."""

    def begin(self) -> Tensor:
        """Read the audio and the tokens before each transcript; return logits of its first token, [B, V]."""

    def follow(self, tokens: Tensor) -> Tensor:
        """Read the tokens that were written last, [B]; return logits of the next ones, [B, V]."""


class AudioToText(nn.Module, ABC):
    """A model that writes the text it reads in quantized audio. Subclasses say what language model it has."""

    d_model: int
    config: Any  # the subclass's frozen settings; all have stack and normalize
    tokenizer: ByteTokenizer | HuggingFaceTokenizer
    has_ctc = False

    @abstractmethod
    def forward(self, quantized: Tensor, lengths: Tensor, texts: Sequence[str]) -> TextLosses:
        """Compute the losses of transcripts.

        Args:
            quantized: [B, F, d_model].
            lengths: [B] frames.
            texts: B transcripts, none of them missing.
        """

    @abstractmethod
    def start_writing(self, quantized: Tensor, lengths: Tensor) -> Writing:
        """Begin transcripts of quantized, [B, F, d_model], with lengths [B] in frames."""

    @abstractmethod
    def save(self, folder: Path | str) -> None:
        """Write into `folder` what `load_text_decoder` reads, without a network."""

    @torch.no_grad()
    def transcribe(self, quantized: Tensor, lengths: Tensor) -> list[str]:
        """Write B greedy transcripts of quantized, [B, F, d_model], with lengths [B] in frames."""
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
        """Return after how many tokens greedy search stops, [B], for lengths [B] in frames."""
        return (lengths * TOKENS_PER_FRAME).long() + EXTRA_TOKENS

    def parameter_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Return what is trained, as `train.stages.optim.parameter_groups` does."""
        return parameter_groups(self, config)

    def stack_frames(self, quantized: Tensor, lengths: Tensor) -> Stacked:
        """Join `config.stack` neighbours of quantized, [B, F, d_model], with lengths [B] in frames."""
        stack: int = self.config.stack
        quantized = zero_padding(quantized, lengths)
        quantized = F.pad(quantized, (0, 0, 0, -quantized.shape[1] % stack))
        return Stacked(quantized.reshape(len(quantized), -1, stack * self.d_model), frames_needed(lengths, stack))

    def tokenize(self, texts: Sequence[str], start: Sequence[int], room: Tensor | None = None) -> TokenIds:
        """Turn B texts into ids and labels on the CPU, padded.

        Args:
            texts: B transcripts.
            start: ids before every text; only text and its end are labels.
            room: [B], how many ids the model has positions for; the rest of a text is left out.
        """
        texts = [normalize_text(t) for t in texts] if self.config.normalize else texts
        ids = []
        labels = []
        limits = [None] * len(texts) if room is None else room.tolist()
        for text, limit in zip(texts, limits, strict=True):
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
    """Raise ValueError where there is not one text for each clip."""
    if len(texts) != len(quantized):
        raise ValueError(f"{len(texts)} transcripts for {len(quantized)} clips")


def text_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of logits [B, N, V] for those labels [B, N] that are not IGNORED (eq. 1)."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def take(hidden: Tensor, index: Tensor) -> Tensor:
    """Return hidden [B, T, C] at positions index [B, N], as [B, N, C]."""
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2]))
