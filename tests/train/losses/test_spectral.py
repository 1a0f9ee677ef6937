"""The spectral losses: zero on equality, independent of padding, finite on silence, and their published values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mimotok.config import TokenizerConfig
from mimotok.model.mel import log_mel, mel_filterbank
from train.losses.spectra import FilterBank, magnitudes, powers, stft
from train.losses.spectral import (
    MEL_GAIN,
    PUBLISHED_SCALES,
    MelLoss,
    complex_loss,
    mel_loss,
    stft_loss,
)

SPECTRAL: dict[str, Any] = {
    "mel": mel_loss,
    "log mel": MelLoss(exponents=(0.0,)),
    "four scales": MelLoss(scales=(*PUBLISHED_SCALES, (256, 1920, 960)), exponents=(0.0,)),
    "stft": stft_loss,
    "complex": complex_loss,
}


@pytest.fixture(params=list(SPECTRAL.values()), ids=list(SPECTRAL))
def loss(request: pytest.FixtureRequest):
    return request.param


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_published_scales_are_those_of_the_paper() -> None:
    assert PUBLISHED_SCALES == ((32, 240, 120), (64, 480, 240), (128, 960, 480))


def test_equal_signals_cost_nothing_and_different_ones_something(loss) -> None:
    wav = noise(2, 6000)
    assert loss(wav, wav) == 0
    assert loss(wav, noise(2, 6000, seed=1)) > 0.001


def test_equal_clips_in_a_batch_cost_what_one_does(loss) -> None:
    prediction, target = noise(1, 6000), noise(1, 6000, seed=1)
    torch.testing.assert_close(loss(prediction.expand(3, -1), target.expand(3, -1)), loss(prediction, target))


def test_padding_and_its_content_do_not_matter(loss) -> None:
    prediction, target = noise(2, 9600), noise(2, 9600, seed=1)
    single = loss(prediction[:, :7201], target[:, :7201])
    padded = loss(prediction, target, torch.tensor([7201, 7201]))
    torch.testing.assert_close(padded, single)


def test_each_clip_of_a_padded_batch_counts_by_its_frames() -> None:
    prediction, target = noise(2, 9600), noise(2, 9600, seed=1)
    scale = ((64, 480, 240),)
    whole = mel_loss(prediction[:1], target[:1], scales=scale)
    part = mel_loss(prediction[1:, :4800], target[1:, :4800], scales=scale)
    batch = mel_loss(prediction, target, torch.tensor([9600, 4800]), scales=scale)
    torch.testing.assert_close(batch, (41 * whole + 21 * part) / 62)


@pytest.mark.parametrize("silent", ["prediction", "target", "both"])
def test_silence_has_finite_gradients(loss, silent: str) -> None:
    prediction, target = noise(1, 4800), noise(1, 4800, seed=1)
    prediction = (prediction * (silent == "target")).requires_grad_()
    value = loss(prediction, target * (silent == "prediction"))
    value.backward()
    assert value.isfinite()
    assert prediction.grad.isfinite().all()


def test_a_prediction_below_the_floor_still_learns() -> None:
    prediction = noise(1, 4800, level=1e-7).requires_grad_()
    mel_loss(prediction, noise(1, 4800, seed=1), exponents=(0.0,)).backward()
    assert prediction.grad.abs().max() > 0


def test_linear_mel_loss_scales_with_the_signal() -> None:
    prediction, target = noise(1, 4800), noise(1, 4800, seed=1)
    torch.testing.assert_close(mel_loss(3 * prediction, 3 * target), 3 * mel_loss(prediction, target))


def test_the_floor_is_in_the_units_of_the_tokenizer_mel() -> None:
    """White noise has the mel of the tokenizer here, times MEL_GAIN: a floor means the same in both."""
    wav = noise(1, 96000)
    scale = ((128, 960, 240),)
    ours = mel_loss(wav, torch.zeros_like(wav), scales=scale)
    theirs = log_mel(wav, None, TokenizerConfig())[0].exp().mean()
    torch.testing.assert_close(MEL_GAIN * ours, theirs, rtol=0.01, atol=0)


def test_autocast_leaves_the_loss_in_fp32() -> None:
    prediction, target = noise(1, 4800), noise(1, 4800, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = mel_loss(prediction, target, exponents=(0.0,))
    assert inside.dtype == torch.float32
    assert inside == mel_loss(prediction, target, exponents=(0.0,))


def test_training_works_after_validation_in_inference_mode() -> None:
    fresh = ((16, 240, 60),)  # a scale no other test has cached
    with torch.inference_mode():
        mel_loss(noise(1, 2400), noise(1, 2400), scales=fresh)
    prediction = noise(1, 2400).requires_grad_()
    mel_loss(prediction, noise(1, 2400, seed=1), scales=fresh).backward()
    assert prediction.grad is not None


def test_a_scale_with_an_empty_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer bins"):
        MelLoss(scales=((128, 240, 120),))


def test_phase_matters_to_the_complex_loss_only() -> None:
    wav = noise(1, 9600)
    assert complex_loss(-wav, wav) > 0.5 * complex_loss(torch.zeros_like(wav), wav)
    assert stft_loss(-wav, wav) < 1e-5


def slope_of(function: Callable[[Tensor], Tensor], wav: Tensor) -> tuple[Tensor, Tensor]:
    """Return a function's values and the gradient of a weighted sum of them."""
    wav = wav.clone().requires_grad_()
    values = function(wav)
    (values * noise(*values.shape, seed=2)).sum().backward()
    assert wav.grad is not None
    return values.detach(), wav.grad


