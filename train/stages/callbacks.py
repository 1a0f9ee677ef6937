"""Callbacks of both stages: code usage, clips in TensorBoard, and the facts in each checkpoint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from mimotok.model.mel import log_mel
from mimotok.tokenizer import Tokenizer
from train.data.batches import Batch
from train.stages.usage import CodeUsage

if TYPE_CHECKING:
    from train.stages.base import Stage

# Clips of the first validation batch that TensorBoard shows.
SHOWN_CLIPS = 4


class CodeUsageMonitor(Callback):
    """A callback that logs, after each validation, how many entries of each codebook are in use, and how evenly."""

    def __init__(self, usage: CodeUsage) -> None:
        self.usage = usage

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forget all counts."""
        self.usage.reset()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the codes of a batch."""
        self.usage.update(outputs["codes"], outputs["lengths"])

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the counts of all ranks."""
        reduce = trainer.strategy.reduce
        counts = [reduce(own.to(pl_module.device), reduce_op="sum") for own in self.usage.counts]
        self.usage.counts = [cast(Tensor, of_all).cpu() for of_all in counts]
        for book, (used, perplexity) in enumerate(self.usage.summary()):
            pl_module.log(f"codes/{book}_used", used)
            pl_module.log(f"codes/{book}_perplexity", perplexity)


class ClipsInTensorBoard(Callback):
    """A callback that puts the first validation clips into TensorBoard as sound and pictures, original and decoded."""

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the clips of the first batch."""
        if batch_idx > 0:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                model = cast("Stage", pl_module).export_tokenizer()
                show_clips(logger, batch, outputs["wav"], model, trainer.global_step)


class CheckpointFacts(Callback):
    """A callback that writes into each checkpoint, under "mimotok", the facts of the model card."""

    def __init__(self, usage: CodeUsage) -> None:
        self.usage = usage

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the facts."""
        stage = cast("Stage", pl_module)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint["mimotok"] = stage.facts() | {
            "stage": type(stage).__name__,
            "steps": trainer.global_step,
            "command": " ".join(["python -m train", *sys.argv[1:]]),
            "metrics": metrics,
            "codes": self.usage.summary(),
        }


def show_clips(logger: TensorBoardLogger, batch: Batch, wav: Tensor, model: Tokenizer, step: int) -> None:
    """Put the first clips, original and decoded, into TensorBoard as audio and as mel pictures.

    Args:
        logger: TensorBoard.
        batch: the originals.
        wav: [B, T], decoded.
        model: the model, for its mel.
        step: of the run.

    Both pictures of a clip share one scale, that of the original.
    """
    board = logger.experiment
    for row, samples in enumerate(batch.lengths[:SHOWN_CLIPS].tolist()):
        clips = {"original": batch.wav[row, :samples], "decoded": wav[row, :samples]}
        mels = {name: log_mel(clip[None], None, model.config)[0][0].T.flip(0) for name, clip in clips.items()}
        low = mels["original"].min()
        span = (mels["original"].max() - low).clamp(min=1e-5)
        for name, clip in clips.items():
            board.add_audio(f"{row}/{name}", clip.float().clamp(-1, 1).cpu(), step, model.sample_rate)
            board.add_image(f"{row}/{name}_mel", ((mels[name] - low) / span).clamp(0, 1)[None].cpu(), step)
