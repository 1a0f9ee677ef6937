"""Drawing ids from logits, by temperature and top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 is greedy. top_p: only the likeliest ids, which together reach it, are drawn.

    top_p is nucleus sampling (Holtzman et al., 2020).
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: give more than 0, up to 1 (all ids)")


PLAIN = Sampling()
GREEDY = Sampling(temperature=0.0)


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """logits: [N, ids], -inf where an id is forbidden. Returns one id for each row, int64 [N]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probability, ids = (logits.float() / sampling.temperature).softmax(-1).sort(dim=-1, descending=True)
    # an id is kept while those before it have not reached top_p: the first one always is
    reached = probability.cumsum(-1) - probability >= sampling.top_p
    drawn = torch.multinomial(probability.masked_fill(reached, 0.0), 1, generator=generator)
    return ids.gather(-1, drawn)[:, 0]
