"""What the examples' training has in common: batches of similar lengths, a schedule, Lightning, and what is printed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import typer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mimotok.io.codes.bits import blocks_needed
from train.stages.plain import PlainLoading


class Example(PlainLoading):
    """A model that is trained for `steps` steps by AdamW, up to `learning_rate` and down again.

    A subclass gives `losses`: a dict of scalars, of which "loss" is minimised.
    """

    def __init__(self, steps: int, learning_rate: float) -> None:
        super().__init__()
        self.steps = steps
        self.learning_rate = learning_rate

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a batch by name."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_index: int) -> Tensor:  # noqa: ARG002
        return self._logged("train", batch)

    def validation_step(self, batch: Any, batch_index: int) -> None:  # noqa: ARG002
        self._logged("dev", batch)

    def _logged(self, part: str, batch: Any) -> Tensor:
        losses = self.losses(batch)
        # of one batch in training, the mean over the batches on dev
        self.log_dict({f"{part}/{name}": loss.detach() for name, loss in losses.items()}, batch_size=1)
        return losses["loss"]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps + 1, pct_start=0.1
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class SimilarLengths(Sampler[list[int]]):
    """Batches of neighbours in length, in random order; clips of one length meet others in each epoch."""

    def __init__(self, lengths: Sequence[int], batch_size: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = torch.randperm(len(self.lengths))
        order = shuffled[self.lengths[shuffled].argsort()]
        batches = order.split(self.batch_size)
        return (batches[i].tolist() for i in torch.randperm(len(batches)).tolist())

    def __len__(self) -> int:
        return blocks_needed(len(self.lengths), self.batch_size)


def make_loader(
    items: Sequence[Any], lengths: Sequence[int], collate: Callable[[Any], Any], batch_size: int
) -> DataLoader:
    """Batches for `fit`."""
    return DataLoader(items, batch_sampler=SimilarLengths(lengths, batch_size), collate_fn=collate)  # type: ignore[arg-type]


def fit(
    example: Example,
    train: DataLoader,
    dev: DataLoader,
    out: Path,
    *,
    every: int,
    precision: Any = "32-true",
    resume: bool = False,
) -> Path:
    """Train, with the dev losses each `every` steps, print them, and return the checkpoint's path.

    resume: goes on with the checkpoint that a stopped call has left in `out`, if there is one; its losses then stand in
    a folder of their own.
    """
    last = out / "last.ckpt"
    before = last if resume and last.is_file() else None
    version = ""
    if before is not None:
        version = f"from-step-{torch.load(before, weights_only=True)['global_step']}"
    logger = CSVLogger(out, name="", version=version)
    trainer = lightning.Trainer(
        max_steps=example.steps,
        precision=precision,
        val_check_interval=min(every, example.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=logger,
        callbacks=[ModelCheckpoint(out, filename="last", every_n_train_steps=every, enable_version_counter=False)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(example, train, dev, ckpt_path=before, weights_only=True)
    trainer.save_checkpoint(last)
    for line in dev_curve(out / version / "metrics.csv"):
        print(line)
    return last


def dev_curve(metrics: Path) -> list[str]:
    """Return one line for each time that dev was measured, from Lightning's metrics.csv, which no step leaves out."""
    if not metrics.is_file():
        return []
    with metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("dev/loss")]
    return [
        f"step {int(row['step']) + 1}: "
        + ", ".join(f"{name} {float(value):.3f}" for name, value in sorted(row.items()) if name[:4] == "dev/" and value)
        for row in rows
    ]


def run(main: Callable[..., None]) -> None:
    """Run a script's main; on bad input it prints one line and exits with code 2."""
    torch.manual_seed(0)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
