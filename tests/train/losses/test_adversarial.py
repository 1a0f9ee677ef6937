"""The losses of generator and discriminators: their published values, and no say of the padding."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from train.losses.adversarial import Valid, adversarial_loss, discriminator_loss, feature_matching_loss


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 1, -1, 1)


def test_hinge_values() -> None:
    real, fake = [logits(2.0, 0.0), logits(-1.0)], [logits(-2.0, 0.5), logits(1.0)]
    # real: (0 + 1) / 2 and 2; fake: (0 + 1.5) / 2 and 2; averaged over the two discriminators
    assert discriminator_loss(real, fake) == pytest.approx((0.5 + 0.75 + 2 + 2) / 2)
    assert adversarial_loss(fake) == pytest.approx(((3 + 0.5) / 2 + 0) / 2)


def test_confident_discriminator_has_no_loss() -> None:
    assert discriminator_loss([logits(1.0, 3.0)], [logits(-1.0, -4.0)]) == 0


def test_feature_matching_is_the_mean_of_means_and_zero_on_equality() -> None:
    features = [[noise(2, 4, 10, 3), noise(2, 8, 5, 2)], [noise(2, 4, 7, 1)]]
    shifted = [[features[0][0] + 1, features[0][1] - 3], [features[1][0] + 5]]
    assert feature_matching_loss(features, features) == 0
    assert feature_matching_loss(features, shifted) == pytest.approx(((1 + 3) / 2 + 5) / 2, rel=1e-5)


def test_feature_matching_trains_the_decoded_side_only() -> None:
    real, fake = noise(1, 2, 5, 1).requires_grad_(), noise(1, 2, 5, 1, seed=1).requires_grad_()
    feature_matching_loss([[real]], [[fake]]).backward()
    assert real.grad is None
    assert fake.grad.abs().sum() > 0


def test_discriminator_losses_ignore_the_padded_share() -> None:
    real, fake = noise(2, 1, 10, 3), noise(2, 1, 10, 3, seed=1)
    valid = Valid(torch.tensor([3, 5]), 5)
    spoilt_real, spoilt_fake = real.clone(), fake.clone()
    spoilt_real[0, :, 6:], spoilt_fake[0, :, 6:] = 100, 100
    for value in (discriminator_loss, lambda r, f, v: feature_matching_loss([r], [f], v)):
        assert value([real], [fake], valid) == value([spoilt_real], [spoilt_fake], valid)
    assert adversarial_loss([fake], valid) == adversarial_loss([spoilt_fake], valid)


def test_a_step_is_valid_as_soon_as_part_of_it_is() -> None:
    for size in range(1, 40):
        for steps in (1, 3, 7, 49, 160):
            valid = Valid(torch.arange(1, size + 1), size).mask(steps).sum(1)
            assert valid.tolist() == [math.ceil(Fraction(length * steps, size)) for length in range(1, size + 1)]
