"""Manifests and the cache: the same samples however they came, one line for what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mimotok.io.clips.clip import Clip
from tests.helpers.paths import ROOT
from tests.helpers.speech_corpus import BAD, RATE, assert_equal, speech, take
from tests.helpers.training_runs import run_train
from train.data.cache import prepare, read_prepared
from train.data.manifest import BadClipError, decode, read, read_manifest

pytestmark = pytest.mark.slow


def test_the_cache_is_a_lhotse_cut_set_of_the_same_samples(corpus: Path, prepared: str) -> None:
    lhotse = pytest.importorskip("lhotse")
    (folder,) = Path(prepared).iterdir()
    cuts = lhotse.CutSet.from_file(folder / "cuts.jsonl.gz")
    clips, skipped = read_prepared(folder)
    assert set(skipped) == set(BAD) - {"short.wav"}
    for cut, clip in zip(cuts, clips, strict=True):
        samples, rate = sf.read(corpus / clip.id, dtype="float32")
        assert np.array_equal(cut.load_audio()[0], samples)
        assert np.array_equal(read(clip)[0], samples)
        assert (cut.sampling_rate, cut.supervisions[0].text) == (rate, clip.text)


def test_an_interrupted_preparation_goes_on(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.cache.SHARD_SECONDS", 20.0)
    manifest = str(corpus / "manifest.jsonl")
    folder = prepare(manifest, str(corpus), str(tmp_path), workers=2)
    whole = (folder / "cuts.jsonl.gz").read_bytes()
    (folder / "cuts.jsonl.gz").unlink()
    (folder / "shard-00001.jsonl").unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.wav")}
    assert prepare(manifest, str(corpus), str(tmp_path)) == folder
    assert (folder / "cuts.jsonl.gz").read_bytes() == whole
    rewritten = {path.name[:11] for path, then in times.items() if path.stat().st_mtime_ns != then}
    assert rewritten == {"shard-00001"}


def test_a_file_that_was_missing_is_tried_again(tmp_path: Path) -> None:
    rows = [{"audio": f"{k}.wav", "duration": 1.0} for k in range(2)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for k in range(2):
        sf.write(tmp_path / f"{k}.wav", speech(1.0, RATE, k), RATE)
        clips, _ = read_prepared(prepare(str(tmp_path / "m.jsonl"), str(tmp_path), str(tmp_path / "cache")))
        assert len(clips) == k + 1


def test_high_rates_are_brought_down_and_channels_averaged(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.stack([speech(1.0, 48000, 0), np.zeros(48000)], axis=1), 48000)
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "duration": 1.0}))
    (clip,), _ = read_prepared(prepare(str(tmp_path / "m.jsonl"), str(tmp_path), str(tmp_path)))
    wav, rate = read(clip)
    assert (wav.shape, rate) == ((RATE,), RATE)
    assert decode(Clip("a", str(tmp_path / "a.wav"), duration=1.0, source="s"))[0].shape == (48000,)


def test_a_truncated_cache_is_noticed(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(str(corpus / "manifest.jsonl"), str(corpus), str(tmp_path))
    clip = read_prepared(folder)[0][-1]
    Path(clip.pcm.path).write_bytes(Path(clip.pcm.path).read_bytes()[:-2000])
    with pytest.raises(BadClipError, match="truncated"):
        read(clip)


def test_a_prepared_corpus_needs_neither_lhotse_nor_torchaudio(prepared: str) -> None:
    """In a process of its own: nothing that reads a prepared corpus may import them."""
    (folder,) = Path(prepared).iterdir()
    code = f"""
import sys
sys.modules["lhotse"] = sys.modules["torchaudio"] = None
import train.data.shar
from train.data.batches import Render
from train.data.cache import read_prepared
from train.data.plan import PlanConfig, whole_plan
clips, _ = read_prepared({str(folder)!r})
(planned, *_) = whole_plan(clips, PlanConfig())
assert Render(24000, None).batch(clips, planned, (0,)).batch.wav.any()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("line", ['{"path": "b.wav"}', "b.wav", '["b.wav"]'])
def test_lines_that_are_no_clips_are_refused_by_number(tmp_path: Path, line: str) -> None:
    good = json.dumps({"audio": "a.wav", "duration": 1})
    for lines, number in (((good, line), 2), ((line, good), 1)):
        (tmp_path / "m.jsonl").write_text("\n".join(lines))
        with pytest.raises(ValueError, match=rf"m\.jsonl:{number}: "):
            read_manifest(str(tmp_path / "m.jsonl"))


def test_cut_sets_give_the_batches_of_the_same_jsonl(cuts, corpus: Path, tmp_path: Path, module) -> None:
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    lines = (corpus / "manifest.jsonl").read_text().splitlines()[:32]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    loaders = [
        module(cache_dir=None, manifest=str(tmp_path / name)).train_dataloader()
        for name in ("cuts.jsonl.gz", "clips.jsonl")
    ]
    assert_equal(*(take(loader, 10) for loader in loaders))


