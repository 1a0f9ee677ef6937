"""Finite scalar quantization: a few numbers a frame, each rounded to one of a few levels, in place of tables.

Mentzer et al., 2024, "Finite Scalar Quantization: VQ-VAE Made Simple".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn

from mimotok.config import MAX_CODEBOOK_SIZE, TokenizerConfig
from mimotok.io.terminal.streams import shortened
from mimotok.model.precision import KeepsFloat32, full_precision

MAX_NUMBERS = 16  # of a frame's numbers in one codebook
# Keeps the outermost level's inverse finite, as published.
MARGIN = 1e-3


class FiniteScalarQuantizer(KeepsFloat32, nn.Module):
    """A linear layer to len(levels) numbers for each codebook, rounding of each, and a linear layer back.

    Codebooks are independent of each other: each rounds numbers of its own. `quantizer_settings` of the configuration
    are `levels`, how many values each number of a codebook takes; their product is the size of every codebook.

    Raises:
        ValueError: for other settings, levels that make no codebook, and sizes that are not those of the levels.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.levels = _checked_levels(config.quantizer_settings)
        size = math.prod(self.levels)
        if any(given != size for given in config.codebook_sizes):
            raise ValueError(
                f"codebook_size={shortened(config.codebook_sizes)}: the levels {list(self.levels)} make {size} entries "
                f"of every codebook: give {size}"
            )
        numbers = len(self.levels) * config.num_quantizers
        self.project_in = nn.Linear(config.d_model, numbers, dtype=torch.float32)
        self.project_out = nn.Linear(numbers, config.d_model, dtype=torch.float32)

    def encode(self, latents: Tensor, n_q: int) -> Tensor:
        """latents: [B, F, D]. Returns codes int64 [B, n_q, F]."""
        with full_precision(latents):
            numbers = self.project_in(latents.float()).unflatten(-1, (-1, len(self.levels)))[:, :, :n_q]
        half = (self._levels(latents) - 1) * (1 + MARGIN) / 2
        # an even number of levels has none in the middle
        offset = 0.5 * (self._levels(latents) % 2 == 0)
        whole = (torch.tanh(numbers + torch.atanh(offset / half)) * half - offset).round()
        digits = whole.long() + self._levels(latents) // 2
        return (digits * self._place_values(latents)).sum(-1).transpose(1, 2)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: int64 [B, n, F], n up to all codebooks. Returns [B, F, D] in fp32.

        The numbers of a code below 0, and of codebooks that are not given, are 0.
        """
        places = codes.transpose(1, 2)[..., None]
        digits = torch.div(places.clamp(min=0), self._place_values(codes), rounding_mode="floor") % self._levels(codes)
        half = self._levels(codes) // 2
        numbers = ((digits - half) / half * (places >= 0)).flatten(2)
        weight = self.project_out.weight[:, : numbers.shape[-1]]
        with full_precision(codes):
            return nn.functional.linear(numbers.to(weight.dtype), weight, self.project_out.bias)

    def _levels(self, like: Tensor) -> Tensor:
        return torch.tensor(self.levels, device=like.device)

    def _place_values(self, like: Tensor) -> Tensor:
        """Return what a step of each number adds to a code: the first number counts ones."""
        return torch.tensor([1, *accumulate(self.levels[:-1], mul)], device=like.device)


def _checked_levels(settings: dict[str, Any]) -> tuple[int, ...]:
    levels = settings.get("levels")
    if set(settings) != {"levels"} or not isinstance(levels, Sequence):
        raise ValueError(f"quantizer_settings={shortened(settings)}: fsq takes levels, such as [8, 5, 5, 5]")
    whole = all(isinstance(level, int) and not isinstance(level, bool) and level >= 3 for level in levels)
    if not whole or not 1 <= len(levels) <= MAX_NUMBERS or math.prod(levels) > MAX_CODEBOOK_SIZE:
        raise ValueError(
            f"levels={shortened(levels)}: give 1 to {MAX_NUMBERS} whole numbers of at least 3 whose product is at most "
            f"{MAX_CODEBOOK_SIZE}"
        )
    return tuple(levels)
