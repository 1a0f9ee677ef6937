"""What a stage gives to its losses, readers and discriminators: the right sound, codebooks, weights and averages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.models import STREAMABLE, make_tokenizer

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from train.data.batches import Batch
from train.losses.adversarial import Valid
from train.losses.spectral import MelLoss
from train.stages.adversarial import AdversarialStage
from train.stages.base import Stage, StageConfig
from train.stages.joint import JointStage, QuantizerConfig
from train.stages.optim import OptimizerConfig

READERS: dict[str, float | None] = {"mel": 1.0, "commitment": 0.1, "phone": 1.0, "characters": 1.0, "semantic": 1.0}


def training(decay: float = 0.5) -> StageConfig:
    return StageConfig(
        mel_loss=MelLoss(scales=[(64, 480, 240)]),
        segment_seconds=0.48,
        optimizer=OptimizerConfig(average_decay=decay),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model whose codebooks hold something."""
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(replace(STREAMABLE, default_n_q=3)).save_pretrained(folder)
    return str(folder)


def joint(model: str, weights: dict[str, float | None] | None = None, **options: Any) -> JointStage:
    return JointStage(model, loss_weights=weights or {"mel": 0.5, "commitment": 0.1}, training=training(), **options)


class Scale(nn.Module):
    """A judge whose only logit is a multiple of each sample, and which remembers what it heard."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.heard: list[Tensor] = []

    def forward(self, wav: Tensor) -> Any:
        self.heard.append(wav.detach())

        class Judged(NamedTuple):
            logits: list[Tensor]
            features: list[list[Tensor]]

        logits = (self.scale * wav)[:, None, :, None]
        return Judged([logits], [[logits]])


def adversarial(model: str, **options: Any) -> AdversarialStage:
    weights = {"mel": 1.0, "adversarial": 1.0, "feature_matching": None}
    return AdversarialStage(model, loss_weights=weights, training=training(), discriminators=Scale(), **options)


def logged(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    values: dict[str, float] = {}
    monkeypatch.setattr(stage, "log", lambda name, value, **_: values.update({name: float(value)}))
    monkeypatch.setattr(stage, "log_dict", lambda named, **_: values.update({k: float(v) for k, v in named.items()}))
    return values


def test_the_target_is_the_sound_of_the_chosen_frames(model: str) -> None:
    stage = joint(model)
    size = stage.tokenizer.frame_size
    lengths = torch.tensor([40, 60, 5])
    latents = torch.arange(60.0)[None, :, None].expand(3, -1, 2)
    # each sample holds the number of its frame, and nothing stands behind a clip's end
    wav = torch.arange(60.0).repeat_interleave(size).expand(3, -1) * (torch.arange(60 * size) < lengths[:, None] * size)
    starts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        segment = stage.segment(latents, lengths, wav)
        assert segment.latents.shape[1] == stage.segment_frames == 12
        assert segment.lengths.tolist() == [12, 12, 5]
        assert segment.samples.tolist() == [12 * size, 12 * size, 5 * size]
        for row, valid in enumerate(segment.lengths):
            frames = segment.latents[row, :valid, 0]
            assert torch.equal(segment.wav[row, : valid * size], frames.repeat_interleave(size))
            assert not segment.wav[row, valid * size :].any()
        starts.add(int(segment.latents[1, 0, 0]))
    assert len(starts) > 10


def test_the_total_is_weighted(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = joint(model)
    values = logged(stage, monkeypatch)
    losses = {"mel": torch.tensor(2.0), "commitment": torch.tensor(3.0), "stoi": torch.tensor(100.0)}
    assert stage.total(losses) == pytest.approx(0.5 * 2 + 0.1 * 3)
    assert values == {"train/mel_loss": 2, "train/commitment_loss": 3, "train/stoi_loss": 100}


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_weights_are_averaged_with_the_decay(model: str, decay: float) -> None:
    stage = JointStage(model, loss_weights={"mel": 1.0}, training=training(decay))
    weight = stage.tokenizer.decoder.vocoder.head.out.weight
    averaged = stage.export_tokenizer().decoder.vocoder.head.out.weight
    stage.average()
    first = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    stage.average()
    torch.testing.assert_close(averaged, decay * first + (1 - decay) * weight.detach())


def test_validation_names_what_is_quantized(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = joint(model).eval()
    values = logged(stage, monkeypatch)
    wav = 0.1 * torch.randn(2, 14_400)
    batch = Batch(wav, torch.tensor([14_400, 9600]), [None, None], ["a", "b"], None)
    with torch.no_grad():
        stage.validation_step(batch, 0)
        before = dict(values)
        for book in stage.export_tokenizer().encoder.quantizer.codebooks():
            book.embed.mul_(3)
        stage.validation_step(batch, 0)
    assert values["val/unquantized_mel_loss"] == before["val/unquantized_mel_loss"]
    assert values["val/mel_loss"] != before["val/mel_loss"]


def test_codebooks_in_use_are_drawn_by_the_shares(model: str) -> None:
    config = QuantizerConfig(unquantized_ratio=0.2, default_ratio=0.5)
    stage = joint(model, quantizer=config)
    every = stage.tokenizer.config.num_quantizers
    torch.manual_seed(0)
    n_q = stage._draw_n_q(40_000)
    assert n_q[0] == every
    assert (n_q == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    others = n_q[n_q > 0]
    # some of those that draw draw the default number, too
    expected = 0.5 + 0.5 / every
    assert (others == stage.tokenizer.n_q).float().mean() == pytest.approx(expected, abs=0.02)
    assert sorted(others.unique().tolist()) == [*range(1, every + 1)]


def test_readers_see_the_first_codebook_alone(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = joint(model, READERS).eval()
    seen: list[Tensor] = []
    zero = torch.zeros((), requires_grad=True)

    class Scored(NamedTuple):
        loss: Tensor = zero
        accuracy: Tensor = zero
        frames: int = 1

    def note(vectors: Tensor, *_: Any) -> Any:
        seen.append(vectors)
        return zero

    logged(stage, monkeypatch)
    monkeypatch.setattr(stage, "_log_mean", lambda *_: None)
    assert stage.phone_classifier is not None
    monkeypatch.setattr(stage.phone_classifier, "score", lambda *args: Scored(note(*args)))
    for reader in (stage.character_reader, stage.semantic_reader):
        assert reader is not None
        monkeypatch.setattr(reader, "loss", note)
    wav = 0.1 * torch.randn(2, 14_400)
    lengths = torch.tensor([14_400, 14_400])
    batch = Batch(wav, lengths, ["a", "b"], ["a", "b"], torch.zeros(2, 16, dtype=torch.int64))
    with torch.no_grad():
        latents, frames = stage.encode_mel(batch)
        first = stage.quantizer(latents, frames, torch.ones(2, dtype=torch.int64)).first
        coded = stage.quantizer(latents, frames, torch.full((2,), stage.tokenizer.n_q))
        assert not torch.allclose(coded.first, coded.quantized)
        monkeypatch.setattr(stage, "encode_mel", lambda _: (latents, frames))
        monkeypatch.setattr(stage.quantizer, "forward", lambda *_: coded)
        stage.losses(batch)
        assert len(seen) == 3
        for vectors in seen:
            assert torch.equal(vectors, coded.first)
        assert torch.allclose(first, coded.first)
        seen.clear()
        stage._validate_first_codebook(latents, frames, batch)
        quantizer = stage.export_tokenizer().encoder.quantizer
        expected = quantizer.codebooks()[0].embed[quantizer.encode(latents, 1)[:, 0]]
        assert len(seen) == 3
        for vectors in seen:
            assert torch.equal(vectors, expected)


def test_discriminators_learn_to_tell_real_from_decoded(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = adversarial(model)
    judge = stage.discriminators
    assert isinstance(judge, Scale)
    logged(stage, monkeypatch)

    class Optimizer:
        def __init__(self) -> None:
            self.optimizer = torch.optim.SGD(judge.parameters(), lr=0.1)

        def zero_grad(self) -> None:
            judge.zero_grad()

    monkeypatch.setattr(stage, "_optimizers", lambda: [None, Optimizer()])
    monkeypatch.setattr(stage, "manual_backward", lambda loss: loss.backward())
    real, fake = torch.full((1, 960), 0.5), torch.full((1, 960), -0.5)
    stage._train_discriminators(real, fake, Valid(torch.tensor([1]), 1))
    # a larger factor tells these apart better
    assert judge.scale > 1
    assert torch.equal(judge.heard[0], real)


def test_the_generator_is_led_towards_what_is_judged_real(model: str) -> None:
    stage = adversarial(model)
    wav = torch.zeros(1, 960, requires_grad=True)
    losses = stage._judged_losses(torch.ones(1, 960), wav, Valid(torch.tensor([1]), 1))
    losses["adversarial"].backward()
    assert wav.grad is not None
    assert bool((wav.grad < 0).all())


def test_padding_is_not_judged(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = adversarial(model)
    monkeypatch.setattr(stage, "begin_step", lambda _: None)
    seen: list[Valid] = []
    monkeypatch.setattr(stage, "_train_discriminators", lambda *args: seen.append(args[2]))
    monkeypatch.setattr(stage, "_train_generator", lambda *args: seen.append(args[2]))
    batch = Batch(0.1 * torch.randn(2, 14_400), torch.tensor([14_400, 4800]), [None, None], ["a", "b"], None)
    stage.training_step(batch, 0)
    frames = stage.tokenizer.num_frames(batch.lengths).clamp(max=stage.segment_frames)
    for valid in seen:
        assert torch.equal(valid.mask(stage.segment_frames).sum(1), frames)
    assert len(seen) == 2


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_generator_decodes_the_codebooks_that_were_drawn(model: str, ratio: float) -> None:
    stage = adversarial(model, default_ratio=ratio)
    batch = Batch(0.1 * torch.randn(64, 9600), torch.full((64,), 9600), [None] * 64, ["a"] * 64, None)
    tokenizer = stage.tokenizer
    every = tokenizer.config.num_quantizers
    latents, _ = stage.encode_mel(batch)
    codes = tokenizer.encoder.quantizer.encode(latents, every)
    sums = [tokenizer.encoder.quantizer.decode(codes[:, :n]) for n in range(1, every + 1)]
    segment = stage._segment(batch)
    # whole clips: what was decoded is the sum of the first so many entries, for one number or another
    drawn = [
        [n + 1 for n in range(every) if torch.allclose(segment.latents[row], sums[n][row, : segment.latents.shape[1]])]
        for row in range(64)
    ]
    assert all(len(numbers) == 1 for numbers in drawn)
    counts = {numbers[0] for numbers in drawn}
    assert counts == ({tokenizer.n_q} if ratio else {*range(1, every + 1)})


def test_a_frozen_model_stays_and_what_reads_it_learns(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: dict[str, float | None] = {"mel": None, "phone": 1.0, "characters": 1.0}
    stage = joint(model, weights, frozen=True)
    logged(stage, monkeypatch)
    seen: list[Tensor] = []
    assert stage.phone_classifier is not None
    stage.phone_classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    before = {name: value.clone() for name, value in stage.tokenizer.state_dict().items()}
    wav = 0.1 * torch.randn(2, 14_400)
    frames = stage.tokenizer.num_frames(14_400)
    batch = Batch(wav, torch.tensor([14_400] * 2), ["a", "b"], ["a", "b"], torch.zeros(2, frames, dtype=torch.int64))
    optimizer = stage.configure_optimizers()["optimizer"]
    for _ in range(2):
        losses = stage.losses(batch)
        assert losses.keys() == {"phone", "characters"}
        stage.total(losses).backward()
        optimizer.step()
    state = stage.state_dict()
    assert all(torch.equal(value, state[f"tokenizer.{name}"]) for name, value in before.items())
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    readers = [stage.phone_classifier, stage.character_reader]
    assert set(map(id, trained)) == {id(p) for reader in readers if reader is not None for p in reader.parameters()}
    assert all(parameter.grad is not None for parameter in trained)
    first = stage.tokenizer.dequantize(stage.tokenizer.encode(wav, n_q=1))
    assert all(torch.allclose(vectors.reshape(first.shape), first) for vectors in seen)


def test_a_frozen_model_has_no_losses_of_its_own(model: str) -> None:
    with pytest.raises(ValueError, match="frozen: mel, commitment would train nothing; set the weights"):
        joint(model, frozen=True)
