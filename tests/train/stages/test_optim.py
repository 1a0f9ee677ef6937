"""The optimizer, its schedule, and what happens to steps that went wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok import Tokenizer
from train.stages.optim import (
    POLAR_STEPS,
    MuonAdamW,
    OptimizerConfig,
    SkipCounter,
    clip_gradients,
    make_optimizer,
    orthogonalise,
    parameter_groups,
    warmup_stable_decay,
)
from train.stages.usage import CodeUsage, perplexity


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 8, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    # some matrices are so near to a singular one that these few steps do not reach it
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(1))).float())
    assert values.min() > 0.3
    assert values.max() < 1.5


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 8, 8)])
def test_orthogonalising_follows_the_formula(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape)
    for matrix, found in zip(matrices, orthogonalise(matrices), strict=True):
        tall = shape[1] > shape[2]
        x = (matrix.mT if tall else matrix).double()
        x = x / x.norm()
        for a, b, c in POLAR_STEPS:
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        # the iteration is in bf16 where a CPU multiplies in it
        tolerance = 1e-4 if found.dtype == torch.float32 else 0.1
        torch.testing.assert_close(found.double(), x.mT if tall else x, atol=tolerance, rtol=tolerance)


def test_groups(tiny: Callable[..., Tokenizer]) -> None:
    """Every parameter once; block matrices to Muon, and nothing else; vectors without decay."""
    model = tiny()
    model.encoder.conv1.requires_grad_(False)
    groups = parameter_groups(model, OptimizerConfig())
    assert sum(len(g["params"]) for g in groups) == len([p for p in model.parameters() if p.requires_grad])
    muon, decayed, plain = (set(map(id, g["params"])) for g in groups)
    assert [g["muon"] for g in groups] == [True, False, False]
    assert [g["weight_decay"] > 0 for g in groups] == [True, True, False]
    assert id(model.encoder.layers[0].fc1.weight) in muon
    assert id(model.decoder.vocoder.layers[0].self_attn.q_proj.weight) in muon
    assert id(model.decoder.vocoder.head.out.weight) in decayed
    assert id(model.encoder.conv2.weight) in decayed
    assert id(model.encoder.layers[0].fc1.bias) in plain
    assert len(parameter_groups(model, OptimizerConfig(muon=False))) == 2


class Regression(nn.Module):
    """A two-layer network whose hidden matrix goes to Muon."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16, 32), nn.Linear(32, 16)])

    def loss(self, step: int) -> torch.Tensor:
        x = torch.randn(64, 16, generator=torch.Generator().manual_seed(step))
        return (self.layers[1](self.layers[0](x).relu()) - x.flip(1)).square().mean()


