"""Pitch: a melody correlates with itself whatever its level, and not with another; silence has no figures."""

import numpy as np
import pytest

from eval.metrics.base import MetricSpec
from eval.metrics.pitch import Pitch, compare_pitch
from eval.metrics.registry import make_metric
from tests.helpers.evaluation_speech import CLIP, speech


@pytest.fixture(scope="module")
def metric():
    pytest.importorskip("librosa", reason="librosa is not installed")
    return make_metric(MetricSpec("pitch"))


@pytest.mark.slow
def test_level_does_not_matter_and_noise_is_unvoiced(metric) -> None:
    wav = speech(1.5)
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32)
    same = metric.measure(wav, 0.3 * wav, CLIP)
    assert same["f0_correlation"] == pytest.approx(1, abs=0.02)
    assert same["voicing_error"] < 0.05
    other = metric.measure(wav, noise, CLIP)
    assert np.isnan(other["f0_correlation"])
    assert other["voicing_error"] > 0.2


def test_silence_has_no_figures(metric) -> None:
    assert all(np.isnan(value) for value in metric.measure(speech(0.5), np.zeros(12000, np.float32), CLIP).values())


def test_the_correlation_is_of_frames_that_are_voiced_on_both_sides() -> None:
    f0 = 100 * 2 ** np.linspace(0, 1, 40)
    voiced = np.ones(40, bool)
    part = voiced.copy()
    part[30:] = False
    gone = np.where(part, f0, np.nan)
    figures = compare_pitch(Pitch(f0, voiced), Pitch(2 * gone, part))
    assert figures["f0_correlation"] == pytest.approx(1)
    assert figures["voicing_error"] == 0.25
    falling = compare_pitch(Pitch(f0, voiced), Pitch(f0[::-1], voiced))
    assert falling["f0_correlation"] == pytest.approx(-1)


@pytest.mark.parametrize("f0", [np.full(40, 120.0), np.geomspace(100, 200, 40)])
def test_a_monotone_or_a_few_frames_have_no_correlation(f0) -> None:
    voiced = np.ones(40, bool)
    few = np.arange(40) < 9
    other = voiced if f0.std() == 0 else few
    assert np.isnan(compare_pitch(Pitch(f0, voiced), Pitch(f0, other))["f0_correlation"])


@pytest.mark.slow
def test_each_clip_is_compared_with_its_own_original(metric) -> None:
    first, second = speech(1.5), speech(1.5, 3)
    metric.measure(first, first, CLIP)
    assert metric.measure(second, 0.5 * second, CLIP)["f0_correlation"] == pytest.approx(1, abs=0.02)
