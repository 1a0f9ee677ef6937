"""The losses between a generator and its discriminators, as pure functions of their outputs.

Equation numbers are those of "MiMo-Audio: Audio Language Models are Few-Shot Learners", section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mimotok.model.lengths import valid_mask


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor], valid: Tensor | None = None) -> Tensor:
    """Compute the discriminators' hinge loss (eq. 4): mean over the K of E max(0, 1 - D(x)) + E max(0, 1 + D(x')).

    Args:
        real: K logits [B, 1, time, *] on real audio.
        fake: K logits on decoded audio, which the caller has detached.
        valid: [B], the share of each clip that is not padding.
    """
    terms = [
        _valid_mean((1 - r).relu(), valid) + _valid_mean((1 + f).relu(), valid) for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def adversarial_loss(fake: Sequence[Tensor], valid: Tensor | None = None) -> Tensor:
    """Compute the generator's hinge loss (eq. 5): mean over the K of E max(0, 1 - D(x')). Arguments as above."""
    return torch.stack([_valid_mean((1 - f).relu(), valid) for f in fake]).mean()


def feature_matching_loss(
    real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]], valid: Tensor | None = None
) -> Tensor:
    """Compute the L1 between the discriminators' features, averaged over layers, then over discriminators (eq. 6).

    Args:
        real: each discriminator's features [B, C, time, *] by layer; they get no gradient.
        fake: the same of decoded audio.
        valid: [B], the share of each clip that is not padding.
    """
    per_discriminator = [
        torch.stack([_valid_mean((f - r.detach()).abs(), valid) for r, f in zip(reals, fakes, strict=True)]).mean()
        for reals, fakes in zip(real, fake, strict=True)
    ]
    return torch.stack(per_discriminator).mean()


def _valid_mean(value: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of value [B, C, time, *] over the first `valid` [B] share of the time steps of each clip."""
    value = value.float()
    if valid is None:
        return value.mean()
    mask = valid_mask((valid * value.shape[2]).ceil(), value.shape[2])
    return (value.flatten(3).mean((1, 3)) * mask).sum() / mask.sum()