def steps(model: Regression, optimizer: MuonAdamW, numbers: range) -> float:
    for number in numbers:
        optimizer.zero_grad()
        loss = model.loss(number)
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.slow
def test_training_and_going_on() -> None:
    model = Regression()
    optimizer = MuonAdamW(parameter_groups(model, OptimizerConfig()), 1e-2)
    first = model.loss(0).item()
    steps(model, optimizer, range(100))
    other = copy.deepcopy(model)
    resumed = MuonAdamW(parameter_groups(other, OptimizerConfig()), 1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    last = steps(model, optimizer, range(100, 300))
    assert steps(other, resumed, range(100, 300)) == last
    assert last < 0.1 * first


def test_adamw_part_equals_torch() -> None:
    ours, theirs = Regression(), Regression()
    config = OptimizerConfig(muon=False, weight_decay=0.1)
    first = MuonAdamW(parameter_groups(ours, config), 1e-2, betas=(0.9, 0.95))
    plain = [{k: v for k, v in g.items() if k != "muon"} for g in parameter_groups(theirs, config)]
    second = torch.optim.AdamW(plain, 1e-2, betas=(0.9, 0.95))
    steps(ours, first, range(20))
    steps(theirs, second, range(20))  # type: ignore[arg-type]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_schedule() -> None:
    factors = [warmup_stable_decay(s, warmup_steps=10, max_steps=100, decay_fraction=0.4) for s in range(101)]
    assert factors[0] == 0.1
    assert factors[9:61] == [1.0] * 52
    assert factors[80] == 0.5
    assert factors[100] == 0.0


def test_steps_that_went_wrong_are_dropped_and_end_the_run_in_the_end() -> None:
    model, skips = Regression(), SkipCounter(limit=2)
    optimizer = MuonAdamW(parameter_groups(model, OptimizerConfig()), 1e-2)
    before = copy.deepcopy(model.state_dict())
    for attempt in range(3):
        optimizer.zero_grad()
        (model.loss(0) * float("nan")).backward()
        if attempt == 2:
            with pytest.raises(RuntimeError, match="3 steps in a row without a finite gradient"):
                clip_gradients(model, 1.0, skips)
            break
        clip_gradients(model, 1.0, skips)
        optimizer.step()
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    good = SkipCounter(limit=2)
    for scale in (float("inf"), 1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        (model.loss(0) * scale).backward()
        clip_gradients(model, 0.5, good)
    assert good.in_a_row == 0
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norm <= 0.5 + 1e-4


def test_code_usage() -> None:
    usage = CodeUsage((4, 2))
    codes = torch.tensor([[[0, 1, 2, 3], [0, 0, 0, 1]]])
    usage.update(codes, torch.tensor([3]))
    (used, even), (half, one) = usage.summary()
    assert (used, half) == (0.75, 0.5)
    assert even == pytest.approx(3.0)
    assert one == pytest.approx(1.0)
    assert perplexity(torch.tensor([5, 5, 0])) == pytest.approx(2.0)


@pytest.mark.parametrize("lr", [2e-3, 5e-4])
def test_a_resumed_optimizer_has_the_configs_settings_and_the_states_averages(lr: float) -> None:
    """Where nothing changed it goes on as if uninterrupted; another learning rate holds, at the schedule's step."""

    def begin(**settings: Any) -> tuple[nn.Linear, Any, Any]:
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        made = make_optimizer([model], OptimizerConfig(warmup_steps=4, max_steps=20, muon=False, **settings))
        return model, made["optimizer"], made["lr_scheduler"]["scheduler"]

    def steps(model: nn.Linear, optimizer: Any, schedule: Any, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.zero_grad()
            model(torch.full((1, 4), float(step))).square().sum().backward()
            optimizer.step()
            schedule.step()

    whole = begin(lr=2e-3)
    steps(*whole, 0, 3)
    kept = [copy.deepcopy(part.state_dict()) for part in whole]
    resumed = begin(lr=lr, weight_decay=0.1 if lr != 2e-3 else 0.01)
    for part, state in zip(resumed, kept, strict=True):
        part.load_state_dict(state)
    groups = resumed[1].param_groups
    assert [group["lr"] for group in groups] == [lr] * len(groups), "the warm-up's last step"
    assert groups[0]["weight_decay"] == (0.1 if lr != 2e-3 else 0.01)
    steps(*resumed, 3, 18)
    steps(*whole, 3, 18)
    for group, other in zip(groups, whole[1].param_groups, strict=True):
        assert group["lr"] / lr == pytest.approx(other["lr"] / 2e-3)
    assert torch.equal(resumed[0].weight, whole[0].weight) == (lr == 2e-3)


@pytest.mark.parametrize("shape", [(4, 16), (16, 4)])
def test_steps_of_muon_follow_the_formula(shape: tuple[int, int]) -> None:
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    settings = {"muon": True, "weight_decay": 0.1}
    optimizer = MuonAdamW([{"params": [weight], **settings}], lr=0.02, momentum=0.9)
    expected, moment = weight.detach().double(), torch.zeros(shape, dtype=torch.float64)
    for seed in (1, 2, 3):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        weight.grad = gradient.clone()
        optimizer.step()
        moment = 0.9 * moment + 0.1 * gradient.double()
        ahead = 0.1 * gradient.double() + 0.9 * moment
        update = orthogonalise(ahead[None].float())[0].double()
        expected = (1 - 0.02 * 0.1) * expected - 0.02 * 0.2 * max(shape) ** 0.5 * update
        torch.testing.assert_close(weight.detach().double(), expected, atol=1e-4, rtol=1e-3)
