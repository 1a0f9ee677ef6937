"""LightningCLI with this project's defaults: one data module, the stage chosen by the config's `class_path`."""

from __future__ import annotations

import json
import re
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import lightning
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mimotok.io.remote import is_remote
from train.data.module import SpeechDataModule
from train.run.checkpoints import require_room
from train.run.loggers import LoggerName, make_loggers, note_settings
from train.run.memory import keep_freed_memory
from train.run.progress import StepProgress
from train.run.record import ResolvedConfig, RunRecord
from train.run.settings import check_resumable, run_settings
from train.stages.optim import DivergedError
from train.stages.plain import require_plain

# What jsonargparse prints around the line that says what is wrong.
AROUND = re.compile(
    r"\s*(- )?(Does not validate against|Subtypes:|Errors:|Given value type|Given value: N\w+\(|"
    r"Expected a <class 'NoneType'>|Problem with given class_path)"
)


# What all configs share, read before the config that the command line names.
BASE_CONFIG = Path(__file__).parents[1] / "configs" / "base.yaml"


# Weights by name. A later config or flag changes those that it names.
MERGED = ("model.init_args.loss_weights", "data.source_weights")
# The file or the keys of a config.json. Keys of a later config change the sizes of an earlier one.
SIZES = "model.init_args.model"
MODEL = f"--{SIZES}"
# Words after which nothing is trained.
ANSWERED_AT_ONCE = ("-h", "--help", "--print_config")
RUNS = "runs"
# What Lightning understands as a checkpoint that is no path.
KEYWORDS = ("best", "last", "hpc", "registry")
NAME = re.compile(r"\w[\w.-]*")
# What Lightning warns of, by how it begins, that nobody need act on: decoded clips on disk need few loader workers;
# averaged and frozen modules are meant to be in eval mode; a checkpoint holds the weights after its step, as a resumed
# run wants them; and a name that Lightning takes from torch will change.
HARMLESS_WARNINGS = (
    ".*does not have many workers",
    r"Found \d+ module\(s\) in eval mode",
    "Using ModelCheckpoint with manual optimization",
    r".*isinstance\(treespec, LeafSpec\)",
)


class MergingConfigFile(ActionConfigFile):
    """The option `--config`: weights of a later file change those of an earlier one, and null takes one away."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read a config. Called by jsonargparse."""
        before = {name: _as_dict(cfg.get(name)) for name in MERGED}
        sizes = cfg.get(SIZES)
        super().__call__(parser, cfg, values, option_string)
        for name, weights in before.items():
            given = _as_dict(cfg.get(name))
            if weights and given:
                cfg[name] = {**weights, **given}
        changed = _as_dict(cfg.get(SIZES))
        if changed and sizes and "base" not in changed:
            cfg[SIZES] = {**(_as_dict(sizes) or {"base": sizes}), **changed}


def _as_dict(weights: Any) -> dict[str, Any] | None:
    """Return weights as a dict of their own, whether jsonargparse holds them as a dict or as a Namespace."""
    if isinstance(weights, Namespace):
        return weights.as_dict()
    return dict(weights) if isinstance(weights, dict) else None


