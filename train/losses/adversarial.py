"""The losses between a generator and its discriminators, as pure functions of their outputs.

Equation numbers are those of "MiMo-Audio: Audio Language Models are Few-Shot Learners", section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mimotok.model.lengths import frames_needed, valid_mask


class Valid(NamedTuple):
    """How much of each clip is not padding: lengths [B] of `size` steps. The share is the same at any other rate."""

    lengths: Tensor
    size: int

    def mask(self, steps: int) -> Tensor:
        """Return what is valid of `steps` steps over the same time, bool [B, steps]."""
        return valid_mask(frames_needed(self.lengths * steps, self.size), steps)


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor], valid: Valid | None = None) -> Tensor:
    """Compute the discriminators' hinge loss (eq. 4): mean over the K of E max(0, 1 - D(x)) + E max(0, 1 + D(x')).

    Args:
        real: K logits [B, 1, time, *] on real audio.
        fake: K logits on decoded audio, which the caller has detached.
        valid: how much of each clip is not padding.
    """
    terms = [
        _valid_mean((1 - r).relu(), valid) + _valid_mean((1 + f).relu(), valid) for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def adversarial_loss(fake: Sequence[Tensor], valid: Valid | None = None) -> Tensor:
    """Compute the generator's hinge loss (eq. 5): mean over the K of E max(0, 1 - D(x')). Arguments as above."""
    return torch.stack([_valid_mean((1 - f).relu(), valid) for f in fake]).mean()


def feature_matching_loss(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], valid: Valid | None = None
) -> Tensor:
    """Compute the L1 between the discriminators' features, averaged over layers, then over discriminators (eq. 6).

    Args:
        real: each discriminator's features [B, C, time, *] by layer; they get no gradient.
        fake: the same of decoded audio.
        valid: how much of each clip is not padding.
    """
    per_discriminator = [
        torch.stack([_valid_mean((f - r.detach()).abs(), valid) for r, f in zip(reals, fakes, strict=True)]).mean()
        for reals, fakes in zip(real, fake, strict=True)
    ]
    return torch.stack(per_discriminator).mean()


def _valid_mean(value: Tensor, valid: Valid | None) -> Tensor:
    """Return the mean of value [B, C, time, *] over the valid time steps of each clip."""
    value = value.float()
    if valid is None:
        return value.mean()
    mask = valid.mask(value.shape[2])
    return (value.flatten(3).mean((1, 3)) * mask).sum() / mask.sum()
