"""Metrics of frames: on the labelled clips alone, without reconstructions, cached, and compared in pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eval.codecs.base import CodecSpec, Frames
from eval.metrics import phones
from eval.metrics.base import MetricSpec
from eval.report.compare import compare
from eval.report.files import write_report_files
from eval.report.summary import results_of
from eval.run import steps
from eval.run.runner import Settings, _labels_hash, evaluate
from eval.testlists import LabelledClip, read_labelled_clips, read_test_list
from mimotok.io.clips.clip import Clip, Packed
from mimotok.io.clips.phones import PHONES
from tests.eval.conftest import FakeCodec
from tests.helpers.evaluation_speech import no_progress


class FramedCodec(FakeCodec):
    """A codec whose vector says in which fifth of a second a frame is, under noise."""

    def __init__(self, label, noise):
        super().__init__(label, lambda wav: wav)
        self.noise = noise
        self.encoded = 0

    def frames(self, wav):
        self.encoded += 1
        count = len(wav) // 960
        fifths = np.arange(count) // 5 % 4
        noise = np.random.default_rng(0).standard_normal((count, 4))
        return Frames((np.eye(4)[fifths] + self.noise * noise).astype(np.float32), fifths[None], 25.0)


@pytest.fixture
def codecs(monkeypatch: pytest.MonkeyPatch):
    """Two codecs by name, of which one hears phones better, and one without frames."""
    by_name = {
        "clear": FramedCodec("clear", 0.1),
        "noisy": FramedCodec("noisy", 5.0),
        "mute": FakeCodec("mute", np.copy),
    }
    monkeypatch.setattr(steps, "make_codec", lambda spec, _: by_name[spec.name])
    monkeypatch.setattr(phones, "FOLDS", 3)
    budget = phones.ProbeBudget(steps=100, batch_size=32, learning_rate=0.05)
    monkeypatch.setattr(phones, "ProbeBudget", lambda: budget)
    steps.open_codec.cache_clear()
    steps.open_metric.cache_clear()
    yield by_name
    steps.open_codec.cache_clear()
    steps.open_metric.cache_clear()


@pytest.fixture
def settings(corpus, tmp_path: Path):
    """settings(*codecs): on the three recordings, each fifth of a second of which is another phone."""
    rows = [{"audio": f"{name}.wav", "speaker": name, "split": "train"} for name in "abc"]
    manifest = corpus / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, [*rows, {"audio": "d.wav", "split": "test"}])))
    spoken = [[PHONES[1 + fifth % 4], 0.2 * fifth, 0.2 * (fifth + 1)] for fifth in range(10)]
    labels = corpus / "labels.jsonl"
    labels.write_text(
        "".join(json.dumps({"audio": row["audio"], "id": row["audio"], "phones": spoken}) + "\n" for row in rows)
    )

    def make(*codecs, metrics=("phones",)):
        clips = tuple(read_test_list(manifest))
        labelled = tuple(read_labelled_clips(labels, manifest))
        specs = tuple(map(CodecSpec, codecs))
        return Settings(clips, specs, tuple(map(MetricSpec, metrics)), tmp_path / "out", labelled=labelled)

    return make


def run(settings):
    messages: list[str] = []
    done = evaluate(settings, notify=messages.append, progress=no_progress)
    return done, results_of(done, "python -m eval"), messages


@pytest.mark.slow
def test_phones_are_measured_on_labelled_clips_of_any_split_without_reconstructions(codecs, settings) -> None:
    done, results, messages = run(settings("clear", "mute"))
    assert messages == []
    # the test list's only recording does not exist, and is not needed
    assert results["clips"] == []
    assert results["labelled"] == ["a.wav", "b.wav", "c.wav"]
    clear, mute = results["codecs"]
    assert clear["summary"]["phone_accuracy"]["mean"] > 0.9
    assert clear["summary"]["phone_accuracy"]["clips"] == 3
    assert clear["summary"]["pnmi"]["mean"] == pytest.approx(1)
    assert mute["summary"]["phone_accuracy"]["mean"] is None
    assert codecs["clear"].encoded == 3
    assert not (done.settings.out / "audio").exists()
    table = write_report_files(done.settings.out, results)
    assert "phone probe ↑" in table
    assert "phone probe" in (done.settings.out / "index.html").read_text()


@pytest.mark.slow
def test_a_second_run_encodes_nothing_and_other_labels_are_measured_again(codecs, settings) -> None:
    _, first, _ = run(settings("clear"))
    _, second, _ = run(settings("clear"))
    assert codecs["clear"].encoded == 3
    assert first == second
    once = settings("clear")
    shorter = tuple(replace(clip, phones=clip.phones[:5]) for clip in once.labelled)
    _, third, _ = run(replace(once, labelled=shorter))
    assert codecs["clear"].encoded == 6
    assert third != first


@pytest.mark.slow
@pytest.mark.usefixtures("codecs")
def test_a_clip_that_cannot_be_read_is_reported_each_time(settings, corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phones, "FOLDS", 2)
    (corpus / "b.wav").write_text("no audio")
    for _ in range(2):
        done, results, messages = run(settings("clear"))
        assert len(messages) == len(done.failures) == 1
        assert "b.wav" in messages[0]
        assert set(results["codecs"][0]["labelled"]) == {"a.wav", "c.wav"}


@pytest.mark.usefixtures("codecs")
def test_too_few_speakers_are_one_line(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phones, "FOLDS", 4)
    done, _, _ = run(settings("clear"))
    assert done.failures == ["clear: phones: the phone probe needs clips of at least 4 speakers, but there are 3"]


@pytest.mark.slow
@pytest.mark.usefixtures("codecs")
def test_comparison_pairs_labelled_clips(settings) -> None:
    _, results, _ = run(settings("clear", "noisy"))
    sides = [dict(results, codecs=[dict(codec, label="same")]) for codec in results["codecs"]]
    worse = {difference.metric: difference for difference in compare(*sides)}
    assert worse["phone_accuracy"].worse
    assert worse["phone_accuracy"].clips == 3
    assert worse["pnmi"].mean == 0
    other = dict(sides[1], labelled=["a.wav"])
    with pytest.raises(ValueError, match="no recording in common"):
        compare(sides[0], other)


def test_phones_are_counted_anew_where_a_packed_sound_or_its_tar_changes(tmp_path: Path) -> None:
    """A cut of a Shar folder is known by itself, by its place in the tar, and by the tar."""
    tar = tmp_path / "recording.000000.tar"
    tar.write_bytes(b"sound")
    cut = SimpleNamespace(to_dict=lambda: {"id": "a"})
    clip = Clip(id="a", audio=str(tar), cut=cut, packed=Packed(str(tar), 0, 5))

    def digest(clip: Clip) -> str:
        return _labels_hash((LabelledClip(clip, ()),))

    first = digest(clip)
    assert digest(clip) == first
    assert digest(replace(clip, packed=Packed(str(tar), 512, 5))) != first
    assert digest(replace(clip, cut=SimpleNamespace(to_dict=lambda: {"id": "b"}))) != first
    tar.write_bytes(b"longer sound")
    assert digest(clip) != first
