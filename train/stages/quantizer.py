"""The quantizer in training: vector-quantize-pytorch on the model's own codebooks.

Imported by training only; inference searches plain tables (`mimotok.model.quantizer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch import vector_quantize_pytorch as library

from mimotok.model.lengths import valid_mask
from mimotok.model.quantizer import Codebook, ResidualQuantizer, Search, Tables, search_codes, weigh


class Quantized(NamedTuple):
    """What the quantizer returns.

    Attributes:
        quantized: [B, F, D]; gradients reach the latents.
        codes: int64 [B, n_q, F], -1 where a frame is padding or an item does not use the codebook.
        commitment_loss: scalar.
        first: [B, F, D], the entries of the first codebook, also for items that are left unquantized; gradients reach
            the latents.
    """

    quantized: Tensor
    codes: Tensor
    commitment_loss: Tensor
    first: Tensor


class QuantizerTraining(Protocol):
    """What trains a model's quantizer: an nn.Module that is built with the model's quantizer as its first argument.

    Its parameters are trained with the model's, and averaged as the model's are. Padded frames must not count, and a
    clip's result must not depend on what shares its batch.
    """

    def __call__(self, latents: Tensor, lengths: Tensor, n_q: Tensor) -> Quantized:
        """Quantize latents [B, F, D] with lengths [B] frames by the first n_q [B] codebooks, 0 for none of them."""

    def write_back(self, target: Any) -> None:
        """Copy what was learned into `target`, the model's quantizer. Nothing in it is trained otherwise."""

    def synchronise(self) -> None:
        """Prepare for several ranks; called once the process group exists. What learns by gradients does nothing."""


class Found(NamedTuple):
    """What one codebook gives: entries [B, F, D], zero where it is not in use; codes [B, F], -1 there; its loss."""

    entries: Tensor
    codes: Tensor
    loss: Tensor


def quantize_in_turn(
    latents: Tensor,
    lengths: Tensor,
    n_q: Tensor,
    books: int,
    first_entries: Callable[[Tensor], Tensor],
    search: Callable[[int, Tensor, Tensor], Found],
) -> Quantized:
    """Quantize what each codebook leaves by the next one, in float32.

    Args:
        latents: [B, F, D].
        lengths: [B] valid frames.
        n_q: [B] codebooks in use, 0 leaves the item unquantized.
        books: how many codebooks there are.
        first_entries: from latents to the nearest entries of the first codebook, both [B, F, D].
        search: from the number of a codebook, residuals [B, F, D] and which frames use it [B, F] to what it gives.
    """
    with torch.autocast(latents.device.type, enabled=False):
        latents = latents.float()
        # a step that went wrong is dropped later; one NaN in the moving averages would stay for ever
        finite = latents.isfinite().all(-1)
        valid = valid_mask(lengths, latents.shape[1]) & finite
        residual = torch.where(finite[..., None], latents, 0.0)
        total = torch.zeros_like(latents)
        codes = []
        losses = []
        first = first_entries(residual)
        for index in range(books):
            found = search(index, residual, valid & (n_q > index)[:, None])
            residual = residual - found.entries.detach()
            total = total + found.entries.detach()
            codes.append(found.codes)
            losses.append(found.loss)
        # one straight-through step around the whole sum: one around each codebook would count the gradient n_q times
        straight = latents + (total - latents).detach()
        return Quantized(
            torch.where((n_q > 0)[:, None, None], straight, latents),
            torch.stack(codes, 1),
            torch.stack(losses).mean(),
            latents + (first - latents).detach(),
        )


