"""Drawing ids from logits, by temperature and top-p."""

from __future__ import annotations

from collections.abc import Sequence
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


# One for all rows, one for each row, or torch's own.
Generators = torch.Generator | Sequence[torch.Generator] | None


def sample(logits: Tensor, sampling: Sampling, generator: Generators = None) -> Tensor:
    """logits: [N, ids], -inf where an id is forbidden. Returns one id for each row, int64 [N]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probability, ids = (logits.float() / sampling.temperature).softmax(-1).sort(dim=-1, descending=True)
    # an id is kept while those before it have not reached top_p: the first one always is
    reached = probability.cumsum(-1) - probability >= sampling.top_p
    probability = probability.masked_fill(reached, 0.0)
    if generator is None or isinstance(generator, torch.Generator):
        drawn = torch.multinomial(probability, 1, generator=generator)
    else:
        rows = zip(probability, generator, strict=True)
        drawn = torch.stack([torch.multinomial(row, 1, generator=each) for row, each in rows])
    return ids.gather(-1, drawn)[:, 0]
