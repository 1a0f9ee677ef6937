"""Cuts from strangers: no source, array or transform of theirs makes a reader run or open what it should not."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mimotok.corpus import TokenDataset, tokenize_corpus, verify_corpus
from mimotok.corpus.cuts import load_cut, make_cut, shar_cut
from mimotok.corpus.ledger import read_failures
from mimotok.corpus.shar import Shard, find_shards, shar_cuts
from tests.helpers.corpus_tools import records_of
from train.data.cache import prepare
from train.data.manifest import read_manifest

pytestmark = pytest.mark.slow

lhotse = pytest.importorskip("lhotse")
QUICK: dict[str, Any] = {"workers": 0, "batch_seconds": 1.0, "shard_hours": 1.0}


class Marker:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.path),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a second of sound in it, and another outside of it."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (inside / "a.wav", tmp_path / "outside.wav"):
        soundfile.write(path, 0.3 * np.sin(np.arange(16000) * 0.05), 16000)
    return inside


def recording(**source: Any) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0], "source": "a.wav", **source}]
    facts = {"id": "r", "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0]}
    return {**facts, "sources": sources}


def two_sources(second: dict[str, Any]) -> dict[str, Any]:
    return {**recording(), "sources": recording()["sources"] + second["sources"]}


def cut(**changes: Any) -> dict[str, Any]:
    base = {"id": "c", "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut", "supervisions": []}
    return {**base, "recording": recording(), **changes}


def reverb(response: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "ReverbWithImpulseResponse", "kwargs": {"rir": response}}]


def mixed(inner: dict[str, Any], kind: str = "MonoCut", **changes: Any) -> dict[str, Any]:
    inner = {key: value for key, value in inner.items() if key != "type"}
    return {"id": "m", "type": "MixedCut", "tracks": [{"cut": inner, "type": kind, "offset": 0}], **changes}


def storage(kind: str, path: str = "x", key: Any = "y") -> dict[str, Any]:
    return {"storage_type": kind, "storage_path": path, "storage_key": key, "shape": [1]}


def bad_cuts(marker: Path) -> dict[str, dict[str, Any]]:
    """Cuts that must be refused; where one is not, `marker` is made by it, if it can."""
    command = {"type": "command", "source": f"touch {marker}"}
    pipe = {"type": "url", "source": f"pipe:touch {marker}"}
    pickled = pickle.dumps(Marker(marker)).decode("latin1")
    features = {"type": "fbank", "num_frames": 1, "num_features": 1, "frame_shift": 1.0, "sampling_rate": 16000}
    features |= {"start": 0, "duration": 1.0, **storage("memory_raw", key=pickled)}
    lpc10 = {"name": "Narrowband", "kwargs": {"codec": "lpc10"}}
    supervision = {"id": "s", "recording_id": "r", "start": 0, "duration": 1.0}
    return {
        "command": cut(recording=recording(**command)),
        "command as a list": cut(recording=recording(type=["command"], source=f"touch {marker}")),
        "pipe": cut(recording=recording(**pipe)),
        "pipe as a file": cut(recording=recording(source=f"pipe:touch {marker}://x")),
        "second source": cut(recording=two_sources(recording(**command))),
        "MultiCut": cut(type="MultiCut", channel=[0], recording=recording(**command)),
        "Cut": cut(type="Cut", recording=recording(**command)),
        "mixed": mixed(cut(recording=recording(**command))),
        "mixed in mixed": mixed(mixed(cut(recording=recording(**command))), "MixedCut"),
        "mixed of another type": mixed(cut(), "Features"),
        "snr reference": mixed(cut(), snr_reference={"cut": cut(recording=recording(**command)), "type": "MonoCut"}),
        "reverb": cut(recording={**recording(), "transforms": reverb(recording(**command))}),
        "reverb by a cut": cut(recording={**recording(), "transforms": reverb(cut(recording=recording(**command)))}),
        "reverb of a mix": mixed(cut(), transforms=reverb(recording(**pipe))),
        "unknown transform": cut(recording={**recording(), "transforms": [{"name": "Anything", "kwargs": {}}]}),
        "shared library": cut(recording={**recording(), "transforms": [lpc10]}),
        "custom recording": cut(custom={"target": recording(**command)}),
        "custom array": cut(custom={"embedding": storage("memory_raw", key=pickled)}),
        "kaldi array": cut(custom={"embedding": storage("kaldiio", f"touch {marker} |")}),
        "temporal array": cut(custom={"e": {"array": storage("memory_raw"), "temporal_dim": 0, "frame_shift": 1}}),
        "image": cut(custom={"picture": {**storage("pillow_memory", key=pickled), "width": 1, "height": 1}}),
        "array outside": cut(custom={"e": storage("numpy_files", "/etc", "passwd.npy")}),
        "array outside by key": cut(custom={"e": storage("numpy_files", "x", "../../../etc/passwd.npy")}),
        "supervision's array": cut(supervisions=[{**supervision, "custom": {"e": storage("memory_raw", key=pickled)}}]),
        "features": cut(features=features),
        "absolute": cut(recording=recording(source="/etc/hostname")),
        "relative": cut(recording=recording(source="../outside.wav")),
        "device": cut(recording=recording(source="/dev/zero")),
        "chained": cut(recording=recording(type="url", source="simplecache::file:///etc/passwd")),
        "reference": cut(recording=recording(type="url", source="reference://x")),
        "file address": cut(recording=recording(type="url", source="file:///etc/hostname")),
        "ssh": cut(recording=recording(type="url", source="ssh://host/x")),
        "no path": cut(recording=recording(source=7)),
        "deep": cut(custom=json.loads('{"a":' * 200 + "1" + "}" * 200)),
        "custom list": cut(custom=["x"]),
    }


NAMES = list(bad_cuts(Path("marker")))


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_cut_is_refused_in_one_line_and_nothing_runs(name, folder: Path, tmp_path: Path) -> None:
    row = bad_cuts(tmp_path / "marker")[name]
    with pytest.raises(ValueError, match=r"^cut [cm]: .+") as caught:
        make_cut(row, str(folder), str(folder))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_lhotse_itself_would_run_them(tmp_path: Path) -> None:
    """The cuts above are not refused for a misspelling: Lhotse takes the plainest of them and runs it."""
    from lhotse.serialization import deserialize_item

    for name in ("command", "pipe"):
        with suppress(Exception):  # the command gives no sound
            deserialize_item(bad_cuts(tmp_path / name)[name]).load_audio()
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["command", "pipe", "mixed", "reverb", "absolute", "relative", "features"])
def test_every_reader_refuses_it_and_reads_the_rest(
    name: str, folder: Path, tmp_path: Path, tokenizer, out: Path
) -> None:
    marker = tmp_path / "marker"
    good, bad = cut(id="good"), bad_cuts(marker)[name]
    manifest = folder / "cuts.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in (good, bad)))
    tokenize_corpus(str(manifest), out, tokenizer, root=str(folder), **QUICK)
    assert [record.key for record in records_of(out)] == ["good"]
    (failure,) = read_failures(out)
    assert failure.key == bad["id"]
    assert "\n" not in failure.reason
    with pytest.raises(ValueError, match=rf"{manifest}:2: cut {bad['id']}: "):
        read_manifest(str(manifest), str(folder))
    with pytest.raises(ValueError, match=rf"{manifest}:2: cut {bad['id']}: "):
        prepare(str(manifest), str(folder), str(tmp_path / "cache"))
    assert not marker.exists()


@pytest.mark.parametrize("format", ["webdataset", "shar", "parquet"])
def test_tokens_that_remember_a_command_run_nothing_when_they_are_verified(
    format: str, folder: Path, tmp_path: Path, tokenizer, out: Path
) -> None:
    marker = tmp_path / "marker"
    manifest = folder / "cuts.jsonl"
    manifest.write_text(json.dumps(cut()))
    tokenize_corpus(str(manifest), out, tokenizer, root=str(folder), format=format, **QUICK)
    assert verify_corpus(out, tokenizer).absent == 0
    (record,) = records_of(out)
    forged = {"cut": bad_cuts(marker)["command"], "root": "/", "folder": "/"}
    object.__setattr__(record, "audio", forged)
    import mimotok.corpus.verify as verify

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "read_shard", lambda *_: [record])
        assert verify_corpus(out, tokenizer).absent == 1
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../corpus.json", "/etc/hostname", "a/b", "..", ""])
def test_a_ledger_cannot_name_files_outside_of_its_folder(name: str, folder: Path, tokenizer, out: Path) -> None:
    manifest = folder / "cuts.jsonl"
    manifest.write_text(json.dumps(cut()))
    tokenize_corpus(str(manifest), out, tokenizer, root=str(folder), **QUICK)
    ledger = out / "ledger.jsonl"
    row = json.loads(ledger.read_text())
    row["files"] = {name: "0" * 64}
    ledger.write_text(json.dumps(row) + "\n")
    for read in (lambda: verify_corpus(out, tokenizer), lambda: TokenDataset(out)):
        with pytest.raises(ValueError, match="not the name of a shard's file"):
            read()


def test_files_memory_and_addresses_are_read(folder: Path, tmp_path: Path) -> None:
    want = soundfile.read(folder / "a.wav", dtype="float32")[0]
    odd = {"n": 1, "sources": ["a book", "another"], "e": storage("numpy_files", "arrays", "e/1.npy")}
    same = [
        (cut(), str(folder), None),
        (cut(recording=recording(source=str(folder / "a.wav"))), str(tmp_path), None),
        (cut(recording=recording(source=str(folder / "a.wav"))), ".", str(folder)),
        (mixed(cut()), str(folder), None),
        (mixed(mixed(cut())["tracks"][0]["cut"]), str(folder), None),
        (cut(custom=odd), str(folder), None),
    ]
    for row, root, place in same:
        before = json.dumps(row)
        np.testing.assert_array_equal(load_cut(make_cut(row, root, place)), want)
        assert json.dumps(row) == before, "the row is not changed"


def test_an_allowed_address_is_read_by_us_and_not_by_lhotse(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/cuts/a.wav", (folder / "a.wav").read_bytes())
    want = soundfile.read(folder / "a.wav", dtype="float32")[0]
    for row, root in (
        (cut(recording=recording(type="url", source="memory://cuts/a.wav")), "."),
        (cut(recording=recording(source="memory://cuts/a.wav")), "."),
        (cut(), "memory://cuts"),
    ):
        np.testing.assert_array_equal(load_cut(make_cut(row, root)), want)
    with pytest.raises(ValueError, match="leaves the root"):
        make_cut(cut(recording=recording(source="../../secret.wav")), "memory://cuts/x")


def test_a_link_out_of_the_root_is_followed_but_a_path_is_not(folder: Path, tmp_path: Path) -> None:
    (folder / "link.wav").symlink_to(tmp_path / "outside.wav")
    assert len(load_cut(make_cut(cut(recording=recording(source="link.wav")), str(folder)))) == 16000
    # a root that is itself a link, and a cut that names where it leads
    (tmp_path / "link").symlink_to(folder)
    named = cut(recording=recording(source=str(folder / "a.wav")))
    assert len(load_cut(make_cut(named, str(tmp_path / "link")))) == 16000


def test_a_pipe_in_the_root_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.wav")
    for row in (
        cut(recording=recording(source="pipe.wav")),
        mixed(cut(recording=recording(source="pipe.wav"))),
        cut(recording={**recording(), "transforms": reverb(recording(source="pipe.wav"))}),
    ):
        with pytest.raises(ValueError, match="not a regular file"):
            load_cut(make_cut(row, str(folder)))


def test_a_backend_that_asks_a_shell_is_never_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lhotse's default backend puts the names of .sph files into a command of sph2pipe's."""
    monkeypatch.setenv("LHOTSE_AUDIO_BACKEND", "default")
    (folder / "a; touch marker; .sph").write_bytes((folder / "a.wav").read_bytes())
    monkeypatch.chdir(folder)
    named = make_cut(cut(recording=recording(source="a; touch marker; .sph")), str(folder))
    assert len(load_cut(named)) == 16000
    assert not (folder / "marker").exists()


