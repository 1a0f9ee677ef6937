"""The losses after PESQ and STOI: what they hear, what they do not, and that they follow the standards' own scores."""

import pytest
import torch
from torch import Tensor

from mimotok.io.audio import load_audio
from tests.helpers.paths import SAMPLE
from train.losses.perceptual import (
    BARK_BANDS,
    HEARD_HZ,
    _disturbance,
    _loudness,
    bark_bands,
    disturbance_loss,
    stoi_loss,
)

LOSSES = [disturbance_loss, stoi_loss]
RATE = 24000


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return load_audio(SAMPLE, RATE)[:, : 4 * RATE]


@pytest.fixture(params=LOSSES, ids=["disturbance", "stoi"])
def loss(request: pytest.FixtureRequest):
    return request.param


def test_equal_signals_cost_nothing_and_more_noise_costs_more(loss, speech: Tensor) -> None:
    values = [float(loss(speech + noise(*speech.shape, level=level), speech)) for level in (0.0, 1e-3, 1e-2, 1e-1)]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values == sorted(values)
    assert values[3] > 3 * values[1]


def test_padding_and_its_content_do_not_matter(loss, speech: Tensor) -> None:
    prediction = speech + noise(*speech.shape, level=0.01)
    samples = 2 * RATE + 17
    single = loss(prediction[:, :samples], speech[:, :samples])
    padded = loss(prediction, speech, torch.tensor([samples]))
    torch.testing.assert_close(padded, single)


def test_equal_clips_in_a_batch_cost_what_one_does(loss, speech: Tensor) -> None:
    prediction = speech + noise(*speech.shape, level=0.01)
    torch.testing.assert_close(loss(prediction.expand(3, -1), speech.expand(3, -1)), loss(prediction, speech))


@pytest.mark.parametrize("silent", ["prediction", "target", "both"])
def test_silence_has_finite_gradients(loss, speech: Tensor, silent: str) -> None:
    prediction = (noise(*speech.shape) * (silent == "target")).requires_grad_()
    value = loss(prediction, speech * (silent == "prediction"))
    value.backward()
    assert value.isfinite()
    assert prediction.grad.isfinite().all()


def test_a_clip_too_short_for_an_envelope_is_left_out() -> None:
    prediction = noise(1, 4800).requires_grad_()
    value = stoi_loss(prediction, noise(1, 4800, seed=1))
    value.backward()
    assert value == 0
    assert not prediction.grad.any()


def test_autocast_leaves_the_loss_in_fp32(loss, speech: Tensor) -> None:
    prediction = speech + noise(*speech.shape, level=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(prediction, speech)
    assert inside.dtype == torch.float32
    assert inside == loss(prediction, speech)


def test_descent_on_the_waveform_lowers_each_loss(loss, speech: Tensor) -> None:
    prediction = (speech + noise(*speech.shape, level=0.01)).requires_grad_()
    optimizer = torch.optim.Adam([prediction], lr=1e-3)
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        value = loss(prediction, speech)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.8 * values[0]


def test_bark_bands_cover_what_is_heard_and_nothing_above() -> None:
    bands = bark_bands(RATE, 768, torch.device("cpu"))
    covered = bands.bank.sum(1)
    assert bands.bank.shape == (1 + HEARD_HZ * 768 / RATE, BARK_BANDS)
    assert (bands.bank.sum(0) > 0).all()
    torch.testing.assert_close(covered[4:240], torch.ones(236))


def test_added_sound_costs_more_than_missing_sound(speech: Tensor) -> None:
    """The asymmetry of P.862: the same pair, either way round."""
    soft = 0.03 * speech
    tone = 0.02 * torch.sin(2 * torch.pi * 3000 * torch.arange(speech.shape[1]) / RATE)
    added, missing = disturbance_loss(soft + tone, soft), disturbance_loss(soft, soft + tone)
    assert added > 1.5 * missing


def test_what_lies_above_8_khz_is_not_heard(speech: Tensor) -> None:
    low, high = (
        0.05 * torch.sin(2 * torch.pi * hertz * torch.arange(speech.shape[1]) / RATE) for hertz in (3000, 10000)
    )
    for loss in LOSSES:
        assert loss(speech + high, speech) < 0.05 * loss(speech + low, speech)


def test_stoi_is_that_of_pystoi(speech: Tensor) -> None:
    stoi = pytest.importorskip("pystoi").stoi
    for level in (0.003, 0.01, 0.03):
        wav = speech + noise(*speech.shape, level=level)
        ours = 1 - float(stoi_loss(wav, speech))
        assert ours == pytest.approx(stoi(speech[0].numpy(), wav[0].numpy(), RATE), abs=0.03)


def test_disturbance_ranks_as_pesq_does(speech: Tensor) -> None:
    pesq = pytest.importorskip("pesq").pesq
    soxr = pytest.importorskip("soxr")
    scores, losses = [], []
    for level in (0.001, 0.003, 0.01, 0.03):
        wav = speech + noise(*speech.shape, level=level)
        clips = (soxr.resample(clip[0].numpy(), RATE, 16000) for clip in (speech, wav))
        scores.append(pesq(16000, *clips, "wb"))
        losses.append(float(disturbance_loss(wav, speech)))
    assert scores == sorted(scores, reverse=True)
    assert losses == sorted(losses)


def test_the_asymmetry_is_limited() -> None:
    """A factor above 12 counts as 12: twice as much of what is far too much adds no more than the symmetric part."""
    bands = bark_bands(24_000, 768, torch.device("cpu"))
    wanted = torch.full((1, 1, BARK_BANDS), 1e4)

    def asymmetric(times: float) -> float:
        louder = times * wanted
        slack = 0.25 * _loudness(wanted, bands.threshold)
        added = _loudness(louder, bands.threshold) - _loudness(wanted, bands.threshold)
        difference = (added - slack).relu() * bands.widths
        symmetric = (bands.widths.sum() * difference.square().sum()).sqrt()
        weight = ((wanted.sum() + 1e5) / 1e7) ** 0.04
        return float((_disturbance(louder, wanted, bands)[0, 0] * weight - symmetric) / 0.309 / difference.sum())

    assert asymmetric(4.0) == pytest.approx(4**1.2, rel=0.02)
    assert asymmetric(20.0) == pytest.approx(12, rel=0.02)
    assert asymmetric(2000.0) == pytest.approx(12, rel=0.02)
