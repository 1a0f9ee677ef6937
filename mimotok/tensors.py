"""The first check of what callers hand over: that it is a tensor at all, where arrays and lists look much alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_tensor(value: Any, name: str) -> None:
    """Raise ValueError where `value`, called `name`, is no tensor."""
    if isinstance(value, Tensor):
        return
    kind = type(value)
    remedy = f"torch.from_numpy({name})" if kind.__module__ == "numpy" else f"torch.tensor({name})"
    raise ValueError(f"{name} is of type {kind.__name__}: give a tensor, {remedy}")
