"""Phones in tokens: a linear probe on a codec's vectors, and what the first codebook tells about phones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.codecs.base import Frames
from eval.metrics.base import MISSING, Column
from eval.testlists import LabelledClip
from mimotok.io.clips.phones import PHONES, SILENCE, UNKNOWN, frame_labels

FRAME_RATE = 25.0  # Hz: frames of 40 ms, whatever the codec's own rate is
FOLDS = 5


@dataclass(frozen=True)
class ProbeBudget:
    """The probe's training, the same for all codecs that are compared."""

    steps: int = 3000
    batch_size: int = 512
    learning_rate: float = 5e-3
    seed: int = 0


class Grid(NamedTuple):
    """A clip in frames of 40 ms: vectors [F, D], codes of the first codebook [F] or None, phones [F]."""

    vectors: np.ndarray
    codes: np.ndarray | None
    phones: np.ndarray


class PhoneMetrics:
    """Accuracy of a linear phone probe, and the phone-normalised mutual information of the first codebook."""

    def __init__(self, budget: ProbeBudget | None = None) -> None:
        """Prepare the metric; budget: of the probe, the default unless a test wants less."""
        self.budget = budget or ProbeBudget()
        self.identity: dict[str, Any] = {"kind": "phones", "version": 1, "folds": FOLDS, **asdict(self.budget)}
        self.columns: tuple[Column, ...] = (
            Column(
                "phone_accuracy",
                "phone probe",
                f"share of frames of {1000 / FRAME_RATE:.0f} ms without silence whose phone a linear classifier names, "
                f"on the vectors that the decoder receives; {FOLDS} folds over speakers, {self.budget.steps} steps of "
                f"{self.budget.batch_size} frames, seed {self.budget.seed}; on all clips with labels",
                pooled=("phone_correct", "phone_frames"),
                headline=True,
                labelled=True,
            ),
            Column(
                "pnmi",
                "PNMI (codebook 1)",
                "mutual information of phones and codes of the first codebook over the entropy of phones, in frames of "
                f"{1000 / FRAME_RATE:.0f} ms without silence; on all clips with labels. It falls with more clips, so "
                "figures of other clips are not comparable",
                pooled=("phone_information", "phone_entropy"),
                headline=True,
                labelled=True,
            ),
        )

    def measure_frames(self, clips: Sequence[LabelledClip], frames: Sequence[Frames]) -> list[dict[str, float]]:
        """Measure all clips together, as `FrameMetric.measure_frames`.

        Raises:
            ValueError: the clips have fewer speakers than there are folds.
        """
        grids = [on_grid(of_clip, clip) for of_clip, clip in zip(frames, clips, strict=True)]
        folds = split_by_speaker([clip.clip.speaker or clip.clip.id for clip in clips])
        correct = probe_frames(grids, folds, self.budget)
        information = phone_information(grids)
        return [
            {
                "phone_correct": float(hits.sum()),
                "phone_frames": float(len(hits)),
                "phone_accuracy": _ratio(hits.sum(), len(hits)),
                "phone_information": bits.information,
                "phone_entropy": bits.entropy,
                "pnmi": _ratio(bits.information, bits.entropy),
            }
            for hits, bits in zip(correct, information, strict=True)
        ]


def _ratio(part: float, whole: float) -> float:
    """Divide, where there is something to divide by."""
    return float(part / whole) if whole else MISSING


def on_grid(frames: Frames, clip: LabelledClip) -> Grid:
    """Bring a codec's frames to 40 ms and drop those without a phone, or with silence.

    A faster codec's vectors are averaged; a slower codec's frames are repeated.
    """
    own = len(frames.vectors)
    count = int(np.ceil(own * FRAME_RATE / frames.rate - 1e-6))
    vectors = frames.vectors
    middles = np.minimum(((np.arange(count) + 0.5) / FRAME_RATE * frames.rate).astype(int), own - 1)
    if frames.rate > FRAME_RATE:
        starts = np.minimum((np.arange(count) / FRAME_RATE * frames.rate).round().astype(int), own - 1)
        sizes = np.diff(np.append(starts, own))[:, None]
        vectors = np.add.reduceat(vectors, starts) / np.maximum(sizes, 1)
    else:
        vectors = vectors[middles]
    phones = frame_labels(clip.phones, count, FRAME_RATE)
    # silence is a fifth of all frames and easy to tell: it would hide what is known of phones
    known = (phones != UNKNOWN) & (phones != PHONES.index(SILENCE))
    codes = None if frames.codes is None else frames.codes[0][middles][known]
    return Grid(vectors[known].astype(np.float32), codes, phones[known])


