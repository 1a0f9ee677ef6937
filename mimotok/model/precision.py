"""Layers that stay in float32 whatever the model's dtype is, because rounding them changes codes.

`python -m bench.bf16_codes` says how many codes each part of the encoder costs in bf16, and what it would gain.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object


class KeepsFloat32(_Base):
    """A module in float32, which `.to(dtype)`, `.half()` and the like move, and do not convert."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build the module as its other base does, in float32 under any default dtype, which transformers changes."""
        super().__init__(*args, **kwargs)
        for tensor in [*self.parameters(), *self.buffers()]:
            tensor.data = tensor.data.float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def move_only(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move_only, recurse)


class ComputesFloat32(KeepsFloat32):
    """A layer that computes in float32, too, under autocast as well."""

    def forward(self, x: Tensor) -> Tensor:
        """x: as the layer's other base takes it, of any floating dtype."""
        if x.dtype == torch.float32 and not autocasts(x):
            return super().forward(x)
        with full_precision(x):
            return super().forward(x.float())


class ExactConv1d(ComputesFloat32, nn.Conv1d):
    """nn.Conv1d in float32."""


class ExactLayerNorm(ComputesFloat32, nn.LayerNorm):
    """nn.LayerNorm in float32."""


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off for x's device."""
    # of the meta device torch knows no autocast
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def autocasts(x: Tensor) -> bool:
    """Return whether autocast is on for x's device."""
    # of the meta device, on which operations are counted, torch knows no autocast
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def float32_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters and buffers that stay in float32."""
    kept = ((name, module) for name, module in model.named_modules() if isinstance(module, KeepsFloat32))
    return {f"{name}.{key}" for name, module in kept for key in module.state_dict()}
