"""LightningCLI with this project's defaults: one data module, the stage chosen by the config's `class_path`."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning
from lightning.pytorch.cli import LightningCLI

from train.data import SpeechDataModule


class ResumingCLI(LightningCLI):
    """The same command again goes on from the run's last checkpoint, where there is one."""

    def before_fit(self) -> None:
        """Called by LightningCLI."""
        callback = self.trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None)
        last = None if folder is None else Path(folder) / "last.ckpt"
        if last is not None and last.is_file() and self.config.fit.ckpt_path is None:
            self.config_init.fit.ckpt_path = str(last)


def run_lightning() -> None:
    """Runs `fit`, `validate` and the like as the command line says; a run with a checkpoint goes on from it."""
    # Lightning advises more loader workers; with decoded clips on disk the training process keeps up by itself
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    ResumingCLI(
        lightning.LightningModule,
        SpeechDataModule,
        subclass_mode_model=True,
        save_config_kwargs={"overwrite": True},
    )