def shar_of(folder: Path, row: dict[str, Any], about: Any, name: str = "c.wav") -> Shard:
    """A Shar folder of one cut, its recording's metadata being `about`."""
    (folder / "cuts.000000.jsonl").write_text(json.dumps(row))
    with tarfile.open(folder / "recording.000000.tar", "w") as tar:
        for member, data in ((name, (folder / "a.wav").read_bytes()), ("c.json", json.dumps(about).encode())):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return find_shards(str(folder))[0]


PLACEHOLDER = {"type": "shar", "source": ""}


def test_shar_as_lhotse_writes_it_is_read(folder: Path) -> None:
    cut_set = lhotse.CutSet.from_cuts([make_cut(cut(id=f"c{i}.x"), str(folder)) for i in range(3)])
    (folder / "shar").mkdir()
    cut_set.to_shar(folder / "shar", fields={"recording": "wav"}, shard_size=2)
    cuts = [cut for shard in find_shards(str(folder / "shar")) for cut in shar_cuts(shard)]
    assert [cut.id for cut in cuts] == ["c0.x", "c1.x", "c2.x"]
    for one in cuts:
        np.testing.assert_allclose(load_cut(one), soundfile.read(folder / "a.wav", dtype="float32")[0], atol=1e-4)


def test_bad_cuts_and_recordings_in_shar_are_refused(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    good = cut(recording=recording(**PLACEHOLDER))
    assert len(list(shar_cuts(shar_of(folder, good, recording(**PLACEHOLDER))))) == 1
    command = recording(type="command", source=f"touch {marker}")
    abouts = [
        # the tar's own source is replaced by the tar's bytes; a second one, other fields and other kinds are refused
        two_sources(command),
        {**recording(**PLACEHOLDER), "transforms": reverb(command)},
        {**recording(**PLACEHOLDER), "transforms": [{"name": "Anything", "kwargs": {}}]},
        cut(),
        storage("memory_raw"),
        ["x"],
    ]
    for about in abouts:
        shard = shar_of(folder, good, about)
        with pytest.raises(ValueError, match=r"cut c: |is not a recording"):
            list(shar_cuts(shard))
    for row in bad_cuts(marker).values():
        shard = shar_of(folder, {**row, "id": "c"}, recording(**PLACEHOLDER))
        with pytest.raises(ValueError, match="cut c: "):
            list(shar_cuts(shard))
    (one,) = shar_cuts(shar_of(folder, good, command))
    assert len(load_cut(one)) == 16000, "the bytes of the tar, not the command"
    with pytest.raises(ValueError, match="the recording at its place"):
        list(shar_cuts(shar_of(folder, good, recording(**PLACEHOLDER), "other.wav")))
    assert not marker.exists()


def test_a_sparse_member_does_not_grow(folder: Path) -> None:
    shard = shar_of(folder, cut(recording=recording(**PLACEHOLDER)), recording(**PLACEHOLDER))
    with tarfile.open(shard.recording, "w") as tar:
        info = tarfile.TarInfo("c.wav")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
        raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        raw[483:495] = b"77777777777\0"  # the size it says it has, 8 GB
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw)
        tar.fileobj.write(bytes(raw))
    with pytest.raises(ValueError, match=r"not a regular file|no metadata"):
        list(shar_cuts(shard))


def test_memory_is_of_one_source() -> None:
    with pytest.raises(ValueError, match="one source"):
        shar_cut(cut(), {**recording(), "sources": []})
