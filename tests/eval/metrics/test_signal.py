"""Metrics agree with their reference packages, and have no figure where there is nothing to measure."""

import numpy as np
import pytest

from eval.metrics.base import MetricSpec
from eval.metrics.registry import make_metric
from eval.metrics.signal import mel_distance, pesq_score
from eval.protocol import SAMPLE_RATE, resample
from tests.helpers.evaluation_speech import CLIP, noisy, speech


@pytest.fixture(scope="module")
def signal():
    pytest.importorskip("pesq", reason="pesq is not installed")
    pytest.importorskip("pystoi", reason="pystoi is not installed")
    return make_metric(MetricSpec("signal"))


def test_identical_recordings_reach_the_top(signal) -> None:
    wav = speech()
    figures = signal.measure(wav, wav, CLIP)
    assert figures["pesq_wb"] == pytest.approx(4.644, abs=0.001)
    assert figures["pesq_nb"] == pytest.approx(4.549, abs=0.001)
    assert figures["stoi"] == pytest.approx(1, abs=1e-6)
    assert figures["estoi"] == pytest.approx(1, abs=1e-3)
    assert figures["mel_distance"] == 0


def test_figures_are_those_of_the_reference_packages(signal) -> None:
    from pesq import pesq
    from pystoi import stoi

    wav = speech()
    worse = noisy(wav, 10)
    figures = signal.measure(wav, worse, CLIP)
    wide, narrow, ten = ([resample(w, SAMPLE_RATE, rate) for w in (wav, worse)] for rate in (16000, 8000, 10000))
    assert figures["pesq_wb"] == pytest.approx(pesq(16000, *wide, "wb"))
    assert figures["pesq_nb"] == pytest.approx(pesq(8000, *narrow, "nb"))
    assert figures["stoi"] == pytest.approx(stoi(*ten, 10000))
    # pystoi resamples by itself when asked at another rate: that must not change the picture
    assert figures["stoi"] == pytest.approx(stoi(wav, worse, SAMPLE_RATE), abs=0.01)


def test_more_noise_is_worse_in_every_figure(signal) -> None:
    wav = speech()
    rows = [signal.measure(wav, noisy(wav, snr), CLIP) for snr in (30, 15, 0)]
    for column in signal.columns:
        values = [row[column.name] for row in rows]
        assert values == sorted(values, reverse=column.higher_is_better), column.name


def test_a_band_limit_of_4_khz_costs_wideband_pesq_alone(signal) -> None:
    wav = speech()
    figures = signal.measure(wav, resample(resample(wav, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE), CLIP)
    assert figures["pesq_nb"] > 4.4 > figures["pesq_wb"]
    assert figures["stoi"] > 0.98


@pytest.mark.slow
@pytest.mark.usefixtures("signal")
def test_pesq_of_more_utterances_than_it_has_room_for_is_that_of_its_parts():
    """A hundred bursts in 54 s: at once, the package writes past its room for 50 and takes the process with it."""
    word = speech()[SAMPLE_RATE // 2 :][: round(0.3 * SAMPLE_RATE)]
    burst = np.concatenate((word, np.zeros(round(0.24 * SAMPLE_RATE), np.float32)))
    wav = np.tile(burst, 100)
    worse = noisy(wav, 20)
    third = len(wav) // 3
    scores = [pesq_score(wav[i * third :][:third], worse[i * third :][:third], "nb") for i in range(3)]
    assert pesq_score(wav, worse, "nb") == pytest.approx(np.mean(scores))
    # what is silent has no score and costs none
    quiet = np.concatenate((wav, np.zeros(third, np.float32)))
    assert pesq_score(quiet, np.concatenate((worse, np.zeros(third, np.float32))), "nb") > 1


@pytest.mark.parametrize("silent", ["original", "reconstruction"])
def test_silence_has_no_figure(signal, silent: str) -> None:
    pair = {"original": speech(), "reconstruction": speech(), silent: np.zeros(len(speech()), np.float32)}
    figures = signal.measure(**pair, clip=CLIP)
    assert all(np.isnan(figures[name]) for name in ("pesq_wb", "pesq_nb", "stoi", "estoi"))


def test_too_little_speech_for_stoi_has_no_figure(signal) -> None:
    wav = speech(0.3)
    assert np.isnan(signal.measure(wav, wav, CLIP)["stoi"])


def test_extended_stoi_is_the_same_every_time_and_leaves_the_dice_alone(signal) -> None:
    wav = speech()
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    first = signal.measure(wav, noisy(wav, 5), CLIP)["estoi"]
    assert np.random.random() == expected
    assert signal.measure(wav, noisy(wav, 5), CLIP)["estoi"] == first


@pytest.mark.parametrize("spec", [MetricSpec("beauty"), MetricSpec("mos", "none")])
def test_unknown_metrics_are_named(spec) -> None:
    with pytest.raises(ValueError, match="give "):
        make_metric(spec)


def test_the_mel_distance_is_the_mean_absolute_difference_of_logarithms() -> None:
    loud = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    assert mel_distance(0.25 * loud, 0.5 * loud) == pytest.approx(np.log(2), abs=1e-3)
    assert mel_distance(0.25 * loud, loud) == pytest.approx(np.log(4), abs=1e-3)


def test_extended_stoi_compares_with_the_original(signal) -> None:
    from pystoi import stoi

    wav = speech()
    worse = noisy(wav, 5)
    given, decoded = (resample(w, SAMPLE_RATE, 10_000) for w in (wav, worse))
    np.random.seed(0)  # pystoi adds noise to what it whitens
    right, wrong = stoi(given, decoded, 10_000, extended=True), stoi(decoded, given, 10_000, extended=True)
    assert abs(right - wrong) > 0.01
    assert signal.measure(wav, worse, CLIP)["estoi"] == pytest.approx(right, abs=0.004)