class TrainingQuantizer(nn.Module):
    """EMA codebooks with k-means initialisation, dead-code revival and a number of codebooks per item.

    A code is dead when its moving count falls below `dead_code_fraction` of its codebook's mean count: an absolute
    limit, such as the official 2, would depend on the batch. It is revived as a random latent of the batch with half
    the mean count, enough to survive until it is used. Padded frames and unused codebooks never touch the statistics.
    """

    weighting: Tensor | None

    def __init__(self, source: ResidualQuantizer, *, decay: float = 0.99, dead_code_fraction: float = 0.1) -> None:
        super().__init__()
        self.dead_code_fraction = dead_code_fraction
        self.beam = source.beam
        self.depth = source.depth
        self.register_buffer("weighting", None if source.weighting is None else source.weighting.clone())
        books = source.codebooks()
        self.layers = nn.ModuleList(
            VectorQuantize(
                dim=book.embed.shape[1],
                codebook_size=book.embed.shape[0],
                decay=decay,
                kmeans_init=True,
                threshold_ema_dead_code=1,  # any value above 0 turns revival on; set before each step
                route_gradients_to_input=False,
                sync_codebook=False,  # the process group does not exist yet: see `synchronise`
            )
            for book in books
        )
        for book, codebook in zip(books, self._codebooks(), strict=True):
            if bool(book.inited.any()):
                codebook.embed.data.copy_(book.embed[None])
                codebook.embed_avg.data.copy_(book.embed_avg[None])
                codebook.cluster_size.data.copy_(book.cluster_size[None])
                codebook.initted.data.fill_(True)

    def _codebooks(self) -> Iterator[library.Codebook]:
        return (cast(VectorQuantize, layer)._codebook for layer in self.layers)

    def synchronise(self) -> None:
        """Make every rank train the same codebooks. Call it once the process group exists."""
        if not (distributed.is_initialized() and distributed.get_world_size() > 1):
            return
        for codebook in self._codebooks():
            codebook.use_ddp = True
            codebook.sample_fn = codebook.replace_sample_fn = library.sample_vectors_distributed
            codebook.all_reduce_fn = codebook.kmeans_all_reduce_fn = distributed.all_reduce

    def forward(self, latents: Tensor, lengths: Tensor, n_q: Tensor) -> Quantized:
        """Quantize latents.

        Args:
            latents: [B, F, D].
            lengths: [B] valid frames.
            n_q: [B] codebooks in use, 0 leaves the item unquantized. The first item must use every codebook, so that no
                rank skips a codebook that another one updates.

        Returns:
            The commitment loss in it is the mean over the codebooks of the latents' squared distance to their codes.
        """
        search = partial(self._search, searched=self._codes_of_the_beam(latents))
        return quantize_in_turn(latents, lengths, n_q, len(self.layers), self._first_entries, search)

    @torch.no_grad()
    def _codes_of_the_beam(self, latents: Tensor) -> Tensor | None:
        """Search all codes [N, n_q] as the model's quantizer does where it differs, once its codebooks are there."""
        codebooks = list(self._codebooks())
        plain = self.beam == 1 and self.weighting is None
        if plain or not all(bool(codebook.initted) for codebook in codebooks):
            return None
        rows = latents.detach().float().flatten(0, 1).nan_to_num(0.0, 0.0, 0.0)
        tables = weigh([codebook.embed[0] for codebook in codebooks], self.weighting)
        return search_codes(rows, tables, len(codebooks), Search(self.beam, self.depth))

    def _search(self, index: int, residual: Tensor, in_use: Tensor, searched: Tensor | None = None) -> Found:
        """Search and train one codebook as the library's layer does, which spends twice the time.

        Codes `searched` [N, n_q] are taken as they are.
        Its sums over the frames of an entry, and its look-up of entries, are products with a matrix of zeros and ones.
        """
        codebook = cast(VectorQuantize, self.layers[index])._codebook
        self._set_dead_threshold(codebook)
        rows = residual.detach().flatten(0, 1)
        used = in_use.flatten()
        if self.training:
            codebook.init_embed_(rows[None], mask=used[None])
        # the library's distances: their ties decide between near copies of an entry, of which k-means makes many from
        # the like latents of a first step, and so how a run begins
        codes = library.cdist(rows[None], codebook.embed)[0].argmin(1) if searched is None else searched[:, index]
        entries = codebook.embed[0][codes]
        loss = residual.new_zeros(())
        if self.training:
            _update(codebook, rows, codes, used)
            loss = (residual.flatten(0, 1)[used] - entries[used]).square().mean()
        entries = torch.where(used[:, None], entries, 0.0)
        codes = torch.where(used, codes, -1)
        return Found(entries.view_as(residual), codes.view(residual.shape[:2]), loss)

    @torch.no_grad()
    def _first_entries(self, latents: Tensor) -> Tensor:
        """Return the nearest entries of the first codebook, [B, F, D], whatever each item's number of codebooks."""
        entries = next(self._codebooks()).embed[0]
        codes = search_codes(latents.flatten(0, 1), Tables([entries]), 1, Search())
        return entries[codes[:, 0]].view_as(latents)

    def _set_dead_threshold(self, codebook: library.Codebook) -> None:
        mean = float(codebook.cluster_size.mean()) if bool(codebook.initted) else 0.0
        codebook.threshold_ema_dead_code = self.dead_code_fraction * mean
        codebook.reset_cluster_size = 0.5 * mean

    @torch.no_grad()
    def write_back(self, target: ResidualQuantizer) -> None:
        """Copy the codebooks and their statistics into the model's own."""
        for book, codebook in zip(target.codebooks(), self._codebooks(), strict=True):
            _copy(codebook, book)


@torch.no_grad()
def _update(codebook: library.Codebook, rows: Tensor, codes: Tensor, used: Tensor) -> None:
    """Move a codebook's averages by the rows [N, D] in use and their codes [N], and revive what is dead."""
    counts = torch.zeros_like(codebook.cluster_size[0]).index_add_(0, codes, used.to(rows.dtype))
    sums = torch.zeros_like(codebook.embed_avg[0]).index_add_(0, codes, torch.where(used[:, None], rows, 0.0))
    codebook.all_reduce_fn(counts)
    codebook.all_reduce_fn(sums)
    codebook.cluster_size.data[0].lerp_(counts, 1 - codebook.decay)
    codebook.embed_avg.data[0].lerp_(sums, 1 - codebook.decay)
    codebook.update_ema()
    codebook.expire_codes_(rows[None], seq_mask=used[None])


def _copy(source: library.Codebook, target: Codebook) -> None:
    target.embed.copy_(source.embed[0])
    target.embed_avg.copy_(source.embed_avg[0])
    target.cluster_size.copy_(source.cluster_size[0])
    target.inited.fill_(float(source.initted))
