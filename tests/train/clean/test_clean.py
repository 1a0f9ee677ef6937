"""Cleaning found audio: estimates follow what was done to the sound, and a run is exact however often stopped."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.corpus.recordings import load_recording, read_recordings
from mimotok.io.audio import resample
from tests.helpers.paths import ROOT
from train.clean import hear as hearing_module
from train.clean.duplicates import find_duplicates
from train.clean.measure import bandwidth, clipping_share, estimate_snr, fingerprint, levels_of
from train.clean.run import HEARD, MANIFEST, REJECTED, REPORT, clean
from train.clean.segments import Span, cut_at_pauses
from train.clean.settings import Hearing, Limits
from train.clean.speakers import Voices, number_speakers, unit
from train.clean.voice import find_speech
from train.data.cache import prepare

RATE = 24000
OUTPUTS = (MANIFEST, REJECTED, REPORT)
DEAF = Hearing(speakers="none")


def words(seconds: float = 3.0, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Noise in bursts that loud energy alone tells from silence: float32 [T]."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    envelope = np.interp(np.arange(count), np.linspace(0, count, 40), rng.uniform(0.1, 1, 40))
    return (0.1 * envelope * rng.standard_normal(count)).astype(np.float32)


def loud(wav: np.ndarray, _: Hearing) -> list[Span]:
    """Stand in for the detector where made-up sound is heard: stretches that are loud."""
    size = 480
    levels = np.sqrt(np.square(wav[: len(wav) // size * size].reshape(-1, size)).mean(axis=1))
    frames = levels > 0.05 * levels.max()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames.astype(int), [0]])))
    places = (edges * size / 16000).tolist()
    return [Span(*ends) for ends in zip(places[::2], places[1::2], strict=True)]


@settings(max_examples=30, deadline=None)
@given(
    gaps=st.lists(st.tuples(st.floats(0.02, 3), st.floats(0.1, 30)), min_size=1, max_size=8),
    longest=st.floats(4, 20),
    padding=st.floats(0, 0.5),
)
def test_segments_keep_their_bounds_and_lose_no_speech(gaps, longest, padding) -> None:
    speech: list[Span] = []
    end = 0.0
    for gap, seconds in gaps:
        speech.append(Span(end + gap, end + gap + seconds))
        end = speech[-1].end
    total = end + 0.5
    wav = np.random.default_rng(0).standard_normal(round(total * 100)).astype(np.float32)
    hearing = Hearing(min_seconds=0.001, max_seconds=longest, padding=padding)
    segments = cut_at_pauses(speech, wav, 100, hearing)
    assert all(0 <= span.start < span.end <= total + 0.01 for span in segments)
    assert all(span.seconds <= longest + 1e-6 for span in segments)
    assert all(a.end <= b.start + 1e-6 for a, b in pairwise(segments))
    covered = sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in speech for b in segments)
    assert covered == pytest.approx(sum(span.seconds for span in speech), abs=0.05)
    # nothing but padding and pauses is added
    for a, b in pairwise(speech):
        if b.start - a.end > hearing.longest_pause:
            assert not any(span.start < a.end - 1e-6 and span.end > b.start + 1e-6 for span in segments)


def test_two_speakers_do_not_share_a_segment_and_long_speech_is_cut_where_it_is_quiet() -> None:
    speech = [Span(0.5, 3.0), Span(3.4, 6.0)]
    wav = words(8.0)
    assert len(cut_at_pauses(speech, wav, RATE, DEAF)) == 1
    assert len(cut_at_pauses(speech, wav, RATE, DEAF, same_speaker=lambda _a, _b: False)) == 2
    long = words(20.0)
    long[round(11.3 * RATE) : round(11.4 * RATE)] = 0
    first, second = cut_at_pauses([Span(0.0, 20.0)], long, RATE, DEAF)
    assert first.end == pytest.approx(11.35, abs=0.06)
    assert second.start == first.end


@pytest.mark.parametrize("snr", [5, 15, 25, 40])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_estimated_snr_is_that_which_was_mixed(snr: float, rate: int) -> None:
    clear = np.concatenate([np.zeros(rate, np.float32), words(3.0, rate=rate), np.zeros(rate, np.float32)])
    speech = [Span(1.0, 4.0)]
    noise = np.random.default_rng(9).standard_normal(len(clear))
    noise *= np.sqrt(np.square(clear[rate:-rate]).mean() / 10 ** (snr / 10))
    mixed = (clear + noise).astype(np.float32)
    estimate = estimate_snr(levels_of(mixed, rate, speech), Span(0.9, 4.1))
    assert estimate == pytest.approx(snr, abs=0.5)
    # whatever the level
    assert estimate_snr(levels_of(mixed * 0.1, rate, speech), Span(0.9, 4.1)) == pytest.approx(estimate, abs=0.01)


def test_clipping_is_seen_at_any_level_and_not_in_whole_sound() -> None:
    wav = words(2.0)
    shares = [clipping_share(np.clip(wav * gain, -0.1, 0.1) * 0.5) for gain in (1.0, 2.0, 4.0)]
    assert clipping_share(wav) == 0
    assert 0 < shares[1] < shares[2]
    flat = np.mean(np.abs(wav * 4) >= 0.1)
    assert 0.1 * flat < shares[2] <= flat


@pytest.mark.parametrize("band", [8000, 16000, 24000, 48000])
def test_the_bandwidth_is_that_of_the_narrowest_rate(band: int) -> None:
    wav = resample(words(2.0, rate=band), band, 48000)
    pcm = np.round(wav * 32767) / 32767
    assert bandwidth(pcm, 48000) == pytest.approx(band / 2, rel=0.07)


def test_copies_are_found_and_other_sound_is_not() -> None:
    sounds = [words(2.0, seed) for seed in range(6)]
    coded = resample(resample(sounds[2], RATE, 16000), 16000, RATE) * 0.3
    coded = np.concatenate([np.zeros(300, np.float32), coded])
    coded = coded + 1e-4 * np.random.default_rng(0).standard_normal(len(coded)).astype(np.float32)
    all_sounds = [*sounds, coded, sounds[0], words(4.0, 2)]
    prints = np.stack([fingerprint(wav, RATE) for wav in all_sounds])
    assert find_duplicates(prints, [len(wav) / RATE for wav in all_sounds], 0.9) == {6: 2, 7: 0}


def test_speakers_are_numbered_as_they_are_heard() -> None:
    rng = np.random.default_rng(0)
    base = [unit(rng.standard_normal(64)) for _ in range(3)]
    order = [1, 1, 0, 2, 0, 1, 2]
    voices: list[Any] = [unit(base[k] + 0.03 * rng.standard_normal(64)) for k in order]
    assert number_speakers([*voices[:3], None, *voices[3:]], 0.7) == [0, 0, 1, None, 2, 1, 0, 2]
    heard = Voices(np.stack(voices), np.arange(7.0))
    assert heard.same(Span(0, 1.7), Span(5, 6.7), 0.7) is False
    assert heard.consistency(Span(0, 2)) == pytest.approx(1, abs=0.1)
    assert heard.consistency(Span(0, 4)) < 0.7


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recordings of two stretches of sound each: good, noisy, clipped, narrow-band, in stereo, twice, and none."""
    monkeypatch.setattr(hearing_module, "find_speech", loud)
    folder = tmp_path / "found"
    folder.mkdir()
    gap = np.zeros(RATE * 2, np.float32)

    def recording(seed: int) -> np.ndarray:
        wav = np.concatenate([gap[:RATE], words(2.0, seed), gap, words(2.5, seed + 1), gap])
        return wav + 1e-5 * np.random.default_rng(seed).standard_normal(len(wav)).astype(np.float32)

    good = recording(0)
    noisy = recording(10)
    sounds = {
        "a.wav": good,
        "b.wav": np.stack([recording(20), 0.5 * recording(20)], axis=1),
        "copy.flac": 0.5 * good,
        "clipped.wav": np.clip(recording(30), -0.05, 0.05),
        "narrow.wav": resample(resample(recording(40), RATE, 8000), 8000, RATE),
        "noisy.wav": noisy + 0.02 * np.random.default_rng(5).standard_normal(len(noisy)).astype(np.float32),
    }
    for name, wav in sounds.items():
        soundfile.write(folder / name, wav, RATE)
    (folder / "broken.wav").write_bytes(b"RIFF, but no more")
    return folder


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in folder.iterdir()
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_cleaning_that_was_stopped_ends_as_one_that_was_not(found: Path, tmp_path: Path, monkeypatch) -> None:
    before = state_of(found)
    message = clean(str(found), str(tmp_path), tmp_path / "whole", hearing=DEAF)
    assert state_of(found) == before
    assert "1 recordings not heard" in message
    kept = lines(tmp_path / "whole" / MANIFEST)
    assert [row["recording"]["id"] for row in kept] == ["a.wav", "a.wav", "b.wav", "b.wav"]
    reasons = {(row["recording"]["id"], row["reason"]) for row in lines(tmp_path / "whole" / REJECTED)}
    assert reasons == {
        ("clipped.wav", "clipped"),
        ("copy.flac", "duplicate"),
        ("narrow.wav", "narrow-band"),
        ("noisy.wav", "noisy"),
    }
    # it is stopped after each recording, and once in the middle of a line
    counted = []

    def stop_at_third(clip: Any, hearing: Hearing) -> dict[str, Any]:
        counted.append(clip.id)
        if len(counted) % 3 == 0:
            raise KeyboardInterrupt
        return hearing_module.hear(clip, hearing)

    monkeypatch.setattr("train.clean.run.hear", stop_at_third)
    part = tmp_path / "part"
    for _ in range(9):
        try:
            clean(str(found), str(tmp_path), part, hearing=DEAF)
        except KeyboardInterrupt:
            with (part / HEARD).open("a") as file:
                file.write('{"key": "found/a')
        else:
            break
    for name in (*OUTPUTS, HEARD):
        assert (part / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # nothing is heard twice, but for those at which it was stopped
    assert len(counted) == 7 + len(counted) // 3


def test_other_limits_apply_at_once_other_settings_are_refused_and_changed_files_are_heard(
    found: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    clean(str(found), str(found), out, hearing=DEAF)
    heard: list[str] = []

    def noted(clip: Any, hearing: Hearing) -> dict[str, Any]:
        heard.append(clip.id)
        return hearing_module.hear(clip, hearing)

    monkeypatch.setattr("train.clean.run.hear", noted)
    strict = len(lines(out / MANIFEST))
    loose = Limits(min_snr=-99, max_clipping=1, min_bandwidth=0, duplicate=1.0)
    clean(str(found), str(found), out, hearing=DEAF, limits=loose)
    assert len(lines(out / MANIFEST)) > strict + 4
    assert heard == []
    with pytest.raises(ValueError, match=r"heard by other settings: pause was 0\.3, is 0\.4"):
        clean(str(found), str(found), out, hearing=Hearing(speakers="none", pause=0.4))
    soundfile.write(found / "b.wav", words(3.0, 50), RATE)
    clean(str(found), str(found), out, hearing=DEAF, limits=loose)
    assert heard == ["b.wav"]


def test_recordings_of_two_folders_that_have_one_name_stay_apart(found: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    soundfile.write(other / "a.wav", soundfile.read(found / "b.wav")[0][::-1], RATE)
    out = tmp_path / "out"
    clean([str(found), str(other)], str(tmp_path), out, hearing=DEAF)
    kept = lines(out / MANIFEST)
    assert {row["recording"]["id"] for row in kept} == {"found/a.wav", "b.wav", "other/a.wav"}
    assert len({row["id"] for row in kept}) == len(kept)
    for row in kept:
        path = row["recording"]["sources"][0]["source"]
        assert path.endswith(row["recording"]["id"])
        assert row["id"].startswith(row["supervisions"][0]["recording_id"])


@pytest.mark.slow
def test_the_manifest_holds_the_sound_of_its_segments(found: Path, tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    out = tmp_path / "out"
    clean(str(found), str(found), out, hearing=DEAF)
    for clip, row in zip(read_recordings(out / MANIFEST, found), lines(out / MANIFEST), strict=True):
        whole = soundfile.read(found / row["recording"]["id"], always_2d=True)[0].mean(axis=1)
        first = round(row["start"] * RATE)
        wav = load_recording(clip, RATE)
        assert len(wav) / RATE == pytest.approx(clip.duration, abs=1e-4)
        np.testing.assert_allclose(wav, whole[first : first + len(wav)], atol=1e-6)
    # and may be cleaned again, as cuts
    clean(str(out / MANIFEST), str(found), tmp_path / "again", hearing=DEAF, limits=Limits(min_snr=-99))
    again = list(read_recordings(tmp_path / "again" / MANIFEST, found))
    seconds = sum(row["duration"] for row in lines(out / MANIFEST))
    assert sum(clip.duration for clip in again) == pytest.approx(seconds, rel=0.05)
    page = (out / REPORT).read_text()
    assert page.count("<svg") == 4
    assert "http" not in page
    assert "broken.wav: corrupt" in page


@pytest.mark.parametrize(
    "values",
    [{"pause": 0.0}, {"voice_threshold": 1.5}, {"min_seconds": 9.0}, {"speakers": "who"}, {"padding": -1.0}],
)
def test_settings_out_of_range_are_reported(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))}="):
        Hearing(**values)


def test_the_detector_finds_speech_and_not_noise() -> None:
    pytest.importorskip("faster_whisper", reason="needs: pip install 'mimotok[clean]'")
    speech, rate = soundfile.read(ROOT / "examples" / "sample.flac", dtype="float32")
    wav = resample(speech, rate, 16000)
    silence = 1e-3 * np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    spans = find_speech(np.concatenate([silence, wav, silence]), DEAF)
    assert 1.5 < spans[0].start < 3.0
    assert spans[-1].end < 2.1 + len(wav) / 16000
    assert sum(span.seconds for span in spans) > 0.5 * len(wav) / 16000
    assert find_speech(silence, DEAF) == []


def test_mixed_cuts_are_refused_in_one_line(found: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    cut = lhotse.Recording.from_file(found / "a.wav", recording_id="a").to_cut()
    lhotse.CutSet.from_cuts([cut.pad(cut.duration + 1)]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(ValueError, match="a cut that is mixed, padded or appended"):
        clean(str(tmp_path / "cuts.jsonl"), str(found), tmp_path / "out", hearing=DEAF)


def test_the_tars_of_shar_are_refused_and_what_prepare_makes_of_them_is_heard_alike(
    found: Path, tmp_path: Path
) -> None:
    lhotse = pytest.importorskip("lhotse")
    # mono of 16 bits, which prepare keeps exactly
    names = ("a.wav", "clipped.wav", "narrow.wav", "noisy.wav")
    cuts = lhotse.CutSet.from_cuts(
        lhotse.Recording.from_file(found / name, recording_id=name).to_cut().with_id(name) for name in names
    )
    cuts.to_file(tmp_path / "cuts.jsonl")
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=2)
    with pytest.raises(ValueError, match=r"shar: a Shar folder, .*python -m train prepare --manifest .*shar"):
        clean(str(tmp_path / "shar"), ".", tmp_path / "refused", hearing=DEAF)
    folder = prepare(str(tmp_path / "shar"), ".", str(tmp_path / "cache"))
    kept = []
    for name, manifest in (("direct", tmp_path / "cuts.jsonl"), ("prepared", folder / "cuts.jsonl.gz")):
        clean(str(manifest), str(found), tmp_path / name, hearing=DEAF)
        rows = [*lines(tmp_path / name / MANIFEST), *lines(tmp_path / name / REJECTED)]
        kept.append([(row["id"], row["duration"], row["custom"]["snr"], row.get("reason")) for row in rows])
    assert {reason for *_, reason in kept[0]} == {None, "clipped", "narrow-band", "noisy"}
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_two_workers_write_what_one_writes_and_go_on_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="needs: pip install 'mimotok[clean]'")
    folder = tmp_path / "found"
    folder.mkdir()
    speech, rate = soundfile.read(ROOT / "examples" / "sample.flac", dtype="float32")
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", speech[number * rate :] * 0.5**number, rate)
    clean(str(folder), str(folder), tmp_path / "one", hearing=DEAF)
    clean(str(folder), str(folder), tmp_path / "two", hearing=DEAF, workers=2)
    # what a kill leaves: whole lines, and the beginning of one
    rows = (tmp_path / "two" / HEARD).read_bytes().splitlines(keepends=True)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / HEARD).write_bytes(b"".join(rows[:2]) + rows[2][:50])
    clean(str(folder), str(folder), tmp_path / "killed", hearing=DEAF)
    assert len(lines(tmp_path / "one" / MANIFEST)) >= 1
    for name in (*OUTPUTS, HEARD):
        first, *others = ((tmp_path / run / name).read_bytes() for run in ("one", "two", "killed"))
        assert others == [first, first]
