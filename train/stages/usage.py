"""Code usage: how many entries of each codebook are in use, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mimotok.model.lengths import valid_mask


class CodeUsage:
    """Counts of codes over batches."""

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        self.sizes = tuple(codebook_sizes)
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self.counts = [torch.zeros(size, dtype=torch.int64) for size in self.sizes]

    def update(self, codes: Tensor, lengths: Tensor) -> None:
        """Count codes, int64 [B, n_q, F], of lengths [B] frames."""
        mask = valid_mask(lengths, codes.shape[2])
        for counts, book in zip(self.counts, codes.unbind(1), strict=False):
            counts += torch.bincount(book[mask].cpu(), minlength=len(counts))

    def summary(self) -> list[tuple[float, float]]:
        """Return each codebook's share of entries seen, and the perplexity exp(entropy) of their distribution."""
        return [(float((c > 0).float().mean()), perplexity(c)) for c in self.counts]


def perplexity(counts: Tensor) -> float:
    """Return exp(entropy) of a count vector: the number of entries that equal use would need."""
    share = counts / counts.sum().clamp(min=1)
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))