class StageCLI(LightningCLI):
    """The command line of training.

    The same command again goes on from the run's last checkpoint, if it is of the same settings; a run that cannot save
    does not start. A value that several parts need is given once: `seed_everything` and `trainer.max_steps` reach where
    they are needed, and the run's folders follow `trainer.default_root_dir`.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        settings = {"exit_on_error": False, "default_config_files": [str(BASE_CONFIG)]}
        super().__init__(
            lightning.LightningModule,
            SpeechDataModule,
            save_config_callback=ResolvedConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"plugins": {"class_path": "train.run.checkpoints.AtomicCheckpointIO"}, "callbacks": []},
            parser_kwargs={"exit_on_error": False} | {name: dict(settings) for name in self.subcommands()},
            subclass_mode_model=True,
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose configs merge weights. Called by LightningCLI."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c", "--config", action=MergingConfigFile, help="Path to a configuration file in json or yaml format."
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and how it starts, and link the data's seed to the run's. Called by LightningCLI."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run: all of it lies in runs/NAME."
        )
        parser.add_argument(
            "--fresh", action="store_true", help="Begin a new run, in NAME-2 and so on where NAME has checkpoints."
        )
        parser.add_argument("--resume", action="store_true", help="Go on from last.ckpt though settings have changed.")
        parser.add_argument(
            "--logger", type=LoggerName, default="tensorboard", help="Also log to Weights & Biases or MLflow."
        )
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_seed)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, in which sizes of the model change its config.json. Called by LightningCLI."""
        words = sys.argv[1:] if args is None else args
        whole = with_base_of_sizes(parser, with_merged_weights(words)) if isinstance(words, list) else words
        # LightningCLI warns of words that are not those of the command line
        super().parse_arguments(parser, args if whole == words else whole)

    def instantiate_classes(self) -> None:
        """Build stage, data and trainer; the data gets the model's rates. Called by LightningCLI."""
        super().instantiate_classes()
        tokenizer = self.model.tokenizer
        self.datamodule.follow(tokenizer.sample_rate, tokenizer.frame_rate)

    def before_instantiate_classes(self) -> None:
        """Give the stage the run's seed, and its schedules the run's steps. Called by LightningCLI.

        jsonargparse silently ignores links into dataclasses of a subclass's arguments.
        """
        config = self.config[str(self.subcommand)]
        _place(config)
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
        choice. Here the config alone determines what is built, and the checkpoint fills it.
        """

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Read a checkpoint as tensors and plain values, whatever the strategy. Called by LightningCLI."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        path = arguments.get("ckpt_path")
        if path is not None and path not in KEYWORDS:
            require_plain(path)
        return arguments | {"weights_only": True}

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Add the progress bar, unless `enable_progress_bar` is false, and place the run. Called by LightningCLI.

        Checkpoints whose `dirpath` is not given, and logs where no logger is given, go below `default_root_dir`.
        """
        config = self.config_init[str(self.subcommand)].trainer
        if config.fast_dev_run:
            # a trial of the code: it must not touch the checkpoints of a run that lies in the same folder
            config.callbacks = [one for one in config.callbacks or [] if not isinstance(one, Checkpoint)]
            kwargs["enable_checkpointing"] = False
        if config.enable_progress_bar is not False:
            self.trainer_defaults["callbacks"] = [StepProgress()]
        root = Path(config.default_root_dir or ".")
        for callback in config.callbacks or []:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(root / "checkpoints")
        service = self.config_init[str(self.subcommand)].logger
        if service != "tensorboard" and config.logger is not None and not config.fast_dev_run:
            raise ValueError(f"--logger {service}: trainer.logger says where to log already; leave one of them out")
        if config.logger is None:
            kwargs["logger"] = make_loggers("tensorboard" if config.fast_dev_run else service, root)
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Check that checkpoints fit, and continue from the last one. Called by LightningCLI."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        require_room(self.trainer, self.model)
        config = self.config.fit
        settings = run_settings(config.as_dict(), self.model)
        self.trainer.callbacks.append(RunRecord(Path(self.trainer.default_root_dir), settings))  # type: ignore[attr-defined]
        note_settings(self.trainer.loggers, settings.values)
        given = config.ckpt_path
        last = Path(getattr(self.trainer.checkpoint_callback, "dirpath", None) or "") / "last.ckpt"
        if given is None and last.is_file():
            self.config_init.fit.ckpt_path = str(last)
        path = self.config_init.fit.ckpt_path
        # who names a checkpoint wants that one, whatever its settings
        if path is not None and path not in KEYWORDS and not is_remote(path):
            anyway = config.resume or given is not None
            check_resumable(path, settings, max_steps=self.trainer.max_steps, anyway=anyway)
        # not for those who start again from the config that is stored
        config.resume = False


def with_merged_weights(words: list[str]) -> list[str]:
    """Return the command line with weights by name, such as `--data.source_weights "{a: 2}"`, as configs of their own.

    As a flag they would take the place of all weights that the configs before it name.
    """
    merged: list[str] = []
    rest = iter(words)
    for word in rest:
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in MERGED:
            merged.append(word)
            continue
        value = value if given else next(rest, "")
        try:
            weights = yaml.safe_load(value)
        except yaml.YAMLError:
            weights = None
        if not isinstance(weights, dict):
            # null, or nothing that could be merged: jsonargparse has the message
            merged += [f"--{name}={value}"]
            continue
        for part in reversed(name.split(".")):
            weights = {part: weights}
        merged += ["--config", json.dumps(weights)]
    return merged


def with_base_of_sizes(parser: LightningArgumentParser, words: list[str]) -> list[str]:
    """Return the command line with a word more where it changes sizes of a model that a config names by its file.

    `--model.init_args.model.d_model 384` would replace the file's name by a model of this one key.
    """
    places = [place for place, word in enumerate(words) if word.startswith(f"{MODEL}.")]
    if not places or any(word.split("=")[0] == f"{MODEL}.base" for word in words):
        return words
    others = []
    skip = False
    for word in words:
        size = word.startswith(f"{MODEL}.")
        if not (skip or size or word.startswith(ANSWERED_AT_ONCE)):
            others.append(word)
        skip = size and "=" not in word
    config = parser.parse_args(others)
    arguments = config[config.subcommand].get("model.init_args")
    named = None if arguments is None else arguments.get("model")
    base = [f"{MODEL}.base={named}"] if isinstance(named, str) else []
    return [*words[: places[0]], *base, *words[places[0] :]]


def _place(config: Namespace) -> None:
    """Set the run's folder by its name, and choose another one for a new run. Raises ValueError for a bad name."""
    name = config.get("name")
    if name is not None:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"--name {name!r}: give letters, digits, '.', '-' and '_' (trainer.default_root_dir is a path)"
            )
        config.trainer.default_root_dir = str(Path(RUNS, name))
    if config.get("fresh"):
        folder = config.trainer.default_root_dir or "."
        free = folder
        count = 2
        while any(Path(free, "checkpoints").glob("*.ckpt")):
            free = f"{folder}-{count}"
            count += 1
        config.trainer.default_root_dir = free
        config.name = None if name is None else Path(free).name
        # the same settings again go on with this run
        config.fresh = False


def _seed(seed: bool | int) -> int:
    """Return the seed of data and stage: that of the run, or 0 where Lightning draws one."""
    return 0 if isinstance(seed, bool) else seed


def run_lightning() -> None:
    """Run `fit`, `validate` and the like as the command line says; a run with a checkpoint continues from it.

    Raises ValueError, in one line, for a config that does not parse or does not fit; a run that diverges exits.
    """
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message)
    keep_freed_memory()
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
