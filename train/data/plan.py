"""Choose which clips, or parts of them, make up which batch: arrays computed from a seed, without any audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from mimotok.io.clips.clip import Clip
from train.data.augment import AugmentConfig, draw_speed


class Item(NamedTuple):
    """A part of a clip.

    Attributes:
        clip: number of the clip.
        start: second where the part begins.
        seconds: its length.
        speed: factor at which it is played.
        whole: whether it is the whole clip.
    """

    clip: int
    start: float
    seconds: float
    speed: float
    whole: bool


class PlannedBatch(NamedTuple):
    """Items that are padded to `samples` at the training rate; none is longer."""

    samples: int
    items: list[Item]


@dataclass(frozen=True)
class PlanConfig:
    """How batches are put together.

    Attributes:
        sample_rate: Hz.
        batch_seconds: padded seconds in a batch, to the nearest whole number of clips.
        max_seconds: longest whole utterance, before speed augmentation.
        crop_seconds: (shortest, longest) crop.
        min_seconds: shorter clips are left out.
        pad_samples: padded lengths are multiples of it.
        source_weights: how often a source's clips are used per epoch, by glob pattern; the first match counts.
    """

    sample_rate: int = 24000
    batch_seconds: float = 24.0
    max_seconds: float = 12.0
    crop_seconds: tuple[float, float] = (2.4, 7.2)
    min_seconds: float = 0.5
    pad_samples: int = 11520
    source_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        shortest, longest = self.crop_seconds
        if not 0 < shortest <= longest <= self.batch_seconds:
            limit = f"batch_seconds={self.batch_seconds}"
            raise ValueError(f"crop_seconds={self.crop_seconds}: expected 0 < shortest <= longest <= {limit}")
        if min(self.pad_samples, self.sample_rate) < 1:
            raise ValueError(f"pad_samples={self.pad_samples}, sample_rate={self.sample_rate}: must be positive")

    def padded(self, seconds: float) -> int:
        """Return the samples to which `seconds` of audio are padded."""
        return max(1, int(np.ceil(round(seconds * self.sample_rate) / self.pad_samples))) * self.pad_samples

    def batch_size(self, samples: int) -> int:
        """Return the items in a batch of this padded length. It depends on nothing else, so that shapes are few."""
        return max(1, round(self.batch_seconds * self.sample_rate / samples))


def check_weights(clips: Sequence[Clip], source_weights: Mapping[str, float] | None) -> None:
    """Raise ValueError for a negative weight, and for a pattern that matches no clip's source."""
    sources = {clip.source for clip in clips}
    for pattern, weight in (source_weights or {}).items():
        if weight < 0:
            raise ValueError(f"source_weights[{pattern!r}]={weight} is negative")
        if not any(fnmatchcase(source, pattern) for source in sources):
            raise ValueError(f"source_weights: {pattern!r} matches none of {sorted(sources)}")


def _weight(source: str, source_weights: Mapping[str, float] | None) -> float:
    return next((w for p, w in (source_weights or {}).items() if fnmatchcase(source, p)), 1.0)


def train_plan(
    clips: Sequence[Clip], config: PlanConfig, augment: AugmentConfig | None, seeds: Sequence[int]
) -> list[PlannedBatch]:
    """Plan one epoch in random order: each clip is used for about its own length times its source's weight.

    Clips with text of up to `max_seconds`, and clips shorter than a crop, come whole; the others as random crops.
    `seeds` names the epoch; the plan is a pure function of the arguments.
    """
    rng = np.random.default_rng(list(seeds))
    weights = {clip.source: _weight(clip.source, config.source_weights) for clip in clips}
    items: list[Item] = []
    for index, clip in enumerate(clips):
        if clip.duration >= config.min_seconds:
            items += _items(index, clip, weights[clip.source], config, augment, rng)
    return _pack(items, config, rng)


def _items(
    index: int,
    clip: Clip,
    weight: float,
    config: PlanConfig,
    augment: AugmentConfig | None,
    rng: np.random.Generator,
) -> list[Item]:
    speed = draw_speed(augment, rng)
    crop = config.padded(rng.uniform(*config.crop_seconds)) / config.sample_rate
    if (clip.text is not None and clip.duration <= config.max_seconds) or clip.duration / speed <= crop:
        speeds = [draw_speed(augment, rng) if k else speed for k in range(_round(weight, rng))]
        return [Item(index, 0.0, clip.duration, s, True) for s in speeds]
    seconds = crop * speed
    count = _round(weight * clip.duration / seconds, rng)
    # one crop per equal stretch of the clip: random places, and still all of it is used
    starts = (np.arange(count) + rng.random(count)) * (clip.duration - seconds) / max(count, 1)
    return [Item(index, float(start), seconds, speed, False) for start in starts]


def _round(value: float, rng: np.random.Generator) -> int:
    """Round up or down at random, so that the mean is `value`."""
    return int(value + rng.random())


def _pack(items: list[Item], config: PlanConfig, rng: np.random.Generator) -> list[PlannedBatch]:
    """Form full batches of one padded length each, shuffled; leftovers of a length move to the next longer one."""
    if not items:
        return []
    samples = np.array([config.padded(item.seconds / item.speed) for item in items])
    order = rng.permutation(len(items))
    waiting: list[int] = []
    batches: list[PlannedBatch] = []
    for length in np.unique(samples):
        waiting += order[samples[order] == length].tolist()
        size = config.batch_size(int(length))
        full = len(waiting) // size * size
        chunks = (waiting[k : k + size] for k in range(0, full, size))
        batches += [PlannedBatch(int(length), [items[k] for k in chunk]) for chunk in chunks]
        waiting = waiting[full:]
    if waiting:
        # filled up rather than short: an odd batch size would compile the model once more
        missing = config.batch_size(int(samples.max())) - len(waiting)
        waiting += rng.choice(len(items), missing).tolist()
        batches.append(PlannedBatch(int(samples.max()), [items[k] for k in waiting]))
    return [batches[k] for k in rng.permutation(len(batches))]


def whole_plan(clips: Sequence[Clip], config: PlanConfig) -> list[PlannedBatch]:
    """Plan every clip once and whole, shortest first, batched by padded length: for validation."""
    order = sorted(range(len(clips)), key=lambda k: (clips[k].duration, clips[k].id))
    batches: list[PlannedBatch] = []
    for k in order:
        item = Item(k, 0.0, clips[k].duration, 1.0, True)
        length = config.padded(clips[k].duration)
        full = not batches or len(batches[-1].items) >= config.batch_size(length)
        if full or batches[-1].samples != length:
            batches.append(PlannedBatch(length, [item]))
        else:
            batches[-1].items.append(item)
    return batches
