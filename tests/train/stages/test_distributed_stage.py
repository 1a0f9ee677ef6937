"""The joint stage on two processes, replicated (DDP) and sharded (FSDP2), against one process on the joined batch."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
import torch.distributed as distributed
from torch.utils.data import DataLoader

from tests.helpers.models import TINY, make_tokenizer
from tests.helpers.ranks import run_ranks

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.amp import GradScaler

from mimotok import Tokenizer
from train.data.batches import Batch
from train.losses.discriminators import Discriminators
from train.losses.spectral import MelLoss
from train.stages.adversarial import AdversarialStage
from train.stages.base import Segment, Stage, StageConfig
from train.stages.joint import JointStage, QuantizerConfig
from train.stages.optim import OptimizerConfig
from train.stages.text_decoder import TextDecoderConfig
from train.tools.export import export, read_checkpoint

# two processes start and train three times: half a minute, more on a busy machine
pytestmark = pytest.mark.slow
RANKS = 2
CLIPS = 4
SAMPLES = 19_200
# one before a run is resumed, and one behind it
STEPS = 2
State = dict[str, torch.Tensor]


class SettledStage(JointStage):
    """Draws no number of codebooks by chance: of each pair of clips one uses all, one two."""

    def _draw_n_q(self, count: int) -> torch.Tensor:
        return torch.tensor([self.tokenizer.config.num_quantizers, 2] * (count // 2))


def make_stage(model: Path, *, muon: bool = False) -> SettledStage:
    optimizer = OptimizerConfig(lr=1e-2, muon=muon, warmup_steps=2, average_decay=0.9)
    return SettledStage(
        str(model),
        loss_weights={"text": 1.0, "mel": 1.0, "commitment": 1.0},
        training=StageConfig(
            mel_loss=MelLoss(scales=[(16, 240, 120)], exponents=[0.0]),
            optimizer=optimizer,
            # longer than the clips: nothing is left to chance
            segment_seconds=1.2,
        ),
        text_decoder=TextDecoderConfig(hidden_size=16, num_layers=1, num_heads=2, ffn_dim=32),
        quantizer=QuantizerConfig(dead_code_fraction=0.0),
    )


class SettledAdversarialStage(AdversarialStage):
    """Decodes every clip from all codebooks."""

    @torch.no_grad()
    def _segment(self, batch: Batch) -> Segment:
        latents, lengths = self.encode_mel(batch)
        return self.segment(latents, lengths, batch.wav)


def make_adversarial(model: Path) -> SettledAdversarialStage:
    optimizer = OptimizerConfig(lr=1e-3, muon=False, warmup_steps=2, average_decay=0.9)
    return SettledAdversarialStage(
        str(model),
        training=StageConfig(
            mel_loss=MelLoss(scales=[(16, 240, 120)], exponents=[0.0]), optimizer=optimizer, segment_seconds=1.2
        ),
        discriminators=Discriminators(periods=(2,), period_width=2, windows=(256,), stft_channels=2),
        discriminator_optimizer=optimizer,
    )


def batches(rank: int, ranks: int) -> list[Batch]:
    """Clips of one length with texts of one length, so that means over ranks are means over clips."""
    data = []
    for step in range(STEPS):
        wav = 0.1 * torch.randn(CLIPS, SAMPLES, generator=torch.Generator().manual_seed(step))
        mine = range(CLIPS)[rank * CLIPS // ranks : (rank + 1) * CLIPS // ranks]
        texts: list[str | None] = [f"clip {i}" for i in mine]
        data.append(Batch(wav[mine.start : mine.stop], torch.full((len(mine),), SAMPLES), texts, list(map(str, mine))))
    return data


def loader(data: list[Batch]) -> DataLoader[Any]:
    return DataLoader(data, batch_size=None)  # type: ignore[arg-type]


def fit(stage: Stage, steps: int, rank: int = 0, ranks: int = 1, resume: str | None = None, **how: Any) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        val_check_interval=1,
        **how,
    )
    data = batches(rank, ranks)
    # only the first rank has texts here: the other must neither wait for it, nor it for the other
    heard = data[0] if rank == 0 else data[0]._replace(text=[None, "..."])
    # this loader does not know where a resumed run goes on
    data = data if resume is None else data[1:] + data[:1]
    trainer.fit(stage, loader(data), loader([heard]), ckpt_path=resume)
    return trainer


def sharded() -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=RANKS, tensor_parallel_size=1, save_distributed_checkpoint=False)


def save_metrics(trainer: Any, path: Path) -> None:
    torch.save({name: float(value) for name, value in trainer.callback_metrics.items()}, path)


def worker(rank: int, place: str) -> None:
    folder = Path(place)
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    # other weights on each rank, to be overwritten by those of the first
    torch.manual_seed(rank)
    stage = make_stage(folder / "model")
    fit(stage, STEPS, rank, RANKS, strategy="ddp")
    torch.save(stage.state_dict(), folder / f"ddp-{rank}.pt")

    torch.manual_seed(rank)
    adversarial = make_adversarial(folder / "model")
    trainer = fit(adversarial, STEPS, rank, RANKS, strategy="ddp")
    torch.save(adversarial.state_dict(), folder / f"adversarial-{rank}.pt")
    save_metrics(trainer, folder / f"adversarial-metrics-{rank}.pt")

    torch.manual_seed(rank)
    trainer = fit(make_stage(folder / "model"), 1, rank, RANKS, strategy=sharded())
    trainer.save_checkpoint(folder / "first.ckpt")
    torch.manual_seed(2 + rank)
    stage = make_stage(folder / "model")
    trainer = fit(stage, STEPS, rank, RANKS, strategy=sharded(), resume=str(folder / "first.ckpt"))
    trainer.save_checkpoint(folder / "sharded.ckpt")
    if rank == 0:
        save_metrics(trainer, folder / "metrics.pt")
    distributed.destroy_process_group()


class Outcome(NamedTuple):
    """States before and after the steps: of one process, and of two."""

    folder: Path
    before: State
    alone: State
    replicated: list[State]
    sharded: State


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("ranks")
    make_tokenizer(TINY).save_pretrained(folder / "model")
    run_ranks(worker, folder, ranks=RANKS)
    torch.manual_seed(0)
    stage = make_stage(folder / "model")
    before = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    fit(stage, STEPS)
    replicated = [torch.load(folder / f"ddp-{rank}.pt", weights_only=True) for rank in range(RANKS)]
    return Outcome(folder, before, stage.state_dict(), replicated, read_checkpoint(folder / "sharded.ckpt")[0])


def assert_same_steps(outcome: Outcome, other: State) -> None:
    """Each tensor has moved as in one process: the difference is small beside the way it went."""
    assert other.keys() == outcome.alone.keys()
    for name, wanted in outcome.alone.items():
        moved = (wanted.double() - outcome.before[name].double()).norm()
        difference = (wanted.double() - other[name].double()).norm()
        assert difference <= 1e-3 * moved + 1e-6 * wanted.double().norm(), f"{name}: {difference} of {moved}"


def test_replicated_ranks_are_equal(outcome: Outcome) -> None:
    first, second = outcome.replicated
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_replicated_steps_equal_those_on_the_joined_batch(outcome: Outcome) -> None:
    assert_same_steps(outcome, outcome.replicated[0])
    moved = [name for name, tensor in outcome.alone.items() if not torch.equal(tensor, outcome.before[name])]
    for part in ("tokenizer.encoder.layers.0", "averaged.module.decoder", "quantizer.layers.3", "text_decoder.lm"):
        assert any(name.startswith(part) for name in moved), part


def test_sharded_and_resumed_steps_equal_those_on_the_joined_batch(outcome: Outcome) -> None:
    assert_same_steps(outcome, outcome.sharded)


def test_a_sharded_run_validates_and_exports(outcome: Outcome) -> None:
    metrics = torch.load(outcome.folder / "metrics.pt")
    assert metrics["val/text_loss"] > 1
    assert metrics["val/cer"] > 0
    export(outcome.folder / "sharded.ckpt", outcome.folder / "exported", dtype="float32")
    state = Tokenizer.from_pretrained(outcome.folder / "exported").state_dict()
    assert all(torch.equal(tensor, outcome.sharded[f"averaged.module.{name}"]) for name, tensor in state.items())


def test_the_adversarial_stage_on_ranks_is_that_on_the_joined_batch(outcome: Outcome) -> None:
    """Both networks: each of the two backward passes of a step has gradients of one of them."""
    torch.manual_seed(0)
    stage = make_adversarial(outcome.folder / "model")
    before = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    trainer = fit(stage, STEPS)
    first, second = (torch.load(outcome.folder / f"adversarial-{rank}.pt", weights_only=True) for rank in range(RANKS))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert_same_steps(outcome._replace(before=before, alone=stage.state_dict()), first)
    for part in ("tokenizer.decoder.", "discriminators."):
        assert any(not torch.equal(first[name], before[name]) for name in before if name.startswith(part))
    # code usage is that of the clips of all ranks
    for rank in range(RANKS):
        metrics = torch.load(outcome.folder / f"adversarial-metrics-{rank}.pt")
        for book in range(len(stage.tokenizer.codebook_sizes)):
            for name in (f"codes/{book}_used", f"codes/{book}_perplexity"):
                assert metrics[name] == pytest.approx(float(trainer.callback_metrics[name]), rel=0.02), name


def test_the_adversarial_stage_refuses_what_it_cannot_do(outcome: Outcome) -> None:
    stage = make_adversarial(outcome.folder / "model")
    by_the_clock = ModelCheckpoint(outcome.folder / "none", train_time_interval=timedelta(minutes=2))
    for message, options in {
        "train_time_interval: Lightning saves nothing": {"callbacks": [by_the_clock]},
        "precision=16-mixed: .* no loss scaling": {
            "plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu"))],
            "enable_checkpointing": False,
        },
    }.items():
        trainer = lightning.Trainer(accelerator="cpu", devices=1, max_steps=1, logger=False, **cast(Any, options))
        with pytest.raises(ValueError, match=message):
            trainer.fit(stage, loader(batches(0, 1)))


def test_a_segment_of_less_than_a_frame_is_refused(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match=r"segment_seconds=0\.01: give at least one frame"):
        JointStage(str(outcome.folder / "model"), training=StageConfig(segment_seconds=0.01))


def test_what_cannot_be_sharded_is_reported(outcome: Outcome) -> None:
    joint = make_stage(outcome.folder / "model", muon=True)
    adversarial = AdversarialStage(str(outcome.folder / "model"))
    for stage, message in ((joint, "Muon needs whole matrices"), (adversarial, "cannot shard its weights")):
        stage._device_mesh = cast(Any, object())  # as a ModelParallelStrategy leaves it
        with pytest.raises(ValueError, match=message):
            stage.configure_model()
