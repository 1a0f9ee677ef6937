"""Checkpoints on disk: written whole or not at all, and refused at the start of a run where they would not fit."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mimotok.io.files import TEMPORARY, atomic_path, writing
from train.stages.base import Stage
from train.stages.plain import read_plain


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames: a kill or a full disk never costs the previous one.

    Lightning's own goes through a copy in memory and a file in the system's temporary folder, which is copied, not
    renamed, where that is another disk. Remote paths (s3://...) are left to it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save a checkpoint. Raises ValueError where the file cannot be written."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with writing(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, writing(path), temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                raise _reason(error) from error
            # on the disk before the rename is, so that a crash of the machine loses nothing either
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = "cpu",
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Load tensors and plain values only, whatever Lightning asks for. Raises ValueError for any other file."""
        return read_plain(path, map_location)


def _reason(error: RuntimeError) -> Exception:
    """Return the system's error behind a RuntimeError of torch's zip writer, or a guess where it is lost."""
    if isinstance(error.__context__, OSError):
        return error.__context__
    return OSError("full disk?") if "PytorchStreamWriter" in str(error) else error


def require_room(trainer: lightning.Trainer, stage: Stage) -> None:
    """Check, before anything is decoded or trained, that the checkpoints of this run can be written.

    Removes what a killed save left behind. Raises ValueError where a folder cannot be written, or its disk does not
    hold the checkpoints that will be kept and the one that is written before an older one goes.
    """
    counts: dict[Path, int] = defaultdict(int)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and "://" not in str(callback.dirpath):
            counts[Path(callback.dirpath or trainer.default_root_dir)] += _kept(callback, trainer.max_steps)
    size = stage.checkpoint_bytes()
    for folder, kept in counts.items():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        for stale in folder.glob(TEMPORARY.format("*")):
            stale.unlink(missing_ok=True)
        missing = max(0, kept - len(list(folder.glob("*.ckpt")))) + 1
        free = shutil.disk_usage(folder).free
        if missing * size > free:
            raise ValueError(
                f"{folder}: {missing} checkpoints of {size / 1e9:.3g} GB do not fit, {free / 1e9:.3g} GB are free: "
                "make room, lower save_top_k, or name another dirpath"
            )


def _kept(callback: ModelCheckpoint, max_steps: int) -> int:
    """Return the number of checkpoints on disk when the run is over."""
    kept = callback.save_top_k
    if kept < 0:
        # all of them: at least one where their number is not known beforehand
        every = callback._every_n_train_steps
        kept = max(1, math.ceil(max_steps / every)) if every > 0 else 1
    return kept + int(callback.save_last is True)
