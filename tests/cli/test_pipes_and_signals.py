"""Pipes and devices are passed over and reported; a process that a signal ends leaves no temporary file."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mimotok import Tokenizer, load_audio
from mimotok.cli.main import app
from mimotok.io.terminal.streams import end_on_signals
from tests.helpers.paths import PARITY

pytestmark = pytest.mark.slow

MODEL = PARITY / "a"
ODD = ("pipe.wav", "zero.wav", "socket.wav")
QUICK: dict[str, Any] = {"workers": 0, "batch_seconds": 1.0, "shard_hours": 1.0}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MODEL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one sound, a pipe, a link to a device, and a socket."""
    import socket

    folder = tmp_path / "sounds"
    folder.mkdir()
    soundfile.write(folder / "a.wav", 0.1 * np.sin(np.arange(12000) / 10), 24000)
    os.mkfifo(folder / "pipe.wav")
    (folder / "zero.wav").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket.wav"))
    return folder


def run_app(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exited:
        app([str(argument) for argument in arguments], prog_name="mimotok")
    return int(exited.value.code or 0)


def test_tokenize_passes_over_pipes_in_folders_and_manifests(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="needs: pip install 'mimotok[tokenize]'")
    from mimotok.corpus import tokenize_corpus
    from mimotok.corpus.ledger import read_failures

    rows = [{"audio": name} for name in ("a.wav", *ODD)] + [{"audio": "/dev/zero"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, count in ((folder, 3), (tmp_path / "m.jsonl", 4)):
        out = tmp_path / f"out{count}"
        done = tokenize_corpus(str(source), out, tokenizer, root=str(folder), allow_outside=True, **QUICK)
        assert (done.clips, done.failed) == (1, count)
        reasons = {failure.reason.split(": ", 1)[1] for failure in read_failures(out)}
        assert reasons == {"not a regular file; name a file"}


def test_tokenize_passes_over_a_pipe_among_tars(tokenizer: Tokenizer, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs: pip install 'mimotok[tokenize]'")
    import tarfile

    from mimotok.corpus import tokenize_corpus

    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        tar.add(folder / "a.wav", "a.wav")
        tar.add(folder / "pipe.wav", "b.wav")
    os.mkfifo(tmp_path / "tars" / "b.tar")
    done = tokenize_corpus(str(tmp_path / "tars"), tmp_path / "out", tokenizer, **QUICK)
    assert (done.clips, done.failed) == (1, 1)


def test_encode_and_decode_tell_of_pipes_and_do_the_rest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app("encode", folder, "--out-dir", tmp_path / "codes", "--model", MODEL) == 2
    printed = capsys.readouterr().err
    assert all(f"{name}: not a regular file" in printed for name in ODD)
    assert [path.name for path in (tmp_path / "codes").iterdir()] == ["a.npz"]
    os.mkfifo(tmp_path / "codes" / "pipe.npz")
    assert run_app("decode", tmp_path / "codes", "--out-dir", tmp_path / "back", "--model", MODEL) == 2
    assert "pipe.npz: not a regular file" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["a.wav"]
    assert run_app("info", tmp_path / "codes" / "pipe.npz") == 2


def test_evaluation_and_training_tell_of_pipes(folder: Path, tmp_path: Path) -> None:
    from eval.testlists import read_test_list, thin
    from train.data.manifest import BadClipError, decode, read_manifest

    clips = thin(read_test_list(folder), notify=pytest.fail)
    assert {clip.id for clip in clips} == {"a.wav", *ODD}
    for clip in clips:
        if clip.id in ODD:
            with pytest.raises(ValueError, match="not a regular file"):
                load_audio(clip.audio, 16000)
    rows = [{"audio": name, "duration": 1.0} for name in ODD]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for clip in read_manifest(str(tmp_path / "m.jsonl"), str(folder)):
        with pytest.raises(BadClipError, match="not a regular file"):
            decode(clip)


def test_a_model_folder_of_pipes_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[signal.Signals, str], None]]:
    """Lets a function of os end by a signal, as if it came just then; temporary files go to a folder of their own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def prepare(number: signal.Signals, function: str) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        end_on_signals()
        monkeypatch.setattr(os, function, lambda *_, **__: signal.raise_signal(number))

    yield prepare
    for number, handler in before.items():
        signal.signal(number, handler)


def leftovers(tmp_path: Path) -> list[str]:
    found = [path.name for path in tmp_path.rglob("*") if "mimotok-" in path.name or path.parent.name == "temporary"]
    # torch makes a cache of its own
    return [name for name in found if not name.startswith("torchinductor")]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
@pytest.mark.parametrize("what", ["codes", "sound", "parquet", "shar", "cache", "checkpoint", "evaluation"])
def test_nothing_temporary_is_left_by_a_process_that_a_signal_ends(
    what: str,
    number: signal.Signals,
    signalled: Callable[..., None],
    tokenizer: Tokenizer,
    folder: Path,
    tmp_path: Path,
) -> None:
    from mimotok.transcode import decode_file, encode_file

    sound, codes = folder / "a.wav", tmp_path / "a.npz"
    encode_file(tokenizer, sound, codes)
    row = {"audio": "a.wav", "duration": 0.5}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")

    def tokenize(kind: str) -> None:
        from mimotok.corpus import tokenize_corpus

        manifest = str(tmp_path / "m.jsonl")
        tokenize_corpus(manifest, tmp_path / "tokens", tokenizer, root=str(folder), format=kind, **QUICK)

    def prepare() -> None:
        from train.data.cache import prepare

        prepare(str(tmp_path / "m.jsonl"), str(folder), str(tmp_path / "cache"))

    def checkpoint() -> None:
        from train.run.checkpoints import AtomicCheckpointIO

        AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(9)}, tmp_path / "last.ckpt")

    def evaluate() -> None:
        from eval.run.store import save_wav

        save_wav(tmp_path / "audio" / "a.flac", np.zeros(99, np.float32))

    if what in ("parquet", "shar"):
        pytest.importorskip("pyarrow", reason="needs: pip install 'mimotok[tokenize]'")
    if what == "checkpoint":
        pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    work: dict[str, Callable[[], object]] = {
        "codes": lambda: encode_file(tokenizer, sound, tmp_path / "b.npz"),
        "sound": lambda: decode_file(tokenizer, codes, tmp_path / "b.wav"),
        "parquet": lambda: tokenize("parquet"),
        "shar": lambda: tokenize("shar"),
        "cache": prepare,
        "checkpoint": checkpoint,
        "evaluation": evaluate,
    }
    # just before a finished file would get its name
    signalled(number, "replace")
    with pytest.raises(SystemExit) as exited:
        work[what]()
    assert exited.value.code == {signal.SIGHUP: 129, signal.SIGTERM: 143}[number]
    assert leftovers(tmp_path) == []


def test_a_fetched_clip_leaves_nothing_even_by_a_kill(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    from mimotok.corpus.clips import Item, read_clip

    fsspec.filesystem("memory").pipe("/clips/a.wav", (folder / "a.wav").read_bytes())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    blocks = read_clip(Item("a", 0.5, {"path": "memory://clips/a.wav"}), 24000)
    assert next(blocks).shape[1]
    if os.path.isdir("/proc/self/fd"):
        assert leftovers(tmp_path) == [], "while it is read"
    blocks.close()  # type: ignore[attr-defined]
    assert leftovers(tmp_path) == []