def split_by_speaker(speakers: Sequence[str]) -> np.ndarray:
    """Assign clips to folds so that no speaker is in two, and folds are of like size whatever the order.

    Returns:
        The fold of each clip, int [N].

    Raises:
        ValueError: there are fewer speakers than folds.
    """
    counts: dict[str, int] = {}
    for speaker in speakers:
        counts[speaker] = counts.get(speaker, 0) + 1
    if len(counts) < FOLDS:
        raise ValueError(f"the phone probe needs clips of at least {FOLDS} speakers, but there are {len(counts)}")
    # the largest first, each to the smallest fold; the hash makes the order of equals independent of names
    order = sorted(counts, key=lambda name: (-counts[name], hashlib.sha256(name.encode()).hexdigest()))
    sizes = [0] * FOLDS
    folds = {}
    for speaker in order:
        smallest = sizes.index(min(sizes))
        folds[speaker] = smallest
        sizes[smallest] += counts[speaker]
    return np.array([folds[speaker] for speaker in speakers])


def probe_frames(grids: Sequence[Grid], folds: np.ndarray, budget: ProbeBudget) -> list[np.ndarray]:
    """Classify the frames of each fold by a probe that was trained on the others.

    Returns:
        For each clip whether the phone was right, bool [F].
    """
    vectors = torch.from_numpy(np.concatenate([grid.vectors for grid in grids]))
    phones = torch.from_numpy(np.concatenate([grid.phones for grid in grids]))
    lengths = [len(grid.phones) for grid in grids]
    fold_of_frame = torch.from_numpy(np.repeat(folds, lengths))
    correct = torch.zeros(len(phones), dtype=torch.bool)
    for fold in range(FOLDS):
        held_out = fold_of_frame == fold
        probe = train_linear(vectors[~held_out], phones[~held_out], budget)
        with torch.no_grad():
            correct[held_out] = probe(vectors[held_out]).argmax(1) == phones[held_out]
    return np.split(correct.numpy(), np.cumsum(lengths)[:-1])


def train_linear(vectors: Tensor, phones: Tensor, budget: ProbeBudget) -> nn.Module:
    """Train a linear classifier on standardised vectors [N, D] and phones [N]."""
    generator = torch.Generator().manual_seed(budget.seed)
    mean = vectors.mean(0)
    scale = vectors.std(0)
    # a dimension that never changes is divided by 1
    scale[scale == 0] = 1.0
    linear = nn.Linear(vectors.shape[1], len(PHONES))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.Adam(linear.parameters(), lr=budget.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=budget.steps)
    for _ in range(budget.steps):
        drawn = torch.randint(len(vectors), (budget.batch_size,), generator=generator)
        loss = F.cross_entropy(linear((vectors[drawn] - mean) / scale), phones[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    # fold the standardisation into the layer
    with torch.no_grad():
        linear.weight.div_(scale)
        linear.bias.sub_(linear.weight @ mean)
    return linear


class PhoneBits(NamedTuple):
    """A clip's share of the mutual information of phones and codes, and of the entropy of phones, in bits."""

    information: float
    entropy: float


def phone_information(grids: Sequence[Grid]) -> list[PhoneBits]:
    """Sum up, for each clip, what the codes tell about its phones and how much there is to tell.

    The corpus' mutual information is the sum over clips of log2 p(phone, code) / p(phone) p(code) in their frames, and
    its entropy that of -log2 p(phone), each divided by the number of frames; p is counted over all clips. PNMI is the
    ratio of the sums, and resampling clips gives its interval to first order.
    """
    if any(grid.codes is None for grid in grids):
        return [PhoneBits(MISSING, MISSING)] * len(grids)
    codes = np.concatenate([grid.codes for grid in grids if grid.codes is not None])
    phones = np.concatenate([grid.phones for grid in grids])
    joint = np.zeros((codes.max() + 1, len(PHONES)))
    np.add.at(joint, (codes, phones), 1.0)
    joint /= joint.sum()
    of_code = joint.sum(1)[codes]
    of_phone = joint.sum(0)[phones]
    information = np.log2(joint[codes, phones] / (of_code * of_phone))
    entropy = -np.log2(of_phone)
    ends = np.cumsum([len(grid.phones) for grid in grids])[:-1]
    return [
        PhoneBits(float(inside.sum()), float(total.sum()))
        for inside, total in zip(np.split(information, ends), np.split(entropy, ends), strict=True)
    ]
