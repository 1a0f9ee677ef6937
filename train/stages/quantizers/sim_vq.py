"""Residual SimVQ: the entries of a codebook are one linear layer's view of fixed random vectors, and move together.

Zhu et al., 2024, "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer". What it learns
are tables, so the model stays a `residual_vq` one and inference needs nothing new.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import SimVQ

from mimotok.model.quantizer import ResidualQuantizer
from train.stages.quantizer import Found, Quantized, quantize_in_turn


class SimVqTraining(nn.Module):
    """Trains a `ResidualQuantizer` by gradients, without moving averages and without dead codes to revive.

    It takes the nearest entry of each codebook in turn. A beam or a weighting of the model counts when it is used.
    """

    def __init__(self, source: nn.Module, *, commitment: float = 0.25) -> None:
        """Build the layers, from the tables of `source` where these are trained.

        Args:
            source: the model's quantizer.
            commitment: weight of the latents' distance to their entries beside the entries' distance to the latents.

        Raises:
            ValueError: where `source` is another kind of quantizer.
        """
        super().__init__()
        if not isinstance(source, ResidualQuantizer):
            raise ValueError(f"SimVqTraining trains quantizers of the kind residual_vq, not a {type(source).__name__}")
        self.layers = nn.ModuleList()
        for book in source.codebooks():
            size, dim = book.embed.shape
            layer = SimVQ(dim, size, rotation_trick=False, input_to_quantize_commit_loss_weight=commitment)
            if bool(book.inited.any()):
                layer.frozen_codebook.copy_(book.embed)
                nn.init.eye_(layer.code_transform.weight)
            self.layers.append(layer)

    def forward(self, latents: Tensor, lengths: Tensor, n_q: Tensor) -> Quantized:
        """Quantize latents [B, F, D] with lengths [B] frames by n_q [B] codebooks, 0 for none."""
        return quantize_in_turn(latents, lengths, n_q, len(self.layers), self._first_entries, self._search)

    @torch.no_grad()
    def _first_entries(self, latents: Tensor) -> Tensor:
        entries = self._layer(0).codebook
        return entries[torch.cdist(latents, entries).argmin(-1)]

    def _search(self, index: int, residual: Tensor, in_use: Tensor) -> Found:
        # the library's loss is a mean over all that it is given
        _, code, loss = self._layer(index)(residual[in_use][None])
        entries = torch.zeros_like(residual)
        entries[in_use] = self._layer(index).codebook.detach()[code[0]]
        codes = torch.full(in_use.shape, -1, device=code.device).masked_scatter(in_use, code[0])
        return Found(entries, codes, loss)

    def _layer(self, index: int) -> SimVQ:
        return cast(SimVQ, self.layers[index])

    def synchronise(self) -> None:
        """Do nothing: all that is learned gets gradients, which are the same on every rank."""

    @torch.no_grad()
    def write_back(self, target: Any) -> None:
        """Copy the entries into the model's tables."""
        for index, book in enumerate(target.codebooks()):
            book.embed.copy_(self._layer(index).codebook)
            book.embed_avg.copy_(book.embed)
            book.cluster_size.fill_(1)
            book.inited.fill_(1)
