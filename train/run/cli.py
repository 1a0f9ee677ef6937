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
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from train.data.module import SpeechDataModule
from train.run.checkpoints import require_room
from train.run.progress import StepProgress
from train.stages.optim import DivergedError
from train.stages.plain import require_plain

# What jsonargparse prints around the line that says what is wrong.
AROUND = re.compile(
    r"\s*(- )?(Does not validate against|Subtypes:|Errors:|Given value type|Given value: N\w+\(|"
    r"Expected a <class 'NoneType'>|Problem with given class_path)"
)


# What all configs share, read before the config that the command line names.
BASE_CONFIG = Path(__file__).parents[1] / "configs" / "base.yaml"


class StageCLI(LightningCLI):
    """The command line of training.

    The same command again goes on from the run's last checkpoint; a run that cannot save does not start. A value that
    several parts need is given once: `seed_everything` and `trainer.max_steps` are linked to where they are needed, and
    the run's folders follow `trainer.default_root_dir`.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        settings = {"exit_on_error": False, "default_config_files": [str(BASE_CONFIG)]}
        super().__init__(
            lightning.LightningModule,
            SpeechDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"plugins": {"class_path": "train.run.checkpoints.AtomicCheckpointIO"}, "callbacks": []},
            parser_kwargs={"exit_on_error": False} | {name: dict(settings) for name in self.subcommands()},
            subclass_mode_model=True,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the data's seed to the run's. Called by LightningCLI."""
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_seed)

    def before_instantiate_classes(self) -> None:
        """Give the stage the run's seed, and its schedules the run's steps. Called by LightningCLI.

        jsonargparse silently ignores links into dataclasses of a subclass's arguments.
        """
        config = self.config[str(self.subcommand)]
        arguments = config.model.init_args
        training = arguments.get("training")
        if training is not None:
            training.seed = _seed(config.seed_everything)
        # without an end of the run, the schedule keeps its own
        if config.trainer.max_steps > 0:
            for optimizer in (training and training.optimizer, arguments.get("discriminator_optimizer")):
                if optimizer is not None:
                    optimizer.max_steps = config.trainer.max_steps

    def _parse_ckpt_path(self) -> None:
        """Do nothing. Called by LightningCLI.

        LightningCLI's own method reads class names and arguments from the checkpoint, which is code of a stranger's
        choice.
        Here the config alone determines what is built, and the checkpoint fills it.
        """

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Read a checkpoint as tensors and plain values, whatever the strategy. Called by LightningCLI."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if (path := arguments.get("ckpt_path")) not in (None, "best", "last", "hpc", "registry"):
            require_plain(path)
        return arguments | {"weights_only": True}

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Add the progress bar, unless `enable_progress_bar` is false, and place the run. Called by LightningCLI.

        Checkpoints whose `dirpath` is not given, and logs where no logger is given, go below `default_root_dir`.
        """
        config = self.config_init[str(self.subcommand)].trainer
        if config.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [StepProgress()]
        root = Path(config.default_root_dir or ".")
        for callback in config.callbacks or []:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(root / "checkpoints")
        if config.logger is None:
            kwargs["logger"] = [TensorBoardLogger(root, name="tensorboard"), CSVLogger(root, name="csv")]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Check that checkpoints fit, and continue from the last one. Called by LightningCLI."""
        require_room(self.trainer, self.model)
        callback = self.trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None)
        if folder is None or self.config.fit.ckpt_path is not None:
            return
        last = Path(folder) / "last.ckpt"
        if last.is_file():
            self.config_init.fit.ckpt_path = str(last)


def _seed(seed: bool | int) -> int:
    """Return the seed of data and stage: that of the run, or 0 where Lightning draws one."""
    return 0 if isinstance(seed, bool) else seed


def run_lightning() -> None:
    """Run `fit`, `validate` and the like as the command line says; a run with a checkpoint continues from it.

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
    """Extract what is wrong from the many lines of a jsonargparse message."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if not AROUND.match(line)]
    return re.sub(r":; ", ": ", "; ".join(line for line in lines if line))
