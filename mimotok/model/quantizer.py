"""Residual vector quantization: plain codebooks and a residual search.

Training replaces the search by `train.stages.quantizer`, on these same codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.io.terminal.streams import shortened
from mimotok.model.linear import full_precision
from mimotok.model.precision import KeepsFloat32

MAX_BEAM = 64
# latents that a CPU searches at once: the distances of all candidates to all entries are to fit its caches
PIECE = 256


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


class ResidualQuantizer(nn.Module):
    """Each codebook quantizes what the ones before it left over (Zeghidour et al., 2021, algorithm 1).

    `quantizer_settings` of the configuration may hold `beam`, 1 where they do not: how many candidates `search_codes`
    keeps over the default number of codebooks.

    Raises:
        ValueError: for other settings, and for a beam out of range.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.beam = _checked_beam(config.quantizer_settings)
        self.depth = config.n_q
        self.layers = nn.ModuleList(Codebook(size, config.d_model) for size in config.codebook_sizes)

    def codebooks(self) -> list[Codebook]:
        """Return the codebooks in order, typed."""
        return [cast(Codebook, layer) for layer in self.layers]

    def encode(self, latents: Tensor, n_q: int) -> Tensor:
        """latents: [B, F, D]. Returns codes int64 [B, n_q, F]; the search is in fp32."""
        batch, frames, dim = latents.shape
        tables = [codebook.embed for codebook in self.codebooks()]
        codes = search_codes(latents.float().reshape(-1, dim), tables, n_q, beam=self.beam, depth=self.depth)
        return codes.view(batch, frames, n_q).transpose(1, 2)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: int64 [B, n, F], n up to all codebooks. Returns the sum of their entries, [B, F, D] in fp32.

        A code below 0 is left out of the sum.
        """
        entries = [
            codebook.embed[code.clamp(min=0)] * (code >= 0)[..., None]
            for codebook, code in zip(self.codebooks(), codes.unbind(1), strict=False)
        ]
        return cast(Tensor, sum(entries))


def search_codes(latents: Tensor, tables: Sequence[Tensor], n_q: int, *, beam: int, depth: int) -> Tensor:
    """Search the codes whose entries add up to about the latents.

    The first code is that of the nearest entry, since the first codebook carries meaning. From there on the `beam` best
    candidates are kept until `depth` codebooks are chosen, and the best of them is taken (LeBlanc et al., 1993,
    "Efficient search and design procedures for robust multi-stage VQ of LPC parameters for 4 kb/s speech coding"). Each
    further code is the nearest entry again. So codes of fewer codebooks are always the first ones of codes of more.

    Args:
        latents: float32 [N, D].
        tables: the codebooks, float32 [C, D] each, at least `n_q` and `depth`.
        n_q: codebooks to use.
        beam: candidates; 1 is the plain residual search, and the official one.
        depth: codebooks over which candidates are kept.

    Returns:
        Codes int64 [N, n_q].
    """
    # distances of half precision would often find another entry
    with full_precision(latents):
        residual = latents
        codes = torch.zeros(latents.shape[0], 0, dtype=torch.long, device=latents.device)
        if beam > 1 and n_q > 1:
            found = [_search_widely(piece, tables[:depth], beam) for piece in _pieces(latents)]
            codes, residual = (torch.cat(parts) for parts in zip(*found, strict=True))
        for table in tables[codes.shape[1] : n_q]:
            # |r - e|^2 without |r|^2, which is the same for every entry
            code = torch.addmm(table.square().sum(1), residual, table.T, alpha=-2).argmin(1)
            residual = residual - table[code]
            codes = torch.cat([codes, code[:, None]], 1)
        return codes[:, :n_q]


def _pieces(latents: Tensor) -> Sequence[Tensor]:
    """Return latents [N, D] in the pieces in which they are searched; a traced graph, and a GPU, take them as one."""
    if latents.device.type != "cpu" or torch.compiler.is_compiling():
        return [latents]
    return latents.split(PIECE)


def _search_widely(latents: Tensor, tables: Sequence[Tensor], beam: int) -> tuple[Tensor, Tensor]:
    """Return the codes [N, len(tables)] of the best candidate, and what it leaves of the latents [N, D]."""
    rows = torch.arange(latents.shape[0], device=latents.device)[:, None]
    residuals = latents[:, None]
    codes = torch.zeros(latents.shape[0], 1, 0, dtype=torch.long, device=latents.device)
    for index, table in enumerate(tables):
        kept = 1 if index == 0 else min(beam, residuals.shape[1] * len(table))
        # |r - e|^2, of which |r|^2 counts here: the candidates of a latent leave residuals of unlike lengths
        distance = torch.addmm(table.square().sum(1), residuals.flatten(0, 1), table.T, alpha=-2)
        distance = distance.view(*residuals.shape[:2], -1) + residuals.square().sum(-1, keepdim=True)
        best = distance.flatten(1).topk(kept, largest=False).indices
        parent = torch.div(best, len(table), rounding_mode="floor")
        code = best % len(table)
        residuals = residuals[rows, parent] - table[code]
        codes = torch.cat([codes[rows, parent], code[..., None]], -1)
    return codes[:, 0], residuals[:, 0]


def _checked_beam(settings: dict[str, Any]) -> int:
    beam = settings.get("beam", 1)
    if set(settings) - {"beam"} or not isinstance(beam, int) or isinstance(beam, bool) or not 1 <= beam <= MAX_BEAM:
        raise ValueError(
            f"quantizer_settings={shortened(settings)}: residual_vq takes a beam of 1 to {MAX_BEAM} candidates, or none"
        )
    return beam
