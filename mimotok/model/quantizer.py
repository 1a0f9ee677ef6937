"""Residual vector quantization: plain codebooks and a residual search.

Training replaces the search by `train.stages.quantizer`, on these same codebooks.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.io.terminal.streams import shortened
from mimotok.model.precision import KeepsFloat32


class Codebook(KeepsFloat32, nn.Module):
    """One table `embed` [C, D] with its moving averages, all fp32 whatever the model's dtype is.

    In half precision the nearest entry would often be another one.
    """

    embed: Tensor
    embed_avg: Tensor
    cluster_size: Tensor
    inited: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        zeros = partial(torch.zeros, dtype=torch.float32)
        self.register_buffer("embed", zeros(size, dim))
        self.register_buffer("embed_avg", zeros(size, dim))
        self.register_buffer("cluster_size", zeros(size))
        self.register_buffer("inited", zeros(1))

    def nearest(self, residual: Tensor) -> Tensor:
        """residual: [N, D] -> codes [N], the entry at the smallest Euclidean distance."""
        # |r - e|^2 without |r|^2, which is the same for every entry
        distance = torch.addmm(self.embed.square().sum(1), residual, self.embed.T, alpha=-2)
        return distance.argmin(dim=1)


class ResidualQuantizer(nn.Module):
    """Each codebook quantizes what the ones before it left over (Zeghidour et al., 2021, algorithm 1)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if config.quantizer_settings:
            raise ValueError(f"quantizer_settings={shortened(config.quantizer_settings)}: residual_vq takes none")
        self.layers = nn.ModuleList(Codebook(size, config.d_model) for size in config.codebook_sizes)

    def codebooks(self) -> list[Codebook]:
        """Return the codebooks in order, typed."""
        return [cast(Codebook, layer) for layer in self.layers]

    def encode(self, latents: Tensor, n_q: int) -> Tensor:
        """latents: [B, F, D]. Returns codes int64 [B, n_q, F]; the search is in fp32."""
        batch, frames, dim = latents.shape
        residual = latents.float().reshape(-1, dim)
        codes = []
        for codebook in self.codebooks()[:n_q]:
            code = codebook.nearest(residual)
            residual = residual - codebook.embed[code]
            codes.append(code.view(batch, frames))
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: int64 [B, n, F], n up to all codebooks. Returns the sum of their entries, [B, F, D] in fp32.

        A code below 0 is left out of the sum.
        """
        entries = [
            codebook.embed[code.clamp(min=0)] * (code >= 0)[..., None]
            for codebook, code in zip(self.codebooks(), codes.unbind(1), strict=False)
        ]
        return cast(Tensor, sum(entries))