@pytest.mark.parametrize(("window", "hop"), [(240, 120), (480, 160), (480, 210), (75, 20), (600, 600)])
@pytest.mark.parametrize("size", [2400, 2399, 601])
def test_magnitudes_are_those_of_the_complex_spectrum(window: int, hop: int, size: int) -> None:
    wav = noise(2, size)
    wav[1, size // 2 :] = 0
    ours = slope_of(lambda x: magnitudes(x, window, hop), wav)
    plain = slope_of(lambda x: stft(x, window, hop).abs(), wav)
    torch.testing.assert_close(ours, plain, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("window", "nfft", "bins"), [(240, 240, None), (240, 480, None), (240, 480, 90), (75, 75, 20)])
def test_powers_are_those_of_the_complex_spectrum(window: int, nfft: int, bins: int | None) -> None:
    wav = noise(2, 2399)
    ours = slope_of(lambda x: powers(x, window, 120, nfft, bins), wav)
    plain = slope_of(lambda x: stft(x, window, 120, nfft)[..., :bins].abs().square(), wav)
    torch.testing.assert_close(ours, plain, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("filters", [5, 32, 100])
def test_a_filter_bank_is_its_matrix(filters: int) -> None:
    matrix = mel_filterbank(filters, 960, 24_000, 0.0, 12_000.0)
    spectrum = noise(2, 7, 481).abs()
    ours = slope_of(FilterBank(matrix), spectrum)
    plain = slope_of(lambda x: x @ matrix, spectrum)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-5)


def test_twice_the_signal_costs_what_the_formulas_say() -> None:
    wav = noise(1, 24_000, level=1.0)
    # spectral convergence is |2x - x| / |x|, and the logarithms differ by ln 2; the floor is far below
    torch.testing.assert_close(stft_loss(2 * wav, wav, floor=1e-9), torch.tensor(1 + math.log(2)), atol=1e-3, rtol=0)
    compressed = [complex_loss(gain * wav, 0 * wav, floor=1e-9) for gain in (1.0, 2.0)]
    torch.testing.assert_close(compressed[1] / compressed[0], torch.tensor(2**0.3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("exponent", [0.3, 1.0])
def test_a_small_exponent_is_nearly_the_logarithm(exponent: float) -> None:
    wav, scale = noise(1, 12_000, level=1.0), ((64, 480, 240),)
    silent = mel_loss(wav, 0 * wav, scales=scale, exponents=(exponent,), floor=1e-9)
    double = mel_loss(2 * wav, 0 * wav, scales=scale, exponents=(exponent,), floor=1e-9)
    # (2^e m^e) / e over m^e / e, but for the floor's share
    torch.testing.assert_close(double / silent, torch.tensor(2**exponent), atol=0.01, rtol=0)
    slopes = [mel_loss(1.001 * wav, wav, scales=scale, exponents=(e,), floor=1e-9) for e in (0.01, 0.0)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0.05, atol=0)
