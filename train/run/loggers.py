"""Where a run's figures go: CSV and TensorBoard always, and a service where `--logger` names one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
PROJECT = "mimotok"
RUN_ID = "wandb_id.txt"


def make_loggers(name: LoggerName, root: Path) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        name: tensorboard for no other; wandb, by `WANDB_MODE` and the like as Weights & Biases says; mlflow, at
            `MLFLOW_TRACKING_URI`, or in the run's folder.
        root: folder of the run, after which it is called.

    Raises:
        ImportError: naming the extra, where the package of a service is not there.
    """
    loggers: list[Logger] = [TensorBoardLogger(root, name="tensorboard"), CSVLogger(root, name="csv")]
    if name == "wandb":
        loggers.append(_wandb(root))
    elif name == "mlflow":
        loggers.append(_mlflow(root))
    return loggers


def note_settings(loggers: list[Logger], settings: dict[str, Any]) -> None:
    """Tell services the settings of a run. resolved.yaml holds them for the others."""
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger | CSVLogger):
            logger.log_hyperparams(settings)


def _wandb(root: Path) -> Logger:
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise ImportError("--logger wandb needs: pip install 'mimotok[wandb]'") from None
    from lightning.pytorch.loggers import WandbLogger

    root.mkdir(parents=True, exist_ok=True)
    return WandbLogger(project=PROJECT, name=root.name, save_dir=root, id=_run_id(root), resume="allow")


def _run_id(root: Path) -> str:
    """Return the id of a run at Weights & Biases: a run that goes on is the same one there."""
    path = root / RUN_ID
    if not path.is_file():
        path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _mlflow(root: Path) -> Logger:
    try:
        import mlflow  # noqa: F401
    except ImportError:
        raise ImportError("--logger mlflow needs: pip install 'mimotok[mlflow]'") from None
    from lightning.pytorch.loggers import MLFlowLogger

    root.mkdir(parents=True, exist_ok=True)
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(root / 'mlflow.db').absolute()}"
    return MLFlowLogger(
        PROJECT, run_name=root.name, tracking_uri=place, artifact_location=str((root / "mlflow").absolute())
    )
