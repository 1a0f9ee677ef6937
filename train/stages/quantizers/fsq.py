"""Finite scalar quantization in training: the two linear layers learn, rounding passes gradients straight through."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ

from mimotok.model.fsq import FiniteScalarQuantizer
from mimotok.model.lengths import valid_mask
from train.stages.quantizer import Quantized


class FsqTraining(nn.Module):
    """Trains a `FiniteScalarQuantizer` by the library's FSQ.

    The commitment loss is the mean squared distance of latents and quantized vectors. It trains both linear layers, so
    that the decoder can be given latents that are not quantized, too.
    """

    def __init__(self, source: nn.Module) -> None:
        """Copy the layers of `source`. Raises ValueError where it is another kind of quantizer."""
        super().__init__()
        if not isinstance(source, FiniteScalarQuantizer):
            raise ValueError(f"FsqTraining trains quantizers of the kind fsq, this one is a {type(source).__name__}")
        self.codebooks = source.project_in.out_features // len(source.levels)
        self.project_in = copy.deepcopy(source.project_in).requires_grad_(True)
        self.project_out = copy.deepcopy(source.project_out).requires_grad_(True)
        self.rounding = FSQ(list(source.levels), num_codebooks=self.codebooks, keep_num_codebooks_dim=True)

    def forward(self, latents: Tensor, lengths: Tensor, n_q: Tensor) -> Quantized:
        """Quantize latents [B, F, D] with lengths [B] frames by n_q [B] codebooks, 0 for none."""
        with torch.autocast(latents.device.type, enabled=False):
            return self._forward(latents.float(), valid_mask(lengths, latents.shape[1]), n_q)

    def _forward(self, latents: Tensor, valid: Tensor, n_q: Tensor) -> Quantized:
        finite = latents.isfinite().all(-1)
        valid = valid & finite
        latents = torch.where(finite[..., None], latents, 0.0)
        numbers, codes = self.rounding(self.project_in(latents))
        parts = numbers.unflatten(-1, (self.codebooks, -1))
        order = torch.arange(self.codebooks, device=n_q.device)
        chosen = (order < n_q[:, None])[:, None]  # [B, 1, n_q]
        quantized = self.project_out((parts * chosen[..., None]).flatten(2))
        first = self.project_out((parts * (order < 1)[:, None]).flatten(2))
        in_use = valid & (n_q > 0)[:, None]
        error = (latents - quantized).square().mean(-1) * in_use
        return Quantized(
            torch.where((n_q > 0)[:, None, None], quantized, latents),
            torch.where(valid[..., None] & chosen, codes.long(), -1).mT,
            error.sum() / in_use.sum().clamp(min=1),
            first,
        )

    def synchronise(self) -> None:
        """Do nothing: all that is learned gets gradients, which are the same on every rank."""

    @torch.no_grad()
    def write_back(self, target: Any) -> None:
        """Copy the layers into the model's own."""
        target.project_in.load_state_dict(self.project_in.state_dict())
        target.project_out.load_state_dict(self.project_out.state_dict())
