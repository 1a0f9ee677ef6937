"""The sequence, and a small causal Transformer that predicts all of its channels at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import TokenizerConfig, Window
from mimotok.lm import Duplex, DuplexLayout
from mimotok.lm.text_stream import Span, align_sentences, align_words, read_sentences, read_words
from mimotok.model.transformer import Stack, StackShape
from train.stages.text import ByteTokenizer

TEXT = ByteTokenizer()
# ids of the text channel besides bytes: nobody speaks, and the sentence is being said or a word is about to be
PAD = TEXT.size
MARK = TEXT.size + 1
VOCABULARY = TEXT.size + 2
# frames that the model looks back, at 25 Hz
LEFT = 250


def duplex_of(
    speaker: Tensor, other: Tensor, said: Sequence[Span], frame_rate: float, *, by_words: bool = False
) -> Duplex:
    """Put two clips side by side, the first with its text where it says it.

    speaker, other: codes [n_q, F] of any lengths; the shorter one repeats its last frame. said: the sentences of the
    first, or its words; frame_rate: Hz, of the codes.
    """
    frames = max(speaker.shape[1], other.shape[1])
    speaker, other = (torch.cat((c, c[:, -1:].expand(-1, frames - c.shape[1])), dim=1) for c in (speaker, other))
    if by_words:
        text = align_words(said, frames, pad_id=PAD, epad_id=MARK, frame_rate=frame_rate)
    else:
        text = align_sentences(said, frames, pad_id=PAD, wait_id=MARK, frame_rate=frame_rate)
    return Duplex(text[None], speaker[None], other[None])


def spans_of(duplex: Duplex, frame_rate: float, *, by_words: bool = False) -> list[Span]:
    """Read the sentences of the text channel, or its words; words without a frame between come as one."""
    if by_words:
        return read_words(duplex.text[0], pad_id=PAD, epad_id=MARK, frame_rate=frame_rate)
    return read_sentences(duplex.text[0], pad_id=PAD, wait_id=MARK, frame_rate=frame_rate)


def text_of(span: Span) -> str:
    """Return the text of a sentence or a word."""
    return TEXT.decode(list(span.ids)).strip()


def read_labels(path: Path) -> list[Span]:
    """Read words and their times from lines of start, end and word, with tabs between and times in seconds.

    Audacity exports labels so. Each word begins with a space, which parts it from one that it follows at once.
    """
    words = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        try:
            words.append(Span(tuple(TEXT.encode(f" {fields[2].strip()}")), float(fields[0]), float(fields[1])))
        except (IndexError, ValueError):
            raise ValueError(f"{path}:{number}: give start, end and a word with tabs between, not {line!r}") from None
    return words


class DuplexLM(nn.Module):
    """Embeddings of all channels summed, a causal Transformer, and a head for each channel."""

    def __init__(self, layout: DuplexLayout, dim: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.layout = layout
        # each channel's codes, and its "empty" id
        self.sizes = [VOCABULARY, *(size + 1 for size in layout.codebook_sizes * 2)]
        window: Window = (LEFT, 0)
        theta = TokenizerConfig().rope_theta
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in self.sizes)
        self.layers = Stack(StackShape(dim, 3 * dim, heads, [window] * layers, "RMSNorm", "silu", theta))
        self.norm = nn.RMSNorm(dim)
        self.heads = nn.ModuleList(nn.Linear(dim, size) for size in self.sizes)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """ids: [B, 1 + 2 n_q, S]. Returns the logits of each channel's next id, [B, S, size] each."""
        embedded = torch.stack([table(ids[:, channel]) for channel, table in enumerate(self.tables)]).sum(0)
        hidden = self.norm(self.layers(embedded))
        return [head(hidden) for head in self.heads]

    def loss(self, ids: Tensor) -> Tensor:
        """Compute the mean cross-entropy of a channel's next id in nats, over all channels."""
        logits = self(ids[:, :, :-1])
        each = [F.cross_entropy(part.flatten(0, 1), ids[:, c, 1:].flatten()) for c, part in enumerate(logits)]
        return torch.stack(each).mean()

    @torch.no_grad()
    def answer(self, ids: Tensor, steps: int) -> Tensor:
        """Continue the first speaker and the text greedily while the other's channels are given.

        ids: [1, 1 + 2 n_q, S]. Returns ids in which the last `steps` of the first speaker are the model's.
        """
        ids = ids.clone()
        own = 1 + self.layout.n_q
        for step in range(ids.shape[2] - steps, ids.shape[2]):
            logits = self(ids[:, :, :step])
            for channel in range(own):
                allowed = logits[channel][0, -1]
                if channel:  # every channel has a code by now, and "empty" is no code
                    allowed = allowed[:-1]
                ids[0, channel, step] = allowed.argmax()
        return ids
