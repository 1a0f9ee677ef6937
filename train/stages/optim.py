"""Muon for the hidden matrices, AdamW for everything else, in one optimizer; and the learning-rate schedule."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

# Coefficients of odd polynomials of degree five, applied one after the other (Amsel et al., 2025, "The Polar Express").
# Each brings the singular values that the ones before leave as near to 1 as it can, from [0.01, 1] on: three of them
# end within 0.27 of 1, as the five equal ones of Jordan et al. (2024, "Muon") do, at three fifths of the cost.
POLAR_STEPS = ((8.0934, -23.6205, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


# what a config says of a group of parameters; lr is what the schedule makes of initial_lr
SETTINGS = ("initial_lr", "betas", "momentum", "weight_decay", "eps")


@dataclass(frozen=True)
class OptimizerConfig:
    """lr: shared by Muon and AdamW; muon: False trains every parameter by AdamW.

    max_steps counts optimiser steps and shapes the schedule: warm-up, constant, linear decay over decay_fraction.
    gradient_clip: largest global norm; average_decay: of the moving average of the weights.
    max_skipped: abort after so many steps in a row without a finite gradient.
    """

    lr: float = 2e-3
    muon: bool = True
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 200
    max_steps: int = 10000
    decay_fraction: float = 0.3
    gradient_clip: float = 1.0
    average_decay: float = 0.999
    max_skipped: int = 20


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Group for `MuonAdamW`: block matrices to Muon; other matrices and kernels to AdamW; vectors without decay."""
    muon: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.muon and parameter.dim() == 2 and ".layers." in f".{name}":
            muon.append(parameter)
        else:
            (decayed if parameter.dim() >= 2 else plain).append(parameter)
    groups = [
        {"params": muon, "muon": True, "weight_decay": config.weight_decay},
        {"params": decayed, "muon": False, "weight_decay": config.weight_decay},
        {"params": plain, "muon": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `muon: True` take orthogonalised momentum, scaled to AdamW's update size so that both share one
    learning rate (Liu et al., 2025, "Muon is scalable for LLM training": 0.2 sqrt(max(rows, columns))); the others
    take AdamW (Loshchilov and Hutter, 2019).

    lr: shared; betas: AdamW's; momentum: Muon's, Nesterov.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "eps": eps,
            "muon": False,
        }
        super().__init__(params, defaults)

    def state_bytes(self) -> int:
        """Count the bytes of its state once every parameter has had a step: one moment of Muon's, two of AdamW's."""
        return sum(
            (1 if group["muon"] else 2) * parameter.numel() * parameter.element_size()
            for group in self.param_groups
            for parameter in group["params"]
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update once, as torch.optim.Optimizer.step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (self._muon_step if group["muon"] else self._adamw_step)(group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the averages of a state; learning rate, betas and weight decay stay the config's.

        A run may go on with others (`--resume`). Where the schedule was, the state's learning rate tells.
        """
        own = [{name: group[name] for name in SETTINGS if name in group} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, settings in zip(self.param_groups, own, strict=True):
            if group.get("initial_lr") and "initial_lr" in settings:
                group["lr"] *= settings["initial_lr"] / group["initial_lr"]
            group.update(settings)

    def _adamw_step(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        grads = [p.grad for p in params]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"mean": torch.zeros_like(p), "square": torch.zeros_like(p), "steps": 0}
            self.state[p]["steps"] += 1
        means = [self.state[p]["mean"] for p in params]
        squares = [self.state[p]["square"] for p in params]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for p, mean, square in zip(params, means, squares, strict=True):
            steps = self.state[p]["steps"]
            scale = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
            p.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**steps))

    def _muon_step(self, group: dict[str, Any]) -> None:
        by_shape = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                by_shape[tuple(p.shape)].append(p)
        for shape, params in by_shape.items():
            updates = orthogonalise(torch.stack([self._nesterov(p, group["momentum"]) for p in params]))
            scale = 0.2 * math.sqrt(max(shape))
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, list(updates.to(params[0].dtype).unbind(0)), alpha=-group["lr"] * scale)

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        assert p.grad is not None
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    """A learning rate's schedule whose height stays the config's where a state is loaded."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the step of a state."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "base_lrs"})


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return about the nearest semi-orthogonal matrices to `matrices`, [N, R, C], by `POLAR_STEPS`.

    The iteration tolerates bf16, which is fast where the device multiplies in it; a CPU that does not would take a
    hundred times as long in bf16 as in float32.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(_iteration_dtype(matrices.device))
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in POLAR_STEPS:
        gram = x @ x.mT
        # a x + (b G + c G G) x, in whose sums the products end: by themselves they would be a seventh of the time
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _iteration_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return torch.bfloat16


def warmup_stable_decay(step: int, *, warmup_steps: int, max_steps: int, decay_fraction: float) -> float:
    """Return the learning rate's factor: linear warm-up, constant, then linear to 0 over the last `decay_fraction`."""
    decay_steps = max(1, round(decay_fraction * max_steps))
    return max(0.0, min(1.0, (step + 1) / max(1, warmup_steps), (max_steps - step) / decay_steps))


def make_optimizer(modules: Sequence[nn.Module], config: OptimizerConfig) -> dict[str, Any]:
    """Make the optimizer and its per-step schedule, as Lightning takes them."""
    return optimize_groups([group for module in modules for group in parameter_groups(module, config)], config)


def optimize_groups(groups: list[dict[str, Any]], config: OptimizerConfig) -> dict[str, Any]:
    """Make what `make_optimizer` does of parameter groups; one with its own lr keeps that in place of the config's."""
    optimizer = MuonAdamW(groups, config.lr, betas=config.betas)
    factor = partial(
        warmup_stable_decay,
        warmup_steps=config.warmup_steps,
        max_steps=config.max_steps,
        decay_fraction=config.decay_fraction,
    )
    schedule = Schedule(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class DivergedError(RuntimeError):
    """Too many steps in a row went wrong: training cannot go on."""


class SkipCounter:
    """Steps whose gradient was not finite: in a row, and in all of this run."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_a_row = 0
        self.total = 0

    def finite(self, norm: Tensor) -> bool:
        """Return whether to take the step. Raises DivergedError after more than `limit` refusals in a row."""
        if bool(torch.isfinite(norm)):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.total += 1
        if self.in_a_row > self.limit:
            raise DivergedError(
                f"{self.in_a_row} steps in a row without a finite gradient: the last checkpoint is the last good one"
            )
        return False


def clip_gradients(module: nn.Module, limit: float, skips: SkipCounter) -> Tensor:
    """Clip the global norm and return it; a gradient that is not finite is dropped, and the step with it."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), limit)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if not skips.finite(norm):
        for parameter in module.parameters():
            parameter.grad = None
    return norm
