"""Phones in tokens: the probe finds what is there, PNMI is that of the counts, and no speaker is on both sides."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.codecs.base import Frames
from eval.metrics.phones import (
    FOLDS,
    Grid,
    PhoneMetrics,
    ProbeBudget,
    on_grid,
    phone_information,
    split_by_speaker,
)
from eval.report.statistics import summarize_ratio
from eval.testlists import LabelledClip
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.phones import PHONES, Phone

BUDGET = ProbeBudget(steps=150, batch_size=64, learning_rate=2e-2)


def spoken(seed: int, length: int = 40) -> LabelledClip:
    """A clip of random phones, each two to five frames of 40 ms long."""
    generator = np.random.default_rng(seed)
    phones: list[Phone] = []
    end = 0.0
    while len(phones) < length:
        start = end
        end = start + 0.04 * int(generator.integers(2, 6))
        phones.append(Phone(str(generator.choice(PHONES[1:11])), start, end))
    return LabelledClip(Clip(f"clip-{seed}", "x", speaker=f"speaker-{seed // 2}"), tuple(phones))


def encoded(clip: LabelledClip, noise: float, rate: float = 25.0) -> Frames:
    """Frames of a codec that gives each phone a vector and a code of its own, under noise."""
    generator = np.random.default_rng(len(clip.clip.id) + sum(clip.clip.id.encode()))
    table = np.random.default_rng(1).standard_normal((len(PHONES), 8))
    count = int(clip.phones[-1].end * rate)
    middles = (np.arange(count) + 0.5) / rate
    phones = [next(PHONES.index(p.label) for p in clip.phones if p.start <= m < p.end) for m in middles]
    vectors = table[phones] + noise * generator.standard_normal((count, 8))
    return Frames(vectors.astype(np.float32), np.array([phones]), rate)


CLIPS = [spoken(seed) for seed in range(20)]


def accuracy(rows):
    return summarize_ratio([r["phone_correct"] for r in rows], [r["phone_frames"] for r in rows], seed=0).mean


def pnmi(rows):
    return summarize_ratio([r["phone_information"] for r in rows], [r["phone_entropy"] for r in rows], seed=0).mean


@pytest.mark.slow
def test_phones_in_the_vectors_are_found_and_noise_holds_none() -> None:
    metric = PhoneMetrics(BUDGET)
    clear = metric.measure_frames(CLIPS, [encoded(clip, 0.05) for clip in CLIPS])
    generator = np.random.default_rng(2)
    noise = [generator.standard_normal((40 * 6, 8)).astype(np.float32) for _ in CLIPS]
    frames = [encoded(clip, 0.0) for clip in CLIPS]
    mixed = [f._replace(vectors=n[: len(f.vectors)]) for f, n in zip(frames, noise, strict=True)]
    deaf = metric.measure_frames(CLIPS, mixed)
    assert accuracy(clear) > 0.95
    # ten phones occur
    assert accuracy(deaf) < 0.2
    assert pnmi(clear) == pytest.approx(1)


@pytest.mark.parametrize("rate", [12.5, 25.0, 50.0, 75.0])
def test_frame_rates_do_not_matter(rate: float) -> None:
    grids = [on_grid(encoded(clip, 0.0, rate), clip) for clip in CLIPS[:5]]
    reference = [on_grid(encoded(clip, 0.0), clip) for clip in CLIPS[:5]]
    for grid, other in zip(grids, reference, strict=True):
        assert abs(len(grid.phones) - len(other.phones)) <= 2
        count = min(len(grid.phones), len(other.phones))
        # a slower codec's frame may hold two phones
        assert (grid.codes[:count] == grid.phones[:count]).mean() > (0.7 if rate < 25 else 0.95)


@pytest.mark.slow
def test_the_seed_decides_and_the_order_of_clips_does_not_change_the_split() -> None:
    frames = [encoded(clip, 2.0) for clip in CLIPS]
    metric = PhoneMetrics(BUDGET)
    assert metric.measure_frames(CLIPS, frames) == metric.measure_frames(CLIPS, frames)
    speakers = [str(clip.clip.speaker) for clip in CLIPS]
    folds = dict(zip(speakers, split_by_speaker(speakers).tolist(), strict=True))
    turned = dict(zip(speakers[::-1], split_by_speaker(speakers[::-1]).tolist(), strict=True))
    assert folds == turned


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60))
@settings(deadline=None)
def test_no_speaker_is_in_two_folds_and_folds_are_of_like_size(speakers) -> None:
    counts = Counter(speakers)
    if len(counts) < FOLDS:
        with pytest.raises(ValueError, match=f"at least {FOLDS} speakers, but there are {len(counts)}"):
            split_by_speaker(speakers)
        return
    folds = split_by_speaker(speakers)
    for speaker in counts:
        assert len({fold for fold, name in zip(folds, speakers, strict=True) if name == speaker}) == 1
    sizes = np.bincount(folds, minlength=FOLDS)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(counts.values())


@pytest.mark.slow
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=30), min_size=1, max_size=6)
)
@settings(deadline=None)
def test_pnmi_is_mutual_information_over_entropy(clips) -> None:
    """Against scikit-learn's mutual information of the same frames."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    grids = [
        Grid(np.zeros((len(c), 1), np.float32), np.array([code for code, _ in c]), np.array([phone for _, phone in c]))
        for c in clips
    ]
    bits = phone_information(grids)
    codes, phones = (np.concatenate([getattr(g, name) for g in grids]) for name in ("codes", "phones"))
    frames = len(phones)
    expected = metrics.mutual_info_score(phones, codes) / np.log(2)
    assert sum(b.information for b in bits) / frames == pytest.approx(expected, abs=1e-9)
    share = np.bincount(phones)[np.unique(phones)] / frames
    assert sum(b.entropy for b in bits) / frames == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-9)


def test_continuous_vectors_have_no_pnmi() -> None:
    frames = [encoded(clip, 0.0)._replace(codes=None) for clip in CLIPS]
    rows = PhoneMetrics(ProbeBudget(steps=1)).measure_frames(CLIPS, frames)
    assert all(np.isnan(row["pnmi"]) for row in rows)
    assert all(np.isfinite(row["phone_accuracy"]) for row in rows)


def test_every_column_and_its_parts_have_a_value_for_each_clip() -> None:
    metric = PhoneMetrics(ProbeBudget(steps=1))
    rows = metric.measure_frames(CLIPS, [encoded(clip, 0.0) for clip in CLIPS])
    names = {column.name for column in metric.columns} | {p for c in metric.columns for p in c.pooled}
    assert all(set(row) == names for row in rows)


def test_silence_and_what_has_no_label_do_not_count() -> None:
    phones = (Phone("SIL", 0.0, 0.4), Phone("AH", 0.4, 0.8), Phone("T", 0.8, 1.0))
    clip = LabelledClip(Clip("x", "x"), phones)
    # the sound is 0.2 s longer than the labels
    frames = Frames(np.arange(30, dtype=np.float32)[:, None], np.arange(30)[None], 25.0)
    grid = on_grid(frames, clip)
    assert grid.codes.tolist() == list(range(10, 25))
    assert grid.vectors.ravel().tolist() == list(range(10, 25))
    assert {PHONES[phone] for phone in grid.phones} == {"AH", "T"}
