"""The state of a stream: what the layers keep between steps.

A step costs the same however long the stream has been running.

Each layer has a `step` beside its `forward`. A step takes the next frames of B streams at once and returns as many
frames, a fixed number of frames later. A mask says which frames are valid: frames before a stream's first one, and
those that are pushed after its last one to bring out what is still inside, are not, and every layer masks them out.
All buffers have a constant size and start as zeros, which is the state of a stream that nothing has entered.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class StreamState:
    """The buffers of B streams by name, each [B, ...]; they can be copied, saved and restored."""

    def __init__(self, tensors: dict[str, Tensor] | None = None, prefix: str = "") -> None:
        self._tensors: dict[str, Tensor] = {} if tensors is None else tensors
        self._prefix = prefix

    def scope(self, name: str) -> StreamState:
        """Return a view of the same buffers in which every name begins with `name`."""
        return StreamState(self._tensors, f"{self._prefix}{name}.")

    def extend(self, name: str, size: int, new: Tensor) -> Tensor:
        """new: [B, n, ...].

        Returns the last `size` frames and the new ones, [B, size + n, ...]; keeps the last `size`.
        """
        key = self._prefix + name
        if key not in self._tensors:
            self._tensors[key] = new.new_zeros(new.shape[0], size, *new.shape[2:])
        joined = torch.cat((self._tensors[key], new), dim=1)
        self._tensors[key] = joined[:, joined.shape[1] - size :].clone()
        return joined

    def delay(self, name: str, frames: int, new: Tensor) -> Tensor:
        """new: [B, n, ...]. Returns the frames of `frames` ago, [B, n, ...]."""
        if frames == 0:
            return new
        return self.extend(name, frames, new)[:, : new.shape[1]]

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of all buffers."""
        return {name: tensor.clone() for name, tensor in self._tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all buffers by copies of `tensors`, as `tensors()` returned them."""
        self._tensors.clear()
        self._tensors.update((name, tensor.clone()) for name, tensor in tensors.items())

    def reset(self, items: Tensor) -> None:
        """Make items of the batch ready for new streams; what is still inside them is lost. items: bool [B]."""
        for name, tensor in self._tensors.items():
            # a new one: a tensor of inference mode cannot be written outside of it
            self._tensors[name] = tensor.masked_fill(items.view(-1, *(1,) * (tensor.dim() - 1)), 0)
