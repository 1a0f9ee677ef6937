"""LightningCLI with this project's defaults: one data module, the stage chosen by the config's `class_path`."""

from __future__ import annotations

import re
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningCLI

from train.data.module import SpeechDataModule
from train.run.checkpoints import require_room
from train.run.progress import StepProgress
from train.stages.optim import DivergedError
from train.stages.plain import require_plain

# What jsonargparse says around the line that tells what is wrong.
AROUND = re.compile(
    r"\s*(- )?(Does not validate against|Subtypes:|Errors:|Given value type|Given value: N\w+\(|"
    r"Expected a <class 'NoneType'>|Problem with given class_path)"
)


class StageCLI(LightningCLI):
    """The same command again goes on from the run's last checkpoint; a run that cannot save does not start."""

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            lightning.LightningModule,
            SpeechDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"plugins": {"class_path": "train.run.checkpoints.AtomicCheckpointIO"}, "callbacks": []},
            parser_kwargs={"exit_on_error": False},
            subclass_mode_model=True,
            args=args,
        )

    def _parse_ckpt_path(self) -> None:
        """Called by LightningCLI, whose own takes class names and arguments out of the checkpoint: code of a stranger's
        choice. Here the config alone says what is made, and the checkpoint fills it."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Called by LightningCLI. Whatever the strategy, a checkpoint is read as tensors and plain values."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if (path := arguments.get("ckpt_path")) not in (None, "best", "last", "hpc", "registry"):
            require_plain(path)
        return arguments | {"weights_only": True}

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Called by LightningCLI. Adds the progress bar, unless `enable_progress_bar` is false."""
        if self.config_init[str(self.subcommand)].trainer.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [StepProgress()]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Called by LightningCLI."""
        require_room(self.trainer, self.model)
        callback = self.trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None)
        last = None if folder is None else Path(folder) / "last.ckpt"
        if last is not None and last.is_file() and self.config.fit.ckpt_path is None:
            self.config_init.fit.ckpt_path = str(last)


def run_lightning() -> None:
    """Runs `fit`, `validate` and the like as the command line says; a run with a checkpoint goes on from it.

    Raises ValueError, in one line, for a config that does not parse or does not fit; a run that diverges exits.
    """
    # Lightning advises more loader workers; with decoded clips on disk the training process keeps up by itself
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    try:
        StageCLI()
    except DivergedError as error:
        sys.exit(f"error: {error}")
    except (ArgumentError, MisconfigurationException, ValueError) as error:
        raise ValueError(one_line(str(error))) from error


def one_line(message: str) -> str:
    """What is wrong, out of the many lines of a jsonargparse message."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if not AROUND.match(line)]
    return re.sub(r":; ", ": ", "; ".join(line for line in lines if line))
