"""Tokens of a corpus are those of each clip alone, whatever the input, the format, the batches and what went wrong."""

from __future__ import annotations

import gzip
import io
import json
import resource
import shutil
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile

from mimotok import Tokenizer
from mimotok.corpus import loading, tokenize_corpus
from mimotok.corpus.ledger import FAILED, LEDGER, SHARDS, read_entries, read_failures
from mimotok.corpus.run import Progress
from tests.helpers.corpus_tools import CLIPS, SHARD_HOURS, Sounds, assert_complete, records_of

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"workers": 0, "shard_hours": SHARD_HOURS, "batch_seconds": 1.0}


@pytest.mark.parametrize(("format", "workers"), [("parquet", 2), ("webdataset", 0), ("shar", 1)])
def test_codes_are_those_of_each_clip_alone(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, format: str, workers: int
) -> None:
    options = QUICK | {"workers": workers}
    seen: list[Progress] = []
    done = tokenize_corpus(
        str(sounds.manifest), out, tokenizer, root=str(sounds.folder), format=format, progress=seen.append, **options
    )
    assert_complete(out, sounds.codes)
    assert (done.clips, done.failed) == (CLIPS, 0)
    assert done.shards == len(read_entries(out)) > 2
    assert done.frames == sum(codes.shape[1] for codes in sounds.codes.values())
    for record in records_of(out):
        row = sounds.rows[record.key]
        assert record.metadata == {name: value for name, value in row.items() if name != "audio"}
        assert Path(record.audio["path"]) == sounds.folder / record.key
    assert [now.clips for now in seen] == sorted(now.clips for now in seen)
    assert seen[-1].clips == seen[-1].all_clips == CLIPS


