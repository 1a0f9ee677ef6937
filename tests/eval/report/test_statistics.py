"""Summaries: means with honest intervals, nothing missing averaged in."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.report.compare import compare
from eval.report.statistics import bootstrap_interval, entropy_bits, summarize, summarize_ratio

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@settings(max_examples=25, deadline=None)
@given(VALUES, st.integers(0, 3))
def test_missing_values_change_nothing_but_their_count(values, missing) -> None:
    full, gapped = summarize(values, seed=0), summarize([*values, *[float("nan")] * missing], seed=0)
    assert gapped[:5] == full[:5]
    assert gapped.missing == missing


@settings(max_examples=25, deadline=None)
@given(VALUES)
def test_the_interval_lies_around_the_mean_within_the_values(values) -> None:
    s = summarize(values, seed=0)
    assert s.mean == pytest.approx(np.mean(values), abs=1e-9)
    tolerance = 1e-9
    assert min(values) - tolerance <= s.low <= s.high <= max(values) + tolerance


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        low, high = bootstrap_interval(generator.normal(1.0, 1.0, 40), np.ones(40), seed=seed)
        hits += low <= 1.0 <= high
    assert hits >= 51  # 95 % of 60, less four standard deviations


def test_the_seed_decides() -> None:
    values = np.arange(20.0)
    ones = np.ones(20)
    assert bootstrap_interval(values, ones, seed=1) == bootstrap_interval(values, ones, seed=1)
    assert bootstrap_interval(values, ones, seed=1) != bootstrap_interval(values, ones, seed=2)


def test_error_rates_are_pooled_and_empty_references_do_not_count() -> None:
    s = summarize_ratio([1, 0, 5], [2, 8, 0], seed=0)
    assert (s.mean, s.median, s.clips, s.missing) == (0.1, 0.25, 2, 1)


def test_a_comparison_leaves_empty_references_out_too() -> None:
    def results(counts: dict[str, tuple[int, int]]) -> dict[str, Any]:
        figures = {clip: {"errors": errors, "words": words} for clip, (errors, words) in counts.items()}
        metric = {
            "name": "wer",
            "title": "WER",
            "method": "m",
            "pooled": ["errors", "words"],
            "higher_is_better": False,
        }
        metric["higher_is_better"] = False
        return {
            "clips": [{"id": clip, "sha256": clip} for clip in counts],
            "metrics": [metric],
            "codecs": [{"label": "x", "identity": {"kind": "x"}, "clips": figures}],
        }

    before, after = (
        results({"a": (1, 4), "b": (3, 6), "empty": (0, 0)}),
        results({"a": (2, 4), "b": (3, 6), "empty": (5, 0)}),
    )
    (difference,) = compare(before, after)
    assert difference.mean == pytest.approx(0.1)
    assert difference.clips == 2
    with pytest.raises(ValueError, match="no metric in common"):
        compare(results({"empty": (0, 0)}), results({"empty": (5, 0)}))


def test_joint_figures_are_compared_on_the_same_lists_only() -> None:
    """What depends on the other clips, and on labels."""

    def results(clips: str, labels: str | None) -> dict[str, Any]:
        figures = {clip: {"bits": 1.0, "heard": 2.0, "phones": 3.0} for clip in clips}
        common: dict[str, Any] = {"title": "", "method": "m", "pooled": None, "higher_is_better": True}
        metrics = [common | {"name": name} for name in ("bits", "heard", "phones")]
        metrics[0]["joint"] = True
        metrics[2]["labelled"] = True
        codec = {"label": "x", "identity": {"kind": "x"}, "clips": figures, "labelled": figures}
        listed = [{"id": clip, "sha256": clip} for clip in clips]
        return {"clips": listed, "labelled": ["a"], "metrics": metrics, "codecs": [codec], "labels_sha256": labels}

    def names(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        return [difference.metric for difference in compare(before, after)]

    assert names(results("ab", "1"), results("ab", "1")) == ["bits", "heard", "phones"]
    assert names(results("ab", "1"), results("abc", "1")) == ["heard", "phones"]
    assert names(results("ab", "1"), results("ab", "2")) == ["bits", "heard"]
    # reports of earlier versions have no hash
    assert names(results("ab", None), results("ab", "2")) == ["bits", "heard", "phones"]


def test_nothing_to_sum_up() -> None:
    s = summarize([float("nan")], seed=0)
    assert math.isnan(s.mean)
    assert (s.clips, s.missing) == (0, 1)
    assert math.isnan(summarize([3.0], seed=0).low)


@given(st.integers(1, 64))
def test_equal_counts_have_the_entropy_of_their_number(size) -> None:
    assert entropy_bits([7] * size) == pytest.approx(math.log2(size))
    assert entropy_bits([5, *[0] * size]) == 0


def test_the_interval_is_as_wide_as_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    low, high = bootstrap_interval(values, np.ones(2000), seed=0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 2000**0.5, rel=0.08)
