"""Residual vector quantization: plain codebooks and a residual search.

Training replaces the search by `train.stages.quantizer`, on these same codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.io.terminal.streams import shortened
from mimotok.model.precision import KeepsFloat32, full_precision

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


class Search(NamedTuple):
    """How codes are searched.

    Attributes:
        beam: candidates that are kept; 1 is the plain residual search, and the official one.
        depth: codebooks over which candidates are kept.
    """

    beam: int = 1
    depth: int = 1


class Tables(NamedTuple):
    """Codebooks as `search_codes` takes them; `weigh` makes those of a weighted search.

    Attributes:
        entries: float32 [C, D] of each codebook, of a weighted search multiplied by the weighting from the second on.
        weighting: float32 [D, D], or None for the plain distance. What the first codebook leaves of a latent is
            multiplied by it, and the further entries are those that are nearest there.
    """

    entries: Sequence[Tensor]
    weighting: Tensor | None = None

    def first(self, count: int) -> Tables:
        """Return the tables of the first codebooks."""
        return Tables(self.entries[:count], self.weighting)


class _Weighed(NamedTuple):
    """Tables of a weighted search, and copies of the tensors that they were made of."""

    sources: list[Tensor]
    tables: Tables

    def holds(self, sources: list[Tensor]) -> bool:
        """Return whether `sources` hold the same values: of a write through `.data` no version number tells."""
        return all(torch.equal(mine, theirs) for mine, theirs in zip(self.sources, sources, strict=True))


class ResidualQuantizer(KeepsFloat32, nn.Module):
    """Each codebook quantizes what the ones before it left over (Zeghidour et al., 2021, algorithm 1).

    `quantizer_settings` of the configuration may hold `beam`, 1 where they do not: how many candidates `search_codes`
    keeps over the default number of codebooks; and `weighted`, true where the model has a matrix `weighting` that says
    how much its decoder hears of an error in each direction (`python -m train weigh` makes it).

    Raises:
        ValueError: for other settings, and for a beam out of range.
    """

    weighting: Tensor | None

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.beam, weighted = _checked_settings(config.quantizer_settings)
        self.depth = config.n_q
        self.register_buffer("weighting", torch.eye(config.d_model, dtype=torch.float32) if weighted else None)
        self.layers = nn.ModuleList(Codebook(size, config.d_model) for size in config.codebook_sizes)
        self._weighed: _Weighed | None = None

    def codebooks(self) -> list[Codebook]:
        """Return the codebooks in order, typed."""
        return [cast(Codebook, layer) for layer in self.layers]

    @property
    def search(self) -> Search:
        """How this quantizer searches codes."""
        return Search(self.beam, self.depth)

    def encode(self, latents: Tensor, n_q: int) -> Tensor:
        """latents: [B, F, D]. Returns codes int64 [B, n_q, F]; the search is in fp32."""
        batch, frames, dim = latents.shape
        codes = search_codes(latents.float().reshape(-1, dim), self._searched_tables(), n_q, self.search)
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

    def _searched_tables(self) -> Tables:
        """Return the codebooks as `weigh` makes them, which a stream of single frames must not do for each of them."""
        entries = [codebook.embed for codebook in self.codebooks()]
        if self.weighting is None:
            return Tables(entries)
        sources = [*entries, self.weighting]
        # a graph computes them itself, and a GPU faster than it compares them
        if torch.compiler.is_compiling() or self.weighting.device.type != "cpu":
            return weigh(entries, self.weighting)
        if self._weighed is None or not self._weighed.holds(sources):
            self._weighed = _Weighed([source.clone() for source in sources], weigh(entries, self.weighting))
        return self._weighed.tables


@torch.no_grad()
def weigh(entries: Sequence[Tensor], weighting: Tensor | None) -> Tables:
    """Return the tables of codebooks, float32 [C, D] each, for a search with this weighting, [D, D]."""
    if weighting is None:
        return Tables(entries)
    with full_precision(weighting):
        return Tables([entries[0], *(table @ weighting for table in entries[1:])], weighting)


def search_codes(latents: Tensor, tables: Tables, n_q: int, search: Search) -> Tensor:
    """Search the codes whose entries add up to about the latents.

    The first code is that of the nearest entry, since the first codebook carries meaning. From there on the `beam` best
    candidates are kept until `depth` codebooks are chosen, and the best of them is taken (LeBlanc et al., 1993,
    "Efficient search and design procedures for robust multi-stage VQ of LPC parameters for 4 kb/s speech coding"). Each
    further code is the nearest entry again. So codes of fewer codebooks are always the first ones of codes of more.

    With a weighting, an error in a direction that the decoder hardly hears counts less than one that it hears well
    (Gardner and Rao, 1995, "Theoretical analysis of the high-rate vector quantization of LPC parameters").

    Args:
        latents: float32 [N, D].
        tables: the codebooks, at least `n_q` and `depth`.
        n_q: codebooks to use.
        search: how.

    Returns:
        Codes int64 [N, n_q].
    """
    # distances of half precision would often find another entry
    with full_precision(latents):
        if search.beam == 1 or n_q == 1:
            return _search_plainly(latents, tables.first(n_q))[0]
        wide = tables.first(search.depth)
        found = [_search_widely(piece, wide, search.beam) for piece in _pieces(latents)]
        codes, residual = (torch.cat(parts) for parts in zip(*found, strict=True))
        rest, _ = _search_plainly(residual, Tables(tables.entries[search.depth : n_q]))
        return torch.cat([codes, rest], 1)[:, :n_q]


def _pieces(latents: Tensor) -> Sequence[Tensor]:
    """Return latents [N, D] in the pieces in which they are searched; a traced graph, and a GPU, take them as one."""
    if latents.device.type != "cpu" or torch.compiler.is_compiling():
        return [latents]
    return latents.split(PIECE)


def _search_plainly(residual: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    """Return the code of the nearest entry of each codebook in turn, [N, codebooks], and what is left, [N, D]."""
    codes = torch.zeros(residual.shape[0], 0, dtype=torch.long, device=residual.device)
    for index, table in enumerate(tables.entries):
        # |r - e|^2 without |r|^2, which is the same for every entry
        code = torch.addmm(table.square().sum(1), residual, table.T, alpha=-2).argmin(1)
        residual = residual - table[code]
        if index == 0 and tables.weighting is not None:
            residual = residual @ tables.weighting
        codes = torch.cat([codes, code[:, None]], 1)
    return codes, residual


def _search_widely(latents: Tensor, tables: Tables, beam: int) -> tuple[Tensor, Tensor]:
    """Return the codes [N, codebooks] of the best candidate, and what it leaves, [N, D]."""
    first, left = _search_plainly(latents, tables.first(1))
    codes = first[:, None]
    residuals = left[:, None]
    # |r|^2 of each candidate: residuals are of unlike lengths
    squares = residuals.square().sum(-1)
    rows = torch.arange(latents.shape[0], device=latents.device)[:, None]
    for table in tables.entries[1:]:
        width = residuals.shape[1]
        products = torch.addmm(table.square().sum(1), residuals.flatten(0, 1), table.T, alpha=-2)
        distances = products.view(-1, width, len(table)) + squares[..., None]
        squares, best = distances.flatten(1).topk(min(beam, width * len(table)), largest=False)
        code = best % len(table)
        parent = rows * width + torch.div(best, len(table), rounding_mode="floor")
        residuals = _rows(residuals.flatten(0, 1), parent) - _rows(table, code)
        codes = torch.cat([_rows(codes.flatten(0, 1), parent), code[..., None]], -1)
    return codes[:, 0], residuals[:, 0]


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Return the rows of table [N, D] at index [B, K], as [B, K, D]."""
    return table.index_select(0, index.flatten()).view(*index.shape, -1)


def _checked_settings(settings: dict[str, Any]) -> tuple[int, bool]:
    """Return beam and weighted."""
    beam = settings.get("beam", 1)
    weighted = settings.get("weighted", False)
    whole = isinstance(beam, int) and not isinstance(beam, bool)
    if set(settings) - {"beam", "weighted"} or not whole or not 1 <= beam <= MAX_BEAM or not isinstance(weighted, bool):
        raise ValueError(
            f"quantizer_settings={shortened(settings)}: residual_vq takes a beam of 1 to {MAX_BEAM} candidates, and "
            "weighted, true or false"
        )
    return beam, weighted
