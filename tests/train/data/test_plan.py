"""Batch plans: what fits where, how much of each clip is heard, and who gets which batch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.io.clips.clip import Clip
from tests.helpers.speech_corpus import RATE
from train.data.augment import AugmentConfig
from train.data.batches import BatchDataset, Render
from train.data.plan import PlanConfig, train_plan, whole_plan

clip_lists = st.lists(
    st.tuples(st.floats(0.1, 40.0), st.booleans(), st.sampled_from("abc")), min_size=1, max_size=40
).map(
    lambda rows: [
        Clip(str(k), "", duration=seconds, source=source, text="words" if has_text else None)
        for k, (seconds, has_text, source) in enumerate(rows)
    ]
)


@settings(deadline=None, max_examples=60)
@given(clip_lists, st.floats(8.0, 60.0), st.integers(0, 99), st.booleans())
def test_planned_batches_hold_whole_texted_clips_and_crops_that_fit(clips, batch_seconds, seed, speed) -> None:
    config = PlanConfig(batch_seconds=batch_seconds)
    plan = train_plan(clips, config, AugmentConfig() if speed else None, (seed, 0))
    for batch in plan:
        assert batch.samples % config.pad_samples == 0
        assert len(batch.items) == config.batch_size(batch.samples)
        for item in batch.items:
            clip = clips[item.clip]
            assert round(item.seconds / item.speed * RATE) <= batch.samples
            assert 0 <= item.start <= item.start + item.seconds <= clip.duration + 1e-6
            assert item.whole == (item.seconds == clip.duration)
            assert item.whole or clip.text is None or clip.duration > config.max_seconds
            assert clip.duration >= config.min_seconds
    heard = {item.clip for batch in plan for item in batch.items}
    must = {k for k, clip in enumerate(clips) if clip.text and config.min_seconds <= clip.duration <= 12}
    assert must <= heard


def seconds_by_source(clips: list[Clip], config: PlanConfig, epochs: int = 5) -> dict[str, float]:
    total = {clip.source: 0.0 for clip in clips}
    for epoch in range(epochs):
        for batch in train_plan(clips, config, AugmentConfig(), (0, epoch)):
            for item in batch.items:
                total[clips[item.clip].source] += item.seconds / epochs
    return total


def test_each_clip_is_heard_for_its_length_times_its_weight() -> None:
    rng = np.random.default_rng(0)
    clips = [Clip(f"whole{k}", "", "x", duration=rng.uniform(1, 11), source="whole") for k in range(200)]
    clips += [Clip(f"long{k}", "", "x", duration=rng.uniform(13, 60), source="long") for k in range(50)]
    clips += [replace(clip, id=f"no{clip.id}", source="off") for clip in clips]
    weights = {"off": 0.0, "wh*": 2.5, "*": 0.5}
    heard = seconds_by_source(clips, PlanConfig(source_weights=weights))
    length = {name: sum(c.duration for c in clips if c.source == name) for name in heard}
    assert heard["off"] == 0
    # a few random clips fill each epoch's last batch up
    assert heard["whole"] == pytest.approx(2.5 * length["whole"], rel=0.05)
    assert heard["long"] == pytest.approx(0.5 * length["long"], rel=0.05)


@given(st.integers(1, 5), st.integers(10, 80))
@settings(deadline=None, max_examples=20)
def test_ranks_share_an_epoch_evenly(world_size, count) -> None:
    clips = [Clip(str(k), "", "x", duration=1.0 + k % 7, source="s") for k in range(count)]

    def plan(epoch: int):
        return train_plan(clips, PlanConfig(batch_seconds=8), None, (0, epoch))

    ranks = [
        BatchDataset(clips, plan, Render(RATE, None), seed=0, rank=r, world_size=world_size) for r in range(world_size)
    ]
    assert len({dataset.epoch_batches for dataset in ranks}) == 1
    numbers = [dataset.planned(k)[1] for dataset in ranks for k in range(dataset.epoch_batches)]
    assert len(set(numbers)) == len(numbers)
    assert len(plan(0)) - len(numbers) < world_size


def test_validation_plan_covers_every_clip_once() -> None:
    clips = [Clip(str(k), "", duration=0.3 + k % 13, source="s") for k in range(50)]
    plan = whole_plan(clips, PlanConfig())
    assert sorted(item.clip for batch in plan for item in batch.items) == list(range(50))
    assert all(len(batch.items) <= PlanConfig().batch_size(batch.samples) for batch in plan)


def test_crops_cover_a_long_clip_alike_and_repeats_differ_in_speed() -> None:
    long, short = Clip("long", "long.wav", duration=60.0), Clip("short", "short.wav", duration=1.0)
    config = PlanConfig(crop_seconds=(2.4, 2.4), source_weights={"*": 3.0})
    changes = AugmentConfig(speed=(0.8, 1.25), speed_prob=1.0)
    heard = np.zeros(10)
    for seed in range(40):
        items = [item for batch in train_plan([long], config, None, (seed,)) for item in batch.items]
        for item in items:
            heard += np.histogram(item.start + np.linspace(0, item.seconds, 25), 10, (0, 60))[0]
    # both ends are in fewer crops than the middle
    assert heard[1:-1].min() > 0.85 * heard[1:-1].max()
    assert heard[[0, -1]].min() > 0.7 * heard.max()
    speeds = [item.speed for batch in train_plan([short], config, changes, (0,)) for item in batch.items]
    assert len(set(speeds)) == 3
