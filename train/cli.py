"""LightningCLI with this project's defaults: one data module, the stage chosen by the config's `class_path`."""

from __future__ import annotations

import warnings

import lightning
from lightning.pytorch.cli import LightningCLI

from train.data import SpeechDataModule


def run_lightning() -> None:
    """Runs `fit`, `validate` and the like as the command line says; a run with a checkpoint goes on from it."""
    # Lightning advises more loader workers; with decoded clips on disk the training process keeps up by itself
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    LightningCLI(
        lightning.LightningModule,
        SpeechDataModule,
        subclass_mode_model=True,
        save_config_kwargs={"overwrite": True},
    )
