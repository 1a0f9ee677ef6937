"""The record of a run in its folder: run.json (command, commit, versions, progress, figures), and resolved.yaml."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback

from mimotok.io.files import atomic_path
from train.data.manifest import manifest_row
from train.run.settings import KEY, RunSettings

RECORD = "run.json"
RESOLVED = "resolved.yaml"
HELD_OUT = "held_out.jsonl"
PACKAGES = ("mimotok", "torch", "lightning", "numpy", "soundfile", "jsonargparse", "transformers", "lhotse")
# Of these figures the largest is the best one, of all others the smallest.
HIGHER = ("accuracy",)


class RunRecord(Callback):
    """A callback that keeps run.json, and puts the run's settings into each checkpoint.

    Args:
        folder: of the run.
        settings: of the run.
    """

    def __init__(self, folder: Path, settings: RunSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.record: dict[str, Any] = {}
        self.saved_step: int | None = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Begin the record, or go on with it. Called by Lightning."""
        # a run that begins anew has other figures
        before = read_record(self.folder) if trainer.ckpt_path else {}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.record = {
            "started": before.get("started", now),
            "step": trainer.global_step,
            "audio_hours": before.get("audio_hours", 0.0),
            "best": before.get("best", {}),
            "starts": [*before.get("starts", []), start_facts(now)],
            "data": {name: v for name, v in self.settings.values.items() if name.endswith(".sha256")},
            "settings": self.settings._asdict(),
        }
        self._write(trainer)
        self._write_held_out(trainer)

    def _write_held_out(self, trainer: lightning.Trainer) -> None:
        """Write the clips that were held out by speaker, as a manifest, with which the model can be evaluated."""
        clips = getattr(trainer.datamodule, "held_out", ())  # type: ignore[attr-defined]
        if clips and trainer.is_global_zero:
            lines = [json.dumps(manifest_row(clip), ensure_ascii=False, default=repr) + "\n" for clip in clips]
            with atomic_path(self.folder / HELD_OUT) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the best figures. Called by Lightning."""
        if not self.record:
            return
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                self._note(name.removeprefix("val/"), float(value), trainer.global_step)
        self._progress(trainer, pl_module)

    def _note(self, name: str, value: float, step: int) -> None:
        sign = 1 if name.endswith(HIGHER) else -1
        best = self.record["best"].get(name)
        if math.isfinite(value) and (best is None or sign * value > sign * best["value"]):
            self.record["best"][name] = {"value": value, "step": step}

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the settings into the checkpoint. Called by Lightning."""
        checkpoint[KEY] = self.settings._asdict()
        self.saved_step = trainer.global_step
        self._progress(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the last step, which Lightning does only where its number is one to save at. Called by Lightning."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last and self.saved_step != trainer.global_step:
                path = callback.last_model_path or Path(callback.dirpath or "", "last.ckpt")
                trainer.save_checkpoint(path, callback.save_weights_only)
        self._progress(trainer, pl_module)

    def _progress(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.record["step"] = trainer.global_step
        self.record["audio_hours"] = float(getattr(module, "audio_seconds", 0.0)) / 3600
        self._write(trainer)

    def _write(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / RECORD) as temporary:
                temporary.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")


class ResolvedConfig(SaveConfigCallback):
    """Writes the resolved config of a run into its folder, too, from which the same run can be started again."""

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Write the config. Called by Lightning on rank 0."""
        if stage == "fit":
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, str(folder / RESOLVED), skip_none=False, overwrite=True, multifile=False)


def start_facts(now: str) -> dict[str, Any]:
    """Return when, by which command and with which code and packages a run was started."""
    return {
        "time": now,
        "command": " ".join(["python -m train", *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len((_git("status", "--porcelain", "--untracked-files=no") or "").splitlines()),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _git(*words: str) -> str | None:
    """Return what git says of this code; None where it is in no repository or there is no git."""
    home = Path(__file__).parents[2]
    # an installed package may lie within the repository of somebody else's project
    if not (home / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(home), *words], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a run, empty where its folder has none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
