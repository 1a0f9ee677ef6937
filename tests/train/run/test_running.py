"""How a run behaves: bad input and full disks in one line, whole checkpoints, steps that went wrong, progress."""

from __future__ import annotations

import csv
import errno
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from tests.helpers.training_runs import configure, make_speech

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok.io.files import TEMPORARY
from train.__main__ import main
from train.run.checkpoints import AtomicCheckpointIO
from train.run.progress import Mark, Pace, StepProgress
from train.stages.joint import JointStage

pytestmark = pytest.mark.slow

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_speech(tmp_path_factory.mktemp("speech"))


def run(*arguments: str) -> int | str | None:
    with mock.patch("sys.argv", ["train", *arguments]), pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert printed.splitlines()[-1] == line
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.manifest", "nowhere.jsonl"], "nowhere.jsonl: no such file or folder"),
        (["--model.init_args.model", "nowhere"], "nowhere: neither a folder nor a hub id"),
        (["--model.init_args.training.optimizer.speed", "3"], "unrecognized arguments: --optimizer.speed=3"),
        (["--model.init_args.text_decoder.stack", "0"], "error: stack=0: give a whole number of at least 1"),
        (["--trainer.max_steps", "many"], "\"trainer.max_steps\": Expected a <class 'int'>. Got value: many"),
        (["--trainer.precision", "8-mixed", "--trainer.accelerator", "cpu"], "Given value: 8-mixed"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_bad_config_is_reported_in_one_line(
    arguments: list[str], message: str, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--config", str(configure(tmp_path, speech, "tiny.yaml")), *arguments) == 2
    assert message in error_line(capsys)


def test_a_folder_that_cannot_be_written_is_reported_before_training(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(tmp_path, speech, "tiny.yaml")
    (tmp_path / "checkpoints").touch()
    assert run("fit", "--config", str(config)) == 2
    assert "checkpoints: cannot be written" in error_line(capsys)


def test_a_disk_too_small_is_reported_before_training(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiny.yaml keeps three checkpoints and the last one, and writes a fifth before it drops the last."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 6 * 10**6, 6 * 10**6))
    assert run("fit", "--config", str(configure(tmp_path, speech, "tiny.yaml"))) == 2
    line = error_line(capsys)
    assert "5 checkpoints of 0.0" in line
    assert "0.006 GB are free" in line
    assert not (tmp_path / "csv").exists()


def test_a_disk_that_fills_up_is_reported_and_leaves_nothing(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, before = configure(tmp_path, speech, "tiny.yaml"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        assert run("fit", "--config", str(config)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "step=2.ckpt: cannot be written (File too large)" in error_line(capsys)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((200_000,), value)}


def full_disk(checkpoint: dict[str, torch.Tensor], file: io.BufferedWriter) -> None:  # noqa: ARG001
    """torch's own report of a full disk, which does not always keep the system's error."""
    file.write(b"half a checkpoint")
    raise RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0")


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint(tensors(1.0), path)
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(ValueError, match=r"last\.ckpt: cannot be written \(full disk\?\)"):
        writer.save_checkpoint(tensors(2.0), path)
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    monkeypatch.setattr(torch, "save", lambda *_: None)
    with pytest.raises(ValueError, match=r"last\.ckpt: cannot be written \(No space left on device\)"):
        writer.save_checkpoint(tensors(2.0), path)
    assert torch.equal(writer.load_checkpoint(path)["weight"], tensors(1.0)["weight"])
    assert list(tmp_path.iterdir()) == [path]


def save_and_die(checkpoint: dict[str, torch.Tensor], path: Path) -> None:
    def half(checkpoint: dict[str, torch.Tensor], file: io.BufferedWriter) -> None:  # noqa: ARG001
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch("torch.save", half):
        AtomicCheckpointIO().save_checkpoint(checkpoint, path)


def test_a_kill_while_saving_keeps_the_previous_checkpoint(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(tensors(1.0), path)
    process = multiprocessing.get_context("fork").Process(target=save_and_die, args=(tensors(2.0), path))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path)["weight"], tensors(1.0)["weight"])
    assert list(path.parent.glob(TEMPORARY.format("*")))
    # the next run clears away what the killed one left, here before it is stopped by a small disk
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))
    assert run("fit", "--config", str(configure(tmp_path, speech, "tiny.yaml"))) == 2
    assert "do not fit" in error_line(capsys)
    assert list(path.parent.iterdir()) == [path]


def test_a_broken_checkpoint_is_reported(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"half a checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt: not a readable checkpoint"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_steps_without_a_finite_loss_are_counted_and_end_the_run(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 4 and 5 of 6 go wrong, one may: the first is skipped, the second ends the run."""
    finite, sizes = JointStage.losses, []

    def losses(stage: JointStage, batch: object) -> dict[str, torch.Tensor]:
        sizes.append(stage.checkpoint_bytes())
        broken = float("nan") if stage.global_step >= 3 else 1.0
        return {name: loss * broken for name, loss in finite(stage, batch).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(JointStage, "losses", losses)
    config = configure(tmp_path, speech, "tiny.yaml")
    code = run("fit", "--config", str(config), "--model.init_args.training.optimizer.max_skipped", "1")
    assert code == "error: 2 steps in a row without a finite gradient: the last checkpoint is the last good one"
    (logged,) = tmp_path.glob("csv/*/metrics.csv")
    rows = csv.DictReader(logged.read_text().splitlines())
    skipped = {row["step"]: row["train/skipped_steps"] for row in rows if row["train/skipped_steps"]}
    assert float(skipped["2"]) == 0
    assert float(skipped["3"]) == 1
    last = tmp_path / "checkpoints" / "last.ckpt"
    kept = torch.load(last, weights_only=True)
    assert kept["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
    # what the room for checkpoints is judged by
    assert 0.9 * last.stat().st_size < sizes[0] < 1.1 * last.stat().st_size
    # no terminal: a line a step
    steps = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [line.split(",")[0] for line in steps] == ["step 1/6", "step 2/6", "step 3/6", "step 4/6"]
    assert all(name in steps[0] for name in (" mel ", " text ", " commitment ", " audio-s/s, ", " left"))
    assert not any("\x1b" in line for line in steps)


def test_pace_is_that_of_the_last_steps() -> None:
    pace = Pace()
    pace.mark(Mark(100, 1000.0, 0.0))
    assert pace.audio_rate() == 0.0
    assert pace.seconds_left(200) is None
    for step in range(1, 61):
        # a first step of a minute, then half a second for each
        pace.mark(Mark(100 + step, 1000.0 + 24 * step, 60 + 0.5 * step))
    assert pace.audio_rate() == pytest.approx(48.0)
    assert pace.seconds_left(200) == pytest.approx(20.0)
    assert pace.seconds_left(-1) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_of_optimizer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    bar = StepProgress()
    trainer = SimpleNamespace(
        global_step=7, max_steps=9, log_every_n_steps=10, callback_metrics={"train/mel_loss": torch.tensor(0.5)}
    )
    module = SimpleNamespace(audio_seconds=10.0)
    bar.on_train_start(trainer, module)  # type: ignore[arg-type]
    trainer.global_step, module.audio_seconds = 8, 20.0
    bar.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    bar.on_train_end(trainer, module)  # type: ignore[arg-type]
    assert all(part in screen.getvalue() for part in ("7/9", "8/9", "mel 0.5", "audio-s/s"))
