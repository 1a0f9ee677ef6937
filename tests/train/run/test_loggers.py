"""W&B and MLflow beside CSV and TensorBoard: chosen by a flag, offline, and named where missing."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from tests.helpers.paths import CONFIGS

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from train.__main__ import main
from train.run.cli import StageCLI
from train.run.loggers import make_loggers, note_settings

pytestmark = pytest.mark.slow


class Recorder:
    """In the place of a service's logger."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.settings = settings | {"first": names}
        self.logged: dict[str, Any] = {}

    def log_hyperparams(self, values: dict[str, Any]) -> None:
        self.logged = values


@pytest.mark.parametrize(("service", "kind"), [("wandb", "WandbLogger"), ("mlflow", "MLFlowLogger")])
def test_a_service_is_asked_for_the_run_of_the_folder(
    service: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, service, ModuleType(service))
    monkeypatch.setattr(f"lightning.pytorch.loggers.{kind}", Recorder)
    first, again = (make_loggers(service, tmp_path / "mine") for _ in range(2))
    assert [type(logger) for logger in first] == [TensorBoardLogger, CSVLogger, Recorder]
    asked: dict[str, Any] = first[2].settings  # type: ignore[attr-defined]
    assert "mine" in (asked.get("name"), asked.get("run_name"))
    assert asked == again[2].settings, "a run that goes on is the same one"  # type: ignore[attr-defined]
    assert any(str(tmp_path / "mine") in str(value) for value in asked.values()), "all lies in the run's folder"
    if service == "wandb":
        other = make_loggers(service, tmp_path / "other")[2]
        assert asked["id"] != other.settings["id"]  # type: ignore[attr-defined]
    note_settings(first, {"lr": 1})
    assert first[2].logged == {"lr": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_missing_package_is_reported_with_its_extra(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, service, None)
    monkeypatch.chdir(tmp_path)
    words = ["train", "fit", "--config", str(CONFIGS / "tiny.yaml"), "--logger", service]
    with mock.patch("sys.argv", words), pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"error: --logger {service} needs: pip install 'mimotok[{service}]'"
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_trial_tells_no_service_and_a_second_choice_is_refused(tmp_path: Path) -> None:
    words = ["fit", "--config", str(CONFIGS / "tiny.yaml"), "--logger", "wandb", "--trainer.default_root_dir"]
    with mock.patch.object(StageCLI, "_run_subcommand"), mock.patch("sys.argv", ["train"]):
        cli = StageCLI(args=[*words, str(tmp_path), "--trainer.fast_dev_run", "1"])
        assert not (tmp_path / "wandb_id.txt").exists()
        assert {type(logger).__name__ for logger in cli.trainer.loggers} <= {"DummyLogger"}
        with pytest.raises(ValueError, match=r"--logger wandb: trainer\.logger"):
            StageCLI(args=[*words, str(tmp_path), "--trainer.logger", "false"])


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="needs: pip install 'mimotok[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = make_loggers("wandb", tmp_path / "mine")[2]
    note_settings([logger], {"data.batch_seconds": 4})
    logger.log_metrics({"train/mel_loss": 1.5}, step=1)
    logger.finalize("success")
    wandb.finish()
    # wandb's service writes the file; it is whole when the service has ended, as it has after any process
    wandb.teardown()
    (written,) = (tmp_path / "mine" / "wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    assert b"train/mel_loss" in content
    assert b"data.batch_seconds" in content
    assert (tmp_path / "mine" / "wandb_id.txt").read_text().strip() in written.name


def test_mlflow_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs: pip install 'mimotok[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger = make_loggers("mlflow", tmp_path / "mine")[2]
    note_settings([logger], {"data.batch_seconds": 4})
    logger.log_metrics({"train/mel_loss": 1.5}, step=1)
    logger.finalize("success")
    with sqlite3.connect(tmp_path / "mine" / "mlflow.db") as store:
        assert store.execute("select key, value from metrics").fetchall() == [("train/mel_loss", 1.5)]
        assert ("data.batch_seconds", "4") in store.execute("select key, value from params").fetchall()
        assert store.execute("select name from runs").fetchall() == [("mine",)]