def test_a_transcript_that_a_cut_truncates_is_dropped(cuts, corpus: Path, tmp_path: Path) -> None:
    cut = next(iter(cuts.filter(lambda cut: cut.supervisions[0].text)))
    truncated = cut.truncate(duration=cut.duration / 2).with_id("truncated")
    type(cuts).from_cuts([cut, truncated]).to_file(tmp_path / "cuts.jsonl")
    whole, part = read_manifest(str(tmp_path / "cuts.jsonl"), str(corpus))
    assert (whole.text, part.text) == (cut.supervisions[0].text, None)
    assert len(decode(part)[0]) == pytest.approx(len(decode(whole)[0]) / 2, abs=1)


def test_relative_recordings_are_taken_from_root(cuts, corpus: Path, tmp_path: Path) -> None:
    rows = [json.loads(json.dumps(cut.to_dict())) for cut in cuts]
    for row in rows:
        row["recording"]["sources"][0]["source"] = Path(row["recording"]["sources"][0]["source"]).name
    (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    clips = read_manifest(str(tmp_path / "cuts.jsonl"), str(corpus))
    assert len(decode(clips[0])[0])
    with pytest.raises(BadClipError, match=r"^missing$"):
        decode(read_manifest(str(tmp_path / "cuts.jsonl"), str(tmp_path))[0])


def test_several_manifests_are_one_corpus(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from train.__main__ import app

    arguments = ["prepare", "--root", str(tmp_path), "--out", str(tmp_path / "cache")]
    for k in range(2):
        sf.write(tmp_path / f"{k}.wav", speech(1.0, RATE, k), RATE)
        (tmp_path / f"{k}.jsonl").write_text(json.dumps({"audio": f"{k}.wav", "duration": 1.0}) + "\n")
        arguments += ["--manifest", str(tmp_path / f"{k}.jsonl")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    clips, _ = read_prepared(result.stdout.strip())
    assert [(clip.id, clip.source) for clip in clips] == [("0.wav", "0"), ("1.wav", "1")]


def replaced(folder):
    sf.write(folder / "1.wav", speech(1.0, RATE, 99), RATE)


def removed(folder):
    (folder / "1.wav").unlink()


@pytest.mark.parametrize("kind", ["jsonl", "cuts"])
@pytest.mark.parametrize("change", [replaced, removed, None])
def test_the_cache_holds_what_the_files_of_this_root_hold_now(tmp_path, kind, change, monkeypatch):
    monkeypatch.setattr("train.data.cache.SHARD_SECONDS", 1.5)
    roots = [tmp_path / "noisy", tmp_path / "clean"]
    for seed, root in enumerate(roots):
        root.mkdir()
        for k in range(3):
            sf.write(root / f"{k}.wav", speech(1.0, RATE, 10 * seed + k), RATE)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(json.dumps(row(k, kind)) for k in range(3)))

    def heard(root):
        return {
            clip.id: read(clip)[0] for clip in read_prepared(prepare(str(manifest), str(root), str(tmp_path / "c")))[0]
        }

    first = heard(roots[0])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*.wav")}
    if change is not None:
        change(roots[0])
    for root in roots:
        now = heard(root)
        wanted = {path.stem: sf.read(path, dtype="float32")[0] for path in root.glob("*.wav")}
        assert now.keys() == wanted.keys()
        assert all(np.array_equal(now[name], wanted[name]) for name in wanted)
    kept = [path for path, then in written.items() if path.exists() and path.stat().st_mtime_ns == then]
    assert len(kept) == (3 if change is None else 2)
    assert change is not None or first.keys() == heard(roots[0]).keys()


def row(k, kind):
    if kind == "jsonl":
        return {"id": str(k), "audio": f"{k}.wav", "duration": 1.0}
    pytest.importorskip("lhotse")
    source = {"type": "file", "channels": [0], "source": f"{k}.wav"}
    recording = {"id": str(k), "sources": [source], "sampling_rate": RATE, "num_samples": RATE, "duration": 1.0}
    return {"id": str(k), "start": 0, "duration": 1.0, "channel": 0, "recording": recording, "type": "MonoCut"}


def test_a_model_of_another_rate_has_a_cache_of_its_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    sf.write(tmp_path / "a.wav", 0.1 * rng.standard_normal(48_000), 48_000, subtype="PCM_16")
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "duration": 1.0}\n')
    words = ["prepare", "--manifest", tmp_path / "m.jsonl", "--root", tmp_path, "--out", tmp_path / "cache"]
    for rate in (24_000, 48_000):
        assert run_train(*words, "--sample-rate", rate) == 0
        clips, _ = read_prepared(capsys.readouterr().out.strip())
        assert [clip.pcm.rate for clip in clips if clip.pcm is not None] == [rate]
    assert prepare(str(tmp_path / "m.jsonl"), str(tmp_path), str(tmp_path / "cache"), sample_rate=48_000).is_dir()
    assert len(list((tmp_path / "cache").iterdir())) == 2
