"""Progress of training: optimiser steps of the generator, losses, audio-seconds per second and the time left."""

from __future__ import annotations

import sys
import time
from collections import deque
from datetime import timedelta
from typing import Any, NamedTuple

import lightning
from lightning.pytorch.callbacks import ProgressBar

from mimotok.io.terminal.progress import ProgressBar as Bar

# Steps that the rate is averaged over: batches differ in length, and the first ones are slow.
WINDOW = 50


class Mark(NamedTuple):
    """A moment of a run.

    Attributes:
        step: steps done.
        audio_seconds: seconds of audio used, on all ranks.
        time: seconds on the clock.
    """

    step: int
    audio_seconds: float
    time: float


class Pace:
    """Audio rate and time left, over the last `WINDOW` steps."""

    def __init__(self) -> None:
        self._marks: deque[Mark] = deque(maxlen=WINDOW + 1)

    def mark(self, mark: Mark) -> None:
        """Note a moment. Call it once before the first step and after each one."""
        self._marks.append(mark)

    def audio_rate(self) -> float:
        """Return audio-seconds per second; 0 before the first step."""
        first = self._marks[0]
        last = self._marks[-1]
        if last.time <= first.time:
            return 0.0
        return (last.audio_seconds - first.audio_seconds) / (last.time - first.time)

    def seconds_left(self, max_steps: int) -> float | None:
        """Return the seconds until step `max_steps`; None before the first step, and for a run without end (-1)."""
        first = self._marks[0]
        last = self._marks[-1]
        if last.step == first.step or max_steps < 0:
            return None
        return (max_steps - last.step) * (last.time - first.time) / (last.step - first.step)


class StepProgress(ProgressBar):
    """A bar on a terminal; elsewhere one plain line every `log_every_n_steps` steps. Both go to standard error."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Bar | None = None
        self._enabled = True
        self._losses = ""
        self._pace = Pace()

    def disable(self) -> None:
        """Show nothing from now on. Called by Lightning."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again. Called by Lightning."""
        self._enabled = True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bar. Called by Lightning."""
        self._mark(trainer, pl_module)
        if self._enabled:
            total = trainer.max_steps if trainer.max_steps >= 0 else None
            self._bar = Bar(total=total, completed=trainer.global_step, count=True, time_left=False)
            self._bar.__enter__()

    def _mark(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        audio_seconds = float(getattr(module, "audio_seconds", 0.0))
        self._pace.mark(Mark(trainer.global_step, audio_seconds, time.perf_counter()))

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Show the step. Called by Lightning."""
        self._mark(trainer, pl_module)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = (every > 0 and trainer.global_step % every == 0) or trainer.global_step == trainer.max_steps
        if not self._enabled:
            return
        # reading a loss makes the CPU wait for a GPU, so not at every step
        if due or not self._losses:
            self._losses = losses_text(trainer.callback_metrics)
        if self._bar is not None and self._bar.shown:
            self._bar.update(trainer.global_step, description=self._summary(trainer))
        elif due:
            total = f"/{trainer.max_steps}" if trainer.max_steps >= 0 else ""
            print(f"step {trainer.global_step}{total}, {self._summary(trainer)}", file=sys.stderr, flush=True)

    def _summary(self, trainer: lightning.Trainer) -> str:
        left = self._pace.seconds_left(trainer.max_steps)
        ending = "" if left is None else f", {timedelta(seconds=round(left))} left"
        return f"{self._losses}, {self._pace.audio_rate():.1f} audio-s/s{ending}"

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Remove the bar. Called by Lightning."""
        self._stop()

    def on_exception(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002
        pl_module: lightning.LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Remove the bar. Called by Lightning."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None


def losses_text(metrics: Any) -> str:
    """Return `mel 0.812, text 2.41`: the losses of the last step among Lightning's metrics, by name."""
    losses = {
        name.removeprefix("train/").removesuffix("_loss"): float(value)
        for name, value in metrics.items()
        if name.startswith("train/") and name.endswith("_loss")
    }
    return ", ".join(f"{name} {value:.3g}" for name, value in sorted(losses.items()))
