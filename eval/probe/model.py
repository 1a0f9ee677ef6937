"""The model that reads text from a codec's codes, and its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.codecs.base import Codec
from eval.report.statistics import Summary, summarize_ratio
from mimotok.text import error_counts

BLANK = 0
MIN_RATE = 50.0  # positions per second that text is read at: CTC cannot write more letters than it has positions
MAX_SECONDS = 20.0  # of a training recording: longer ones would set the memory of every batch
# progress(what, of how many) -> a context that gives what to call after each
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Budget:
    """The probe's size and training, the same for every codec that is to be compared."""

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 2e-3
    width: int = 256
    seed: int = 0


class Tokens(NamedTuple):
    """A recording as a codec has it: codes int64 [n_q, F], and the text, normalised."""

    codes: Tensor
    text: str


class ProbeResult(NamedTuple):
    """CER and WER on `clips` held-out recordings, after training on `train_clips` of `train_seconds` in all."""

    cer: Summary
    wer: Summary
    clips: int
    train_clips: int
    train_seconds: float


class Probe(nn.Module):
    """Embeddings of the codebooks, summed; a bidirectional GRU of two layers; letters by CTC."""

    def __init__(self, codebook_sizes: Sequence[int], frame_rate: float, letters: int, width: int) -> None:
        """letters: without the blank."""
        super().__init__()
        self.repeat = max(1, int(np.ceil(MIN_RATE / frame_rate)))
        self.embed = nn.ModuleList(nn.Embedding(size, width) for size in codebook_sizes)
        self.mix = nn.Conv1d(width, width, 5, padding=2)
        self.read = nn.GRU(width, width, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.write = nn.Linear(2 * width, self.repeat * (letters + 1))

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """codes: [B, n_q, F], lengths: [B] frames. Returns log-probabilities [B, F * repeat, letters + 1]."""
        embedded = sum(embed(codes[:, book]) for book, embed in enumerate(self.embed))
        assert isinstance(embedded, Tensor)
        valid = torch.arange(codes.shape[2], device=codes.device) < lengths[:, None]
        mixed = F.gelu(self.mix((embedded * valid[..., None]).transpose(1, 2))).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(mixed, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.read(packed)[0], True, total_length=codes.shape[2])
        return self.write(hidden).unflatten(-1, (self.repeat, -1)).flatten(1, 2).log_softmax(-1)


def train_probe(
    codec: Codec,
    train: Sequence[Tokens],
    test: Sequence[Tokens],
    *,
    budget: Budget,
    device: str,
    progress: Progress,
) -> ProbeResult:
    """Trains for the budget's steps and measures. The same seed gives the same figures on the same machine."""
    frame_rate = _frame_rate(codec)
    train = [tokens for tokens in train if tokens.codes.shape[1] <= MAX_SECONDS * frame_rate]
    if not train:
        raise ValueError(f"no training recording lasts less than {MAX_SECONDS} s")
    letters = sorted(set("".join(tokens.text for tokens in train)))
    torch.manual_seed(budget.seed)
    model = Probe(codec.codebook_sizes, frame_rate, len(letters), budget.width).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, budget.learning_rate, total_steps=budget.steps + 1, pct_start=0.1
    )
    index = {letter: number for number, letter in enumerate(letters, 1)}
    with progress(f"{codec.label}: probe", budget.steps) as advance:
        for batch in _batches(train, budget):
            codes, lengths = _padded(batch, device)
            targets = [torch.tensor([index[letter] for letter in tokens.text]) for tokens in batch]
            logits = model(codes, lengths).transpose(0, 1)
            loss = F.ctc_loss(
                logits,
                torch.cat(targets).to(device),
                lengths * model.repeat,
                torch.tensor([len(target) for target in targets], device=device),
                blank=BLANK,
                # a recording spoken faster than there are positions cannot be written
                zero_infinity=True,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            advance()
    cer, wer = _score(model.eval(), test, letters, device, budget.seed)
    seconds = sum(tokens.codes.shape[1] for tokens in train) / frame_rate
    return ProbeResult(cer, wer, len(test), len(train), seconds)


def _frame_rate(codec: Codec) -> float:
    """Frames per second: the nominal bitrate over the bits of a frame."""
    assert codec.nominal_bitrate is not None
    return codec.nominal_bitrate / float(np.log2(codec.codebook_sizes).sum())


def _batches(tokens: Sequence[Tokens], budget: Budget) -> Iterator[list[Tokens]]:
    """The budget's number of batches of similar lengths, in random order, epoch after epoch."""
    generator = np.random.default_rng(budget.seed)
    order = sorted(range(len(tokens)), key=lambda i: tokens[i].codes.shape[1])
    groups = [order[start : start + budget.batch_size] for start in range(0, len(order), budget.batch_size)]
    drawn: list[int] = []
    for _ in range(budget.steps):
        if not drawn:
            drawn = generator.permutation(len(groups)).tolist()
        yield [tokens[i] for i in groups[drawn.pop()]]


def _padded(batch: Sequence[Tokens], device: str) -> tuple[Tensor, Tensor]:
    """codes [B, n_q, F] and lengths [B]."""
    rows = [tokens.codes.T for tokens in batch]
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, True).transpose(1, 2).to(device), lengths.to(device)


@torch.no_grad()
def _score(
    model: Probe, test: Sequence[Tokens], letters: Sequence[str], device: str, seed: int
) -> tuple[Summary, Summary]:
    counts = []
    for tokens in test:
        best = model(*_padded([tokens], device))[0].argmax(-1).unique_consecutive().tolist()
        counts.append(error_counts(tokens.text, "".join(letters[i - 1] for i in best if i != BLANK)))
    cer = summarize_ratio([c.char_errors for c in counts], [c.chars for c in counts], seed=seed)
    wer = summarize_ratio([c.word_errors for c in counts], [c.words for c in counts], seed=seed)
    return cer, wer
