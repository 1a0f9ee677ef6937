"""The discriminators: normalised on each layer, in the shapes that the losses expect, and able to learn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from train.losses.adversarial import Valid, adversarial_loss, discriminator_loss, feature_matching_loss
from train.losses.discriminators import Discriminators, PeriodDiscriminator, StftDiscriminator

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"periods": (2, 5), "period_width": 4, "windows": (512, 256), "stft_channels": 4, "gain": 10.0}


@pytest.fixture
def small() -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(**SMALL)


def noise(batch: int, samples: int = 4800) -> Tensor:
    return 0.1 * torch.randn(batch, samples)


def tones(batch: int, samples: int = 4800) -> Tensor:
    frequency = 100 + 2000 * torch.rand(batch, 1)
    return 0.1 * math.sqrt(2) * torch.sin(2 * math.pi * frequency * torch.arange(samples) / 24000)


def convolutions(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_published_sizes_are_the_default() -> None:
    with torch.device("meta"):
        published = Discriminators()
    assert [p.period for p in published.parts[:5]] == [2, 3, 5, 7, 11]
    assert [p.window for p in published.parts[5:]] == [2048, 1024, 512, 256, 128]
    period, stft = published.parts[0], published.parts[5]
    assert [c.out_channels for c in convolutions(period)] == [32, 128, 512, 1024, 1024, 1]
    assert [c.out_channels for c in convolutions(stft)] == [32, 32, 32, 32, 32, 1]
    assert [c.dilation[0] for c in convolutions(stft)] == [1, 1, 2, 4, 1, 1]


def test_each_layer_is_spectrally_normalised(small: Discriminators) -> None:
    small.train()
    for _ in range(30):
        small(noise(1))
    small.eval()
    for layer in convolutions(small):
        assert is_parametrized(layer, "weight")
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert norm == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("part", [PeriodDiscriminator(7, 2), StftDiscriminator(256, 4)])
def test_time_is_on_dimension_2_of_logits_and_features(part) -> None:
    logits, features = part(noise(2))
    longer_logits, longer_features = part(noise(2, 9600))
    assert logits.shape[:2] == (2, 1)
    assert len(features) == 5
    for short, long in zip([logits, *features], [longer_logits, *longer_features], strict=True):
        assert short.shape[:2] == long.shape[:2]
        assert short.shape[3] == long.shape[3]
        assert long.shape[2] == pytest.approx(2 * short.shape[2], abs=8)


def test_the_losses_take_judgements_as_they_are(small: Discriminators) -> None:
    real, fake = small(noise(2)), small(noise(2))
    valid = Valid(torch.tensor([1, 2]), 2)
    for value in (
        discriminator_loss(real.logits, fake.logits, valid),
        adversarial_loss(fake.logits, valid),
        feature_matching_loss(real.features, fake.features, valid),
    ):
        assert value.isfinite()
        assert value > 0


def test_clips_are_judged_alone(small: Discriminators) -> None:
    small.eval()
    wav = noise(3)
    for batch, single in zip(small(wav).logits, small(wav[1:2]).logits, strict=True):
        torch.testing.assert_close(batch[1:2], single)


@pytest.mark.parametrize("wav", [torch.zeros(1, 2401), 0.1 * torch.ones(1, 2401)], ids=["silence", "constant"])
def test_gradients_are_finite_on_silence(small: Discriminators, wav) -> None:
    wav.requires_grad_()
    adversarial_loss(small(wav).logits).backward()
    assert wav.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in small.parameters())


def test_bfloat16_autocast_judges_nearly_alike(small: Discriminators) -> None:
    small.eval()
    wav = noise(2)
    expected = small(wav).logits
    with torch.autocast("cpu", torch.bfloat16):
        actual = small(wav).logits
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.float(), e, rtol=0.1, atol=0.02)


def test_a_few_steps_tell_noise_from_tones(small: Discriminators) -> None:
    optimizer = torch.optim.Adam(small.parameters(), lr=3e-3, betas=(0.5, 0.9))
    for _ in range(40):
        optimizer.zero_grad()
        discriminator_loss(small(tones(4)).logits, small(noise(4)).logits).backward()
        optimizer.step()
    small.eval()
    real = torch.stack([x.mean() for x in small(tones(8)).logits])
    fake = torch.stack([x.mean() for x in small(noise(8)).logits])
    assert (real > fake + 0.5).all()


def test_too_short_a_clip_is_refused(small: Discriminators) -> None:
    with pytest.raises(ValueError, match="at least 512"):
        small(noise(1, 500))


def test_each_layer_has_the_published_stride() -> None:
    # HiFi-GAN's strides of 3 but for the last one, and hops of a quarter of the window
    _, features = PeriodDiscriminator(2, 2)(noise(1, 9600))
    steps = [4800]
    for stride in (3, 3, 3, 3, 1):
        steps.append(-(-steps[-1] // stride))
    assert [feature.shape[2] for feature in features] == steps[1:]
    _, features = StftDiscriminator(256, 4)(noise(1, 9600))
    assert {feature.shape[2] for feature in features} == {(9600 - 256) // 64 + 1}


def test_the_gain_multiplies_the_sound(small: Discriminators) -> None:
    plain = Discriminators(**{**SMALL, "gain": 1.0})
    plain.load_state_dict(small.state_dict())
    wav = noise(1)
    for one, other in zip(small.eval()(wav).logits, plain.eval()(SMALL["gain"] * wav).logits, strict=True):
        torch.testing.assert_close(one, other)
