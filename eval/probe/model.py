"""The model that reads text from frozen frames, and its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.report.statistics import Summary, summarize_ratio
from eval.run.feedback import Progress
from eval.run.tasks import one_thread
from mimotok.text import error_counts

BLANK = 0
MIN_RATE = 50.0  # positions per second of the output: CTC cannot write more letters than there are positions
MAX_SECONDS = 20.0  # of a training recording: longer ones would set the memory of every batch
MAX_GRADIENT = 5.0  # norm


@dataclass(frozen=True)
class Budget:
    """The reader's size and training, the same for all codecs that are compared."""

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 2e-3
    width: int = 256
    seed: int = 0


class Reading(NamedTuple):
    """A recording to be read: vectors float32 [F, D], and the normalised text."""

    vectors: Tensor
    text: str


class ProbeResult(NamedTuple):
    """CER and WER on `clips` held-out recordings, after training on `train_clips` of `train_seconds` in all."""

    cer: Summary
    wer: Summary
    clips: int
    train_clips: int
    train_seconds: float


class Reader(nn.Module):
    """A bidirectional LSTM of one layer on standardised vectors, with letters by CTC."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, frame_rate: float, letters: int, width: int) -> None:
        """Make a reader of random weights.

        Args:
            mean: of the vectors, [D].
            scale: their standard deviation, [D].
            frame_rate: vectors per second.
            letters: how many there are, without the blank.
            width: of the LSTM in each direction.
        """
        super().__init__()
        # letters written for each frame, where frames are fewer than letters may be
        self.repeat = max(1, int(np.ceil(MIN_RATE / frame_rate)))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.lstm = nn.LSTM(len(mean), width, bidirectional=True, batch_first=True)
        self.write = nn.Linear(2 * width, self.repeat * (letters + 1))

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Read a batch.

        Args:
            vectors: float32 [B, F, D].
            lengths: valid frames, [B].

        Returns:
            Log-probabilities [B, F * repeat, letters + 1].
        """
        standardised = (vectors - self.mean) / self.scale
        packed = nn.utils.rnn.pack_padded_sequence(standardised, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], True, total_length=vectors.shape[1])
        return self.write(hidden).unflatten(-1, (self.repeat, -1)).flatten(1, 2).log_softmax(-1)


def train_probe(
    train: Sequence[Reading],
    test: Sequence[Reading],
    frame_rate: float,
    *,
    budget: Budget,
    device: str,
    progress: Progress,
) -> ProbeResult:
    """Train a reader for the budget's steps and score it. The same seed gives the same figures on the same machine.

    Args:
        train: recordings to learn from; longer ones than 20 s are left out.
        test: recordings to read.
        frame_rate: vectors per second.
        budget: size, training and seed.
        device: where the reader runs.
        progress: shows progress.

    Raises:
        ValueError: no training recording is short enough.
    """
    train = [reading for reading in train if len(reading.vectors) <= MAX_SECONDS * frame_rate]
    if not train:
        raise ValueError(f"no training recording is shorter than {MAX_SECONDS} s")
    letters = sorted(set("".join(reading.text for reading in train)))
    with one_thread():
        model = _trained(train, letters, frame_rate, budget, device, progress).eval()
        scores = _score(model, test, letters, device, budget.seed)
    seconds = sum(len(reading.vectors) for reading in train) / frame_rate
    return ProbeResult(scores.cer, scores.wer, len(test), len(train), seconds)


def _trained(
    train: Sequence[Reading],
    letters: Sequence[str],
    frame_rate: float,
    budget: Budget,
    device: str,
    progress: Progress,
) -> Reader:
    torch.manual_seed(budget.seed)
    every = torch.cat([reading.vectors for reading in train])
    # a dimension that never changes is divided by 1
    scale = every.std(0)
    scale[scale == 0] = 1.0
    model = Reader(every.mean(0), scale, frame_rate, len(letters), budget.width).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, budget.learning_rate, total_steps=budget.steps + 1, pct_start=0.1
    )
    index = {letter: number for number, letter in enumerate(letters, 1)}
    with progress("reader: steps", budget.steps) as advance:
        for batch in _batches(train, budget):
            vectors, lengths = _padded(batch, device)
            targets = [torch.tensor([index[letter] for letter in reading.text]) for reading in batch]
            loss = F.ctc_loss(
                model(vectors, lengths).transpose(0, 1),
                torch.cat(targets).to(device),
                lengths * model.repeat,
                torch.tensor([len(target) for target in targets], device=device),
                blank=BLANK,
                # a recording spoken faster than there are positions cannot be written
                zero_infinity=True,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
            optimizer.step()
            schedule.step()
            advance()
    return model


def _batches(readings: Sequence[Reading], budget: Budget) -> Iterator[list[Reading]]:
    """Yield the budget's number of batches of similar lengths, in random order, epoch after epoch."""
    generator = np.random.default_rng(budget.seed)
    order = sorted(range(len(readings)), key=lambda i: len(readings[i].vectors))
    groups = [order[start : start + budget.batch_size] for start in range(0, len(order), budget.batch_size)]
    drawn: list[int] = []
    for _ in range(budget.steps):
        if not drawn:
            drawn = generator.permutation(len(groups)).tolist()
        yield [readings[i] for i in groups[drawn.pop()]]


def _padded(batch: Sequence[Reading], device: str) -> tuple[Tensor, Tensor]:
    """Pad a batch to vectors [B, F, D]. Returns them and lengths [B]."""
    lengths = torch.tensor([len(reading.vectors) for reading in batch])
    return nn.utils.rnn.pad_sequence([r.vectors for r in batch], True).to(device), lengths.to(device)


class _Scores(NamedTuple):
    cer: Summary
    wer: Summary


@torch.no_grad()
def _score(model: Reader, test: Sequence[Reading], letters: Sequence[str], device: str, seed: int) -> _Scores:
    counts = []
    for reading in test:
        best = model(*_padded([reading], device))[0].argmax(-1).unique_consecutive().tolist()
        counts.append(error_counts(reading.text, "".join(letters[i - 1] for i in best if i != BLANK)))
    cer = summarize_ratio([c.char_errors for c in counts], [c.chars for c in counts], seed=seed)
    wer = summarize_ratio([c.word_errors for c in counts], [c.words for c in counts], seed=seed)
    return _Scores(cer, wer)
