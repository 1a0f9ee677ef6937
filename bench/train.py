"""Where does the time of a training step go, and how near is it to what the machine's matrix products allow?

OMP_NUM_THREADS=1 python -m bench.train --recipe train/configs/recipe/1_joint.yaml
OMP_NUM_THREADS=1 python -m bench.train --precision bf16-mixed --losses '[mel, commitment]'
python -m bench.train --recipe train/configs/recipe/2_adversarial.yaml --batch_seconds 8.64 --crop_seconds 1.44
python -m bench.train --device cuda --precision bf16-mixed --compile true --batch_seconds 320

Lightning trains the config's stage on batches of noise, with texts and phone labels at random; neither speed nor memory
depends on what is heard. Medians over steps. On a CPU seconds are the processor's, which other work on the machine does
not lengthen much: give it one thread. The bound is the time that the step's products, counted by torch, would take at
the rate of one large square product in the same precision.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from jsonargparse import CLI, ArgumentParser
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu import peak_flops
from bench.tables import Table
from mimotok.io.clips.phones import PHONES
from mimotok.tokenizer import Tokenizer, checked_device
from train.data.batches import Batch
from train.run.memory import keep_freed_memory
from train.stages.base import Stage

# both run before the clock: one to fill caches, one to compile
WARM_UP = 2
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Parts(Callback):
    """Times the parts of each step: a part ends where the next one begins, forward and backward."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._last = 0.0
        self._backward_passes = 0
        self._hooks: list[Any] = []

    def on_train_start(self, trainer: lightning.Trainer, stage: Any) -> None:
        """Watch where data enters and leaves encoder and decoder. Called by Lightning."""
        model = stage.tokenizer
        self._hooks = [
            model.encoder.register_forward_pre_hook(lambda *_: self.end("log-mel")),
            model.encoder.register_forward_hook(lambda *at: self._leaves("encoder", "quantizer, backward", at[2])),
            model.decoder.register_forward_pre_hook(
                lambda _, at: self._leaves("quantizer", "decoder, backward", at[0])
            ),
            model.decoder.register_forward_hook(lambda *at: self._leaves("decoder", "losses, backward", at[2])),
        ]

    def _leaves(self, part: str, backward: str, tensor: Tensor) -> None:
        self.end(part)
        if tensor.requires_grad:
            tensor.register_hook(lambda _: self.end(backward))

    def on_train_end(self, trainer: lightning.Trainer, stage: Any) -> None:
        """Leave the model as it was. Called by Lightning."""
        for hook in self._hooks:
            hook.remove()

    def on_train_batch_start(self, trainer: lightning.Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock. Called by Lightning."""
        if batch_idx == WARM_UP:
            self.seconds.clear()
        self._backward_passes = 0
        self._last = _now()

    def on_before_backward(self, trainer: lightning.Trainer, stage: Any, loss: Tensor) -> None:
        """End the losses of the generator, or before them those of the discriminators. Called by Lightning."""
        self.end("losses" if self._of_generator(stage) else "discriminators")

    def on_after_backward(self, trainer: lightning.Trainer, stage: Any) -> None:
        """End the backward pass, whose last part is the first that is trained. Called by Lightning."""
        if not self._of_generator(stage):
            self.end("discriminators, backward")
        elif stage.automatic_optimization:
            self.end("encoder, backward")
        else:
            self.end("decoder, backward")
        self._backward_passes += 1

    def _of_generator(self, stage: Any) -> bool:
        return stage.automatic_optimization or self._backward_passes == 1

    def on_train_batch_end(
        self, trainer: lightning.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the optimizer's part. Called by Lightning."""
        self.end("optimizer")

    def end(self, part: str) -> None:
        """Count the time since the last end as this part's."""
        now = _now()
        self.seconds[part].append(now - self._last)
        self._last = now


def _now() -> float:
    if not torch.accelerator.is_available():
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def load_stage(config: Path, model: str, *, compiled: bool, losses: Collection[str] | None = None) -> Stage:
    """Build the stage of a training config, on the model that is given, with all of its losses or those that are named.

    Raises ValueError for a loss without a weight in the config.
    """
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    settings["init_args"]["model"] = model
    if losses is not None:
        weights = settings["init_args"]["loss_weights"]
        if unknown := set(losses) - set(weights):
            raise ValueError(f"losses: {', '.join(sorted(unknown))} has no weight in {config}")
        settings["init_args"]["loss_weights"] = {name: weights[name] for name in losses}
    settings["init_args"].setdefault("training", {})["compile"] = compiled
    parser = ArgumentParser()
    parser.add_subclass_arguments(lightning.LightningModule, "model")
    stage = parser.instantiate_classes(parser.parse_object({"model": settings})).model
    assert isinstance(stage, Stage)
    return stage


def noise_batch(model: Tokenizer, batch_seconds: float, crop_seconds: float) -> Batch:
    """Make a batch of as many crops as fit into its seconds."""
    count = max(1, round(batch_seconds / crop_seconds))
    size = round(crop_seconds * model.sample_rate)
    lengths = torch.full((count,), size)
    frames = int(model.num_frames(lengths).max())
    phones = torch.randint(len(PHONES), (count, frames))
    texts: list[str | None] = ["the quick brown fox"] * count
    return Batch(0.1 * torch.randn(count, size), lengths, texts, [f"noise-{i}" for i in range(count)], phones)


def repeated(batch: Batch, times: int) -> DataLoader[Batch]:
    """Make a loader that gives the batch again and again; Lightning takes a plain list for several loaders."""
    batches: Any = [batch] * times
    return DataLoader(batches, batch_size=None)


def products_of(stage: Stage, batch: Batch, trainer: lightning.Trainer) -> int:
    """Count the operations in products and attention of one whole step."""
    with FlopCounterMode(display=False) as counted:
        trainer.fit(stage, repeated(batch, 1))
    return counted.get_total_flops()


def main(
    recipe: Path = Path("train/configs/recipe/1_joint.yaml"),
    model: str = "train/configs/models/default.json",
    device: str = "cpu",
    precision: str = "32-true",
    compile: bool = False,
    losses: list[str] | None = None,
    batch_seconds: float = 20.0,
    crop_seconds: float = 2.56,
    steps: int = 5,
    product: int = 2048,
) -> None:
    """Prints the parts of a step, the sound heard per second, and the bound.

    Args:
        recipe: the training config of the stage.
        model: which it trains.
        device: cpu or cuda.
        precision: Lightning's word for it: 32-true, bf16-mixed or 16-mixed.
        compile: whether the Transformer stacks go through torch.compile.
        losses: names of the losses that the step has; all that have a weight in the recipe if left out.
        batch_seconds: sound in a batch.
        crop_seconds: length of each clip in it.
        steps: how many are timed.
        product: side of the square matrices whose product is the peak.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision={precision}: give one of {', '.join(DTYPES)}")
    place = checked_device(device)
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    stage = load_stage(recipe, model, compiled=compile, losses=losses)
    batch = noise_batch(stage.tokenizer, batch_seconds, crop_seconds)
    parts = Parts()
    # of a stage of its own: a stack that first runs under the counter is never compiled
    counted = load_stage(recipe, model, compiled=False, losses=losses)
    flops = products_of(counted, batch, _trainer(place, precision, 1, []))
    _trainer(place, precision, WARM_UP + steps, [parts]).fit(stage, repeated(batch, WARM_UP + steps))
    rate = peak_flops(product, place, DTYPES[precision], steps, _now)
    report(parts.seconds, batch_seconds, flops / rate, steps)


def _trainer(place: torch.device, precision: str, steps: int, callbacks: list[Callback]) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu" if place.type == "cpu" else "gpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def report(seconds: dict[str, list[float]], batch_seconds: float, bound: float, steps: int) -> None:
    """Print a markdown table. A part that occurs several times in a step counts with all of its times."""
    medians = {name: statistics.median(_by_step(times, steps)) for name, times in seconds.items()}
    total = sum(medians.values())
    table = Table("", ("part", "s", "share"))
    for name, took in medians.items():
        table.add(name, f"{took:.3f}", f"{took / total:.0%}")
    table.add("the step", f"{total:.3f}", "100%")
    table.add("its products at the measured peak", f"{bound:.3f}", f"{bound / total:.0%}")
    print(table)
    print(f"\n{batch_seconds / total:.1f} audio-s/s")


def _by_step(times: list[float], steps: int) -> Iterable[float]:
    count = max(1, len(times) // steps)
    return [sum(times[i : i + count]) for i in range(0, len(times), count)]


if __name__ == "__main__":
    CLI(main, as_positional=False)
