"""Bits a second that a small language model needs for a codec's codes: how predictable tokens are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.metrics.base import MISSING, Column

FOLDS = 2
# One of so many clips that a model learns from only tells when to stop: on minutes of speech it soon learns by heart.
HELD_EVERY = 8
CHECKS = 20


@dataclass(frozen=True)
class LMBudget:
    """The model's size and training, the same for all codecs that are compared."""

    steps: int = 200
    batch_size: int = 8
    frames: int = 64
    dim: int = 64
    hidden: int = 128
    dropout: float = 0.2
    learning_rate: float = 3e-3
    seed: int = 0


class CodeLMBits:
    """Bits a second of codes under a language model that learned from the other half of the clips."""

    def __init__(self, budget: LMBudget | None = None) -> None:
        """Prepare the metric; budget: of the model, the default unless a test wants less."""
        self.budget = budget or LMBudget()
        parts = {"folds": FOLDS, "held_every": HELD_EVERY, "checks": CHECKS}
        self.identity: dict[str, Any] = {"kind": "code_lm", "version": 2, **parts, **asdict(self.budget)}
        self.columns: tuple[Column, ...] = (
            Column(
                "code_lm_bitrate",
                "code LM bit/s",
                "bits a second that a small language model (GRU over frames, codebooks in order within a frame; at "
                f"most {self.budget.steps} steps, seed {self.budget.seed}) needs for the codes of clips that it did "
                "not learn from, of all clips in two halves; compare it on the same clips only",
                higher_is_better=False,
                pooled=("code_lm_bits", "code_lm_seconds"),
                digits=0,
                joint=True,
            ),
        )

    def measure_codes(
        self, codes: Sequence[np.ndarray], seconds: Sequence[float], sizes: Sequence[int]
    ) -> list[dict[str, float]]:
        """Measure all clips together, as `CodesMetric.measure_codes`. A single clip has no figure."""
        if len(codes) < FOLDS:
            return [{column.name: MISSING for column in self.columns} for _ in codes]
        clips = [torch.from_numpy(np.asarray(of_clip, np.int64)).T for of_clip in codes]
        bits = [0.0] * len(clips)
        for fold in range(FOLDS):
            model = train_code_lm([clip for i, clip in enumerate(clips) if i % FOLDS != fold], sizes, self.budget)
            for i in range(fold, len(clips), FOLDS):
                bits[i] = code_bits(model, clips[i])
        return [
            {"code_lm_bits": b, "code_lm_seconds": s, "code_lm_bitrate": b / s}
            for b, s in zip(bits, seconds, strict=True)
        ]


class CodeLM(nn.Module):
    """A GRU reads the frames before; the codebooks of a frame are predicted one after another."""

    def __init__(self, sizes: Sequence[int], budget: LMBudget) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.Embedding(size, budget.dim) for size in sizes)
        self.gru = nn.GRU(budget.dim, budget.hidden, batch_first=True)
        # what the codebooks before it in the same frame say
        self.within = nn.ModuleList(nn.Embedding(size, budget.hidden) for size in sizes[:-1])
        self.heads = nn.ModuleList(nn.Linear(budget.hidden, size) for size in sizes)
        self.dropout = nn.Dropout(budget.dropout)
        for embedding in (*self.before, *self.within):
            nn.init.normal_(embedding.weight, std=0.1)

    def output_layers(self) -> list[nn.Linear]:
        """Return the layer that predicts each codebook, typed."""
        return [cast(nn.Linear, head) for head in self.heads]

    def forward(self, codes: Tensor) -> Tensor:
        """codes: [B, F, n_q]. Returns the nats of each frame, [B, F]."""
        embedded = sum(table(codes[..., book]) for book, table in enumerate(self.before))
        # the first frame is predicted from nothing
        context, _ = self.gru(self.dropout(F.pad(embedded, (0, 0, 1, -1))))
        nats = torch.zeros(codes.shape[0] * codes.shape[1])
        context = context.flatten(0, 1)
        codes_by_book = codes.flatten(0, 1).unbind(1)
        for book, (head, code) in enumerate(zip(self.heads, codes_by_book, strict=True)):
            logits = head(self.dropout(F.gelu(context)))
            nats = nats + F.cross_entropy(logits, code, reduction="none")
            if book < len(self.within):
                context = context + self.within[book](code)
        return nats.view(codes.shape[:2])


def train_code_lm(clips: Sequence[Tensor], sizes: Sequence[int], budget: LMBudget) -> CodeLM:
    """Train a model on clips [F, n_q]; the same seed gives the same model.

    Of the budget's steps as many count as helped on the clips that are held back; before the first, the model knows how
    often each entry occurs.
    """
    clips = [clip for clip in clips if len(clip)]
    held = clips[HELD_EVERY - 1 :: HELD_EVERY]
    clips = [clip for i, clip in enumerate(clips) if i % HELD_EVERY != HELD_EVERY - 1]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(budget.seed)
        model = CodeLM(sizes, budget)
        if not clips:
            return model.eval()
        _start_from_frequencies(model, torch.cat(list(clips)), sizes)
        best = _Best(model, held)
        optimizer = torch.optim.AdamW(model.parameters(), budget.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, budget.learning_rate, total_steps=budget.steps + 1)
        generator = np.random.default_rng(budget.seed)
        weights = np.array([len(clip) for clip in clips], float)
        for step in range(1, budget.steps + 1):
            drawn = generator.choice(len(clips), budget.batch_size, p=weights / weights.sum())
            windows = [_window(clips[index], budget.frames, generator) for index in drawn]
            batch = nn.utils.rnn.pad_sequence(windows, batch_first=True)
            valid = torch.arange(batch.shape[1]) < torch.tensor([len(window) for window in windows])[:, None]
            loss = model(batch)[valid].mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % max(1, budget.steps // CHECKS) == 0:
                best.check(model)
        best.restore(model)
    return model.eval()


class _Best:
    """The weights that needed the fewest bits for the clips that are held back; the last ones where there are none."""

    def __init__(self, model: CodeLM, held: Sequence[Tensor]) -> None:
        self.held = held
        self.bits = math.inf
        self.weights: dict[str, Tensor] = {}
        self.check(model)

    def check(self, model: CodeLM) -> None:
        """Keep the model's weights where they are better."""
        if not self.held:
            return
        model.eval()
        bits = sum(code_bits(model, clip) for clip in self.held)
        model.train()
        if bits < self.bits:
            self.bits = bits
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    def restore(self, model: CodeLM) -> None:
        """Give the model the weights that were kept."""
        if self.held:
            model.load_state_dict(self.weights)


@torch.no_grad()
def code_bits(model: CodeLM, clip: Tensor) -> float:
    """Count the bits that a model needs for a clip [F, n_q]."""
    return float(model(clip[None]).double().sum() / math.log(2)) if len(clip) else 0.0


def _window(clip: Tensor, frames: int, generator: np.random.Generator) -> Tensor:
    start = int(generator.integers(0, max(1, len(clip) - frames + 1)))
    return clip[start : start + frames]


@torch.no_grad()
def _start_from_frequencies(model: CodeLM, codes: Tensor, sizes: Sequence[int]) -> None:
    """Let each head begin with how often its entries occur, which training then only has to refine."""
    for book, head in enumerate(model.output_layers()):
        counts = torch.bincount(codes[:, book], minlength=sizes[book]).float() + 1
        head.bias.copy_((counts / counts.sum()).log())
        head.weight.mul_(0.1)