def test_n_q_and_wrong_durations(sounds: Sounds, tokenizer: Tokenizer, out: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [row | {"duration": float(rng.uniform(0, 3))} for row in sounds.rows.values()]
    wrong = tmp_path / "wrong.jsonl.gz"
    wrong.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    tokenize_corpus(wrong, out, tokenizer, root=sounds.folder, n_q=2, **QUICK)
    assert_complete(out, {key: codes[:2] for key, codes in sounds.codes.items()})


def write_tars(sounds: Sounds, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    keys = sorted(sounds.rows)
    for number, part in enumerate((keys[::2], keys[1::2])):
        with tarfile.open(folder / f"part-{number}.tar", "w") as tar:
            for i, key in enumerate(part):
                tar.add(sounds.folder / key, f"deep/{i:03d}{Path(key).suffix}")
                for suffix, data in ((".txt", sounds.rows[key]["text"]), (".json", json.dumps({"n": i, "key": key}))):
                    member = tarfile.TarInfo(f"deep/{i:03d}{suffix}")
                    member.size = len(data.encode())
                    tar.addfile(member, io.BytesIO(data.encode()))


def test_webdataset_tars(sounds: Sounds, tokenizer: Tokenizer, out: Path, tmp_path: Path) -> None:
    write_tars(sounds, tmp_path / "tars")
    tokenize_corpus(str(tmp_path / "tars"), out, tokenizer, **QUICK)
    by_key = {record.metadata["key"]: record for record in records_of(out)}
    assert by_key.keys() == sounds.codes.keys()
    for key, record in by_key.items():
        np.testing.assert_array_equal(record.codes, sounds.codes[key])
        assert record.metadata["text"] == sounds.rows[key]["text"]


def test_a_tar_that_was_cut_off_gives_what_it_has(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, tmp_path: Path
) -> None:
    write_tars(sounds, tmp_path / "tars")
    whole = (tmp_path / "tars" / "part-1.tar").read_bytes()
    (tmp_path / "tars" / "part-1.tar").write_bytes(whole[: len(whole) // 2])
    done = tokenize_corpus(str(tmp_path / "tars"), out, tokenizer, **QUICK)
    assert CLIPS // 2 <= done.clips < CLIPS
    assert any("part-1.tar" in failure.key for failure in read_failures(out))
    for record in records_of(out):
        np.testing.assert_array_equal(record.codes, sounds.codes[record.metadata["key"]])


@pytest.mark.parametrize("place", ["folder", "file://", "memory://", "memory tars", "memory root"])
def test_folders_here_and_behind_fsspec(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, tmp_path: Path, place: str
) -> None:
    source, root, codes = str(sounds.folder), ".", dict(sounds.codes)
    if place == "file://":
        source = f"file://{sounds.folder}"
    elif place != "folder":
        local = sounds.folder
        if place == "memory tars":
            local = tmp_path / "tars"
            write_tars(sounds, local)
        memory = fsspec.filesystem("memory")
        memory.put(str(local), f"/{tmp_path.name}", recursive=True)
        source = root = f"memory://{tmp_path.name}"
    if place == "memory root":
        source = str(sounds.manifest)
    tokenize_corpus(source, out, tokenizer, root=root, **QUICK)
    if place == "memory tars":
        assert sorted(record.metadata["key"] for record in records_of(out)) == sorted(codes)
    else:
        assert_complete(out, codes)


def test_lhotse_cuts(sounds: Sounds, tokenizer: Tokenizer, out: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    cuts = []
    for key, row in sounds.rows.items():
        recording = lhotse.Recording.from_file(sounds.folder / key, recording_id=key)
        cut = recording.to_cut()
        cut.id = key
        cut.supervisions = [lhotse.SupervisionSegment(key, key, 0, cut.duration, text=row["text"], speaker="x")]
        cut.custom = {"n": row["n"]}
        cuts.append(cut)
    half = cuts[0].truncate(duration=cuts[0].duration / 2, preserve_id=False)
    lhotse.CutSet.from_cuts([*cuts, half]).to_file(tmp_path / "cuts.jsonl.gz")
    root = str(sounds.folder)
    tokenize_corpus(str(tmp_path / "cuts.jsonl.gz"), out, tokenizer, root=root, format="shar", **QUICK)
    records = {record.key: record for record in records_of(out)}
    for key, codes in sounds.codes.items():
        np.testing.assert_array_equal(records[key].codes, codes)
        assert records[key].metadata == {"text": sounds.rows[key]["text"], "speaker": "x"}
    assert records[half.id].codes.shape[1] < sounds.codes[cuts[0].id].shape[1]
    back = {cut.id: cut for cut in lhotse.CutSet.from_shar(in_dir=out / SHARDS)}
    assert back.keys() == records.keys()
    for key, cut in back.items():
        np.testing.assert_array_equal(cut.load_codes(), records[key].codes)
    assert back[cuts[3].id].custom["n"] == cuts[3].custom["n"]
    assert back[cuts[3].id].supervisions[0].text == cuts[3].supervisions[0].text


@pytest.mark.parametrize("workers", [0, 1])
def test_long_recordings_go_block_by_block(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(loading, "LONG_SECONDS", 0.2)
    monkeypatch.setattr("mimotok.chunking.SEGMENT_MEL_FRAMES", 12)
    from mimotok import load_audio

    codes = {key: tokenizer.encode(load_audio(sounds.folder / key, 24000))[0].numpy() for key in sounds.codes}
    tokenize_corpus(str(sounds.manifest), out, tokenizer, root=str(sounds.folder), **QUICK | {"workers": workers})
    assert_complete(out, codes)


def spoil(folder: Path) -> dict[str, str]:
    """Adds clips that cannot be read; returns the reason that must be given for each."""
    (folder / "text.wav").write_text("no sound at all\n" * 99)
    (folder / "empty.flac").touch()
    soundfile.write(folder / "nan.wav", np.full(5000, np.nan), 24000, subtype="FLOAT")
    whole = next(folder.rglob("*.wav")).read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    return {"text.wav": "not audio", "empty.flac": "empty", "nan.wav": "NaN", "cut.wav": "truncated"}


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_clips_go_to_failed_jsonl(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, tmp_path: Path, workers: int
) -> None:
    folder = tmp_path / "audio"
    shutil.copytree(sounds.folder, folder)
    reasons = spoil(folder)
    done = tokenize_corpus(str(folder), out, tokenizer, **QUICK | {"workers": workers})
    assert_complete(out, sounds.codes)
    failures = {failure.key: failure for failure in read_failures(out)}
    assert failures.keys() == reasons.keys()
    assert all(reasons[key] in failures[key].reason for key in reasons)
    assert (done.clips, done.failed) == (CLIPS, len(reasons))

    shutil.copy(folder / "s0" / "clip 00.wav", folder / "nan.wav")
    before = (out / FAILED).read_bytes()
    tokenize_corpus(str(folder), out, tokenizer, **QUICK)
    assert (out / FAILED).read_bytes() == before
    (out / FAILED).unlink()  # which asks for another try
    done = tokenize_corpus(str(folder), out, tokenizer, **QUICK)
    assert (done.clips, done.failed) == (CLIPS + 1, len(reasons) - 1)
    assert_complete(out, sounds.codes | {"nan.wav": sounds.codes["s0/clip 00.wav"]})


def test_a_corpus_that_grew(sounds: Sounds, tokenizer: Tokenizer, out: Path, tmp_path: Path) -> None:
    lines = sounds.manifest.read_text().splitlines(keepends=True)
    growing = tmp_path / "growing.jsonl"
    for count in (5, 5, 13, CLIPS):
        growing.write_text("".join(lines[:count]))
        before = {path: path.stat().st_mtime_ns for path in (out / SHARDS).glob("*")} if out.exists() else {}
        done = tokenize_corpus(str(growing), out, tokenizer, root=str(sounds.folder), **QUICK)
        assert done.clips == count
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert_complete(out, sounds.codes)


def test_other_weights_or_settings_are_refused(sounds: Sounds, tokenizer: Tokenizer, tiny, out: Path) -> None:
    run: dict[str, Any] = {"root": str(sounds.folder), **QUICK}
    tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for changed, message in (
        ({"n_q": 2}, "n_q 6, not 2"),
        ({"format": "webdataset"}, "format parquet, not webdataset"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenize_corpus(str(sounds.manifest), out, tokenizer, **run | changed)
    with pytest.raises(ValueError, match="sha256"):
        tokenize_corpus(str(sounds.manifest), out, tiny(), **run)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_mistyped_source_settles_nothing(sounds: Sounds, tokenizer: Tokenizer, out: Path) -> None:
    run: dict[str, Any] = {"root": str(sounds.folder), **QUICK}
    with pytest.raises(ValueError, match="no such file or folder"):
        tokenize_corpus(str(sounds.folder / "nowhere"), out, tokenizer, **run)
    done = tokenize_corpus(str(sounds.manifest), out, tokenizer, **{**run, "n_q": 2})
    assert done.clips == CLIPS


def test_a_folder_of_something_else_is_left_alone(sounds: Sounds, tokenizer: Tokenizer, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds thesis\.tex"):
        tokenize_corpus(str(sounds.manifest), out, tokenizer, root=str(sounds.folder), **QUICK)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("limit", "shard_hours", "full"),
    [(100, SHARD_HOURS, "corpus.json"), (1500, SHARD_HOURS, ".parquet"), (3500, 1e-9, LEDGER)],
)
def test_a_full_disk_stops_it_and_room_lets_it_go_on(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, limit: int, shard_hours, full
) -> None:
    run: dict[str, Any] = {"root": str(sounds.folder), **QUICK}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ValueError, match=f"{full}: cannot be written") as caught:
            tokenize_corpus(str(sounds.manifest), out, tokenizer, **run | {"shard_hours": shard_hours})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob(".mimotok-*"))
    tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    assert_complete(out, sounds.codes)


def test_shards_that_lost_their_ledger_are_kept(sounds: Sounds, tokenizer: Tokenizer, out: Path) -> None:
    run: dict[str, Any] = {"root": str(sounds.folder), **QUICK}
    tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    ledger = (out / LEDGER).read_bytes()
    shards = {path.name: path.read_bytes() for path in (out / SHARDS).iterdir()}
    (out / LEDGER).unlink()
    with pytest.raises(ValueError, match=r"ledger\.jsonl: no such file.*restore it"):
        tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    assert {path.name: path.read_bytes() for path in (out / SHARDS).iterdir()} == shards
    (out / LEDGER).write_bytes(ledger)
    tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    assert_complete(out, sounds.codes)


@pytest.mark.parametrize(
    "line",
    ["[]", "5", '{"number": 0}', '{"unheard": 1}', "[" * 9999, '{"files": null}', '{"files": {}}', '{"keys": 3}'],
)
@pytest.mark.parametrize("name", [LEDGER, FAILED])
def test_a_line_of_another_version_is_told_in_one_line(done: Path, line: str, name: str) -> None:
    entry = json.loads((done / LEDGER).read_text().splitlines()[0])
    if line.startswith(('{"files"', '{"keys"')):
        line = json.dumps(entry | json.loads(line))
    (done / name).write_text(line + "\n")
    read = read_entries if name == LEDGER else read_failures
    with pytest.raises(ValueError, match=f"{name}:1: damaged, or of another version") as caught:
        read(done)
    assert "\n" not in str(caught.value)


@pytest.fixture
def done(sounds: Sounds, tokenizer: Tokenizer, out: Path) -> Path:
    tokenize_corpus(str(sounds.manifest), out, tokenizer, root=str(sounds.folder), **QUICK)
    return out


def test_too_little_memory_for_a_clip_is_no_failure_of_it(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError("no room for it")

    run: dict[str, Any] = {"root": str(sounds.folder), **QUICK}
    monkeypatch.setattr(loading, "load_clip", no_memory)
    with pytest.raises(ValueError, match=r"clip .*: no room for it"):
        tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    monkeypatch.undo()
    tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    assert_complete(out, sounds.codes)


@pytest.mark.parametrize("torn", [b'{"number": 7, "fil', b'{"number": 7, "files": {}, "keys": ["x"]'])
def test_a_torn_ledger_line_and_shards_it_does_not_know_are_made_again(
    sounds: Sounds, tokenizer: Tokenizer, out: Path, torn: bytes
) -> None:
    run: dict[str, Any] = {"root": str(sounds.folder), **QUICK}
    tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    lines = (out / LEDGER).read_bytes().splitlines(keepends=True)
    (out / LEDGER).write_bytes(b"".join(lines[:-2]) + torn)
    (out / SHARDS / ".mimotok-0123.tmp").touch()
    tokenize_corpus(str(sounds.manifest), out, tokenizer, **run)
    assert_complete(out, sounds.codes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "1: not JSON"),
        (["[]"], "JSON object"),
        (['{"text": "x"}'], "needs `audio`"),
        (['{"audio": "a.wav", "duration": "long"}'], "duration='long'"),
        (['{"audio": "a.wav"}', '{"audio": "a.wav"}'], r"two clips are called 'a\.wav'"),
        ([], "empty"),
        (None, "cannot be read"),
    ],
)
def test_manifests_that_are_not_understood(
    tokenizer: Tokenizer, out: Path, tmp_path: Path, lines, message: str
) -> None:
    path = tmp_path / "m.jsonl"
    if lines is not None:
        path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(ValueError, match=message) as caught:
        tokenize_corpus(str(path), out, tokenizer, **QUICK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers=-1"),
        ({"batch_seconds": 0}, "batch_seconds=0"),
        ({"shard_hours": 0}, "shard_hours=0"),
        ({"format": "zip"}, "format=zip"),
        ({"n_q": 99}, "n_q=99"),
    ],
)
def test_bad_options(sounds: Sounds, tokenizer: Tokenizer, out: Path, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenize_corpus(str(sounds.manifest), out, tokenizer, **QUICK | options)
    assert not out.exists()
