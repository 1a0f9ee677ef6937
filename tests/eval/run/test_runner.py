"""A run survives bad files and bad codecs, goes on after a stop, and does not depend on its workers."""

from __future__ import annotations

import math
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.codecs.base import CodecSpec
from eval.metrics.base import MetricSpec
from eval.report.summary import results_of
from eval.run.cache import Cache
from eval.run.runner import Settings, evaluate
from eval.run.store import audio_path, load_wav, slug
from eval.run.tasks import Failed, run_tasks
from eval.testlists import read_test_list
from tests.helpers.evaluation_speech import no_progress, speech

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(corpus, tmp_path: Path):
    """settings(*codecs): on the three recordings, by the fake metric."""

    def make(*codecs):
        clips = tuple(read_test_list(corpus))
        return Settings(clips, tuple(map(CodecSpec, codecs)), (MetricSpec("signal"),), tmp_path / "out")

    return make


def run(settings, progress=no_progress):
    messages: list[str] = []
    done = evaluate(settings, notify=messages.append, progress=progress)
    assert messages == done.failures + done.notes
    return done, results_of(done, "python -m eval")


@pytest.mark.usefixtures("fake_metric")
def test_a_perfect_codec_has_no_error_and_its_bits_are_counted(fake, settings) -> None:
    fake("perfect", lambda wav: wav)
    done, results = run(settings("perfect"))
    (codec,) = results["codecs"]
    assert done.failures == []
    assert codec["summary"]["error"]["mean"] == pytest.approx(0, abs=1e-6)
    assert codec["summary"]["wer"]["mean"] == 0.5
    assert codec["rates"]["stream_bitrate"] == pytest.approx(100, rel=0.02)
    assert codec["rates"]["code_usage"] == [1.0]
    assert codec["rates"]["entropy_bitrate"] == pytest.approx(codec["rates"]["stream_bitrate"], rel=0.01)
    assert codec["speed"]["encode"] == pytest.approx(0.3 / sum(clip["seconds"] for clip in results["clips"]))


@pytest.mark.usefixtures("fake_metric")
def test_a_delay_is_removed_and_reported_in_the_figures(fake, settings) -> None:
    fake("late", lambda wav: np.pad(wav, (480, 0))[: len(wav)])
    _, results = run(settings("late"))
    for row in results["codecs"][0]["clips"].values():
        assert row["delay"] == 0.02
    # all that is lost is the last 20 ms, which were pushed out
    assert results["codecs"][0]["summary"]["error"]["mean"] < 0.01


def broken(_):
    raise RuntimeError("out of\npaper")


@pytest.mark.usefixtures("fake_metric")
def test_bad_recordings_and_bad_codecs_are_reported_in_a_line_each_and_the_rest_is_measured(
    fake, settings, corpus
) -> None:
    (corpus / "d.wav").write_text("no audio")
    (corpus / "e.wav").touch()
    calls = []

    def sometimes(wav):
        calls.append(1)
        if len(calls) == 2:  # the first is the warm-up
            raise RuntimeError("out of\npaper")
        return wav

    fake("sometimes", sometimes)
    fake("longer", lambda wav: np.pad(wav, (0, 12000)))
    fake("nan", lambda wav: wav * np.nan)
    fake("silent", lambda wav: wav * 0)
    fake("always", broken)
    done, results = run(settings("sometimes", "longer", "nan", "silent", "always"))
    assert all("\n" not in line for line in done.failures)
    text = "\n".join(done.failures)
    assert "d.wav: " in text
    assert "e.wav: " in text
    assert "always: out of paper" in text
    assert text.count("sometimes: a.wav: out of paper") == 1
    assert text.count("longer: ") == 3
    assert "changed the length by +0.500 s" in text
    assert text.count("nan: ") == 3
    counts = {c["label"]: (c["summary"]["error"]["clips"], c["summary"]["error"]["missing"]) for c in results["codecs"]}
    assert counts == {"sometimes": (2, 0), "longer": (3, 0), "nan": (0, 0), "silent": (0, 3)}
    assert results["codecs"][3]["summary"]["error"]["mean"] is None


@pytest.mark.usefixtures("fake_metric")
def test_nothing_to_measure_is_an_error(fake, settings, corpus) -> None:
    fake("always", broken)
    with pytest.raises(ValueError, match="none of the codecs"):
        run(settings("always"))
    for path in corpus.iterdir():
        path.write_text("no audio")
    fake("fine", lambda wav: wav)
    with pytest.raises(ValueError, match="none of the recordings"):
        run(settings("fine"))


@pytest.mark.usefixtures("fake_metric")
def test_a_stopped_run_goes_on_where_it_was(fake, settings) -> None:
    @contextmanager
    def stops_at_the_second(what, _):
        done = []

        def advance():
            done.append(1)
            if what == "codec" and len(done) == 2:
                raise KeyboardInterrupt

        yield advance

    codec = fake("codec", lambda wav: 0.5 * wav)
    with pytest.raises(KeyboardInterrupt):
        run(settings("codec"), stops_at_the_second)
    before = codec.calls
    _, first = run(settings("codec"))
    assert codec.calls - before == 2  # the warming up, and the third clip
    _, second = run(settings("codec"))
    assert codec.calls - before == 3  # the warming up alone
    assert first == second


@pytest.mark.usefixtures("fake_metric")
def test_a_reconstruction_of_another_codec_under_the_same_name_is_not_used_as_its_own(fake, settings) -> None:
    fake("codec", lambda wav: wav)
    run(settings("codec"))
    other = fake("codec", lambda wav: 0.5 * wav)
    other.identity = {"kind": "fake", "label": "other"}
    _, results = run(settings("codec"))
    assert results["codecs"][0]["summary"]["error"]["mean"] > 1e-3
    fake("codec", lambda wav: wav)
    _, results = run(settings("codec"))
    assert results["codecs"][0]["summary"]["error"]["mean"] < 1e-6


def test_the_number_of_workers_does_not_matter(settings, parity_dir, tmp_path: Path) -> None:
    pytest.importorskip("pesq", reason="pesq is not installed")
    pytest.importorskip("pystoi", reason="pystoi is not installed")
    both = []
    for workers in (1, 2):
        once = settings("copy:8000", str(parity_dir))
        _, results = run(replace(once, workers=workers, out=tmp_path / str(workers)))
        for codec in results["codecs"]:
            del codec["speed"]
            for row in codec["clips"].values():
                del row["encode_seconds"], row["decode_seconds"]
        both.append(results["codecs"])
    assert both[0] == both[1]
    assert not math.isnan(both[0][0]["summary"]["pesq_nb"]["mean"])


def twice(number):
    if number == 3:
        raise ValueError("three")
    if number == 4:
        os._exit(1)
    return 2 * number


@pytest.mark.parametrize(("workers", "isolated"), [(2, False), (1, True)])
def test_a_worker_that_dies_loses_nothing_but_its_own_task(workers: int, isolated: bool) -> None:
    results = dict(run_tasks(twice, [1, 2, 3, 4, 5], workers, isolated=isolated))
    assert results[3] == Failed("three")
    assert isinstance(results[4], Failed)
    assert [results[i] for i in (1, 2, 5)] == [2, 4, 10]


def wait_or_die(task: tuple[str, Path]) -> str:
    name, waits = task
    if name.startswith("quick"):
        # long enough for both processes to begin, and the pool to know of both
        time.sleep(0.5)
        return name
    if name == "dies":
        while not waits.exists():
            time.sleep(0.01)
        os._exit(1)
    if not waits.exists():
        waits.touch()
        try:
            time.sleep(600)
        except SystemExit:
            # as the loop of a pool does when the signal strikes between taking a lock and giving it back
            time.sleep(600)
    return name


def test_a_worker_that_cannot_end_after_another_has_died_is_ended(tmp_path: Path) -> None:
    tasks = [(name, tmp_path / "waits") for name in ("quick", "quick too", "waits", "dies")]
    results = {task[0]: result for task, result in run_tasks(wait_or_die, tasks, 2)}
    assert isinstance(results.pop("dies"), Failed)
    assert results == {name: name for name in ("quick", "quick too", "waits")}


def touch(path: Path) -> None:
    path.touch()
    time.sleep(0.5)


@pytest.mark.parametrize(("workers", "isolated"), [(2, False), (1, True), (1, False)])
def test_whoever_stops_early_waits_for_running_tasks_only(workers: int, isolated: bool, tmp_path: Path) -> None:
    results: Any = run_tasks(touch, [tmp_path / str(number) for number in range(40)], workers, isolated=isolated)
    next(results)
    results.close()
    assert len(list(tmp_path.iterdir())) <= 8


def test_a_cache_survives_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    Cache(path).put(["a"], 1)
    with path.open("a") as file:
        file.write('\n{"key": "x", "ans')
    again = Cache(path)
    again.put(["b"], {"c": 2})
    assert (Cache(path).get(["a"]), Cache(path).get(["b"]), Cache(path).get(["d"])) == (1, {"c": 2}, None)


def test_names_become_different_file_names() -> None:
    names = ["a/b", "a-b", "a b", "../x", "clip.wav", "é", ""]
    slugs = {slug(name) for name in names}
    assert len(slugs) == len(names)
    assert not any("/" in s or s in ("", "..") for s in slugs)


@pytest.mark.usefixtures("fake_metric")
def test_recordings_are_stored_as_measured(fake, settings) -> None:
    fake("loud", lambda wav: 3 * wav)
    done, _ = run(settings("loud"))
    out = done.settings.out
    original, loud = (load_wav(audio_path(out, name, "a.wav")) for name in ("original", "loud"))
    assert original.shape == loud.shape
    assert np.abs(original).max() == pytest.approx(0.7, abs=1e-3)
    assert np.abs(loud).max() == pytest.approx(1, abs=1e-3)
    assert len(original) == len(speech(1.5))
