"""Semantic distillation: what is wanted of each frame, and that neither padding nor other clips change it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.helpers.whispers import tiny_whisper
from train.losses.semantic import SemanticConfig, SemanticReader
from train.losses.speech import speech_feature_loss
from train.losses.whisper import WhisperEncoder

FRAME_SIZE = 960


class Clock:
    """A speech encoder whose features at 50 Hz tell the time: a frame's middle in seconds, and its powers."""

    width = 4

    def to(self, device: torch.device) -> Clock:  # noqa: ARG002
        return self

    def features(self, wav: Tensor, lengths: Tensor, layers: Sequence[int]) -> tuple[list[Tensor], Tensor]:  # noqa: ARG002
        time = (torch.arange(wav.shape[1] // 320) + 0.5) / 50
        powers = torch.stack([torch.ones_like(time), time, time.square(), time**3], -1)
        return [powers.expand(len(wav), -1, -1)], lengths // 320


def reader_of(encoder: object, **settings: float) -> SemanticReader:
    config = SemanticConfig(layer=1, **settings)  # type: ignore[arg-type]
    config._held["encoder"] = encoder  # type: ignore[assignment]
    torch.manual_seed(0)
    return SemanticReader(8, FRAME_SIZE, config)


@pytest.fixture(scope="module")
def whisper() -> WhisperEncoder:
    torch.manual_seed(0)
    return tiny_whisper()


@pytest.mark.parametrize("samples", [20 * FRAME_SIZE, 20 * FRAME_SIZE - 700])
def test_each_frame_is_held_against_the_features_of_its_own_time(samples: int) -> None:
    wanted = reader_of(Clock())._hear(torch.zeros(1, samples), torch.tensor([samples]), 20)
    middle = (torch.arange(20) + 0.5) / 25
    features, _ = Clock().features(torch.zeros(1, 20 * 640), torch.tensor([20 * 640]), [1])
    pairs = features[0].unflatten(1, (20, 2)).mean(2)
    torch.testing.assert_close(pairs[0, :, 1], middle)
    torch.testing.assert_close(wanted, torch.nn.functional.layer_norm(pairs, (4,)))


def test_a_reader_that_says_what_is_heard_has_no_loss(whisper: WhisperEncoder) -> None:
    reader = reader_of(whisper)
    wav = 0.1 * torch.randn(2, 9_600)
    samples = torch.tensor([9_600, 7_000])
    lengths = torch.tensor([10, 8])
    heard = reader._hear(wav, samples, 10)
    identity = SemanticReader(16, FRAME_SIZE, reader.config)
    with torch.no_grad():
        identity.bias.zero_()
        identity.weight.copy_(torch.eye(16))
    assert identity.loss(heard, lengths, wav, samples).item() < 1e-6
    assert identity.loss(-heard, lengths, wav, samples).item() == pytest.approx(2.0)


def test_padding_and_the_unheard_share_change_nothing(whisper: WhisperEncoder) -> None:
    reader = reader_of(whisper, share=0.5)
    wav = 0.1 * torch.randn(3, 9_600)
    frames = torch.randn(3, 10, 8)
    lengths = torch.tensor([10, 7, 10])
    samples = torch.tensor([9_600, 6_720, 9_600])
    loss = reader.loss(frames, lengths, wav, samples)
    changed = wav.clone()
    other = frames.clone()
    changed[1, 6_720:] = 1.0
    other[1, 7:] = 5.0
    changed[2] = 0.3
    other[2] = -other[2]
    torch.testing.assert_close(reader.loss(other, lengths, changed, samples), loss)
    # frames, not clips, weigh alike
    one = reader_of(whisper)
    alone = [one.loss(frames[i : i + 1], lengths[i : i + 1], wav[i : i + 1], samples[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(loss, (10 * alone[0] + 7 * alone[1]) / 17)


@pytest.mark.parametrize("rest", [1, 319, 320, 5_000])
def test_what_is_longer_than_the_encoder_hears_is_heard_in_parts(whisper: WhisperEncoder, rest: int) -> None:
    reach = whisper.shape.positions * 320
    wav = 0.1 * torch.randn(3, 2 * reach + rest)
    lengths = torch.tensor([2 * reach + rest, reach, reach // 2])
    (found,), frames = whisper.features(wav, lengths, [1])
    assert frames.tolist() == [-(-int(length) // 320) for length in lengths]
    assert found.shape[1] == frames.max()
    for row, length in enumerate(lengths.tolist()):
        for at in range(0, length, reach):
            part = wav[row, None, at : min(at + reach, length)]
            (alone,), (count,) = whisper.features(part, torch.tensor([part.shape[1]]), [1])
            torch.testing.assert_close(found[row, at // 320 :][:count], alone[0, :count], atol=1e-4, rtol=1e-4)


def test_long_clips_have_losses_and_gradients(whisper: WhisperEncoder) -> None:
    reach = whisper.shape.positions * 320
    wav = (0.1 * torch.randn(2, reach * 2)).requires_grad_()
    samples = torch.tensor([reach * 2, 4_000])
    loss = speech_feature_loss(whisper, wav, 0.1 * torch.randn_like(wav), samples, layers=[1], sample_rate=16_000)
    loss.backward()
    assert wav.grad is not None
    assert bool(wav.grad[0, reach + 1_000 :].any())
    reader = reader_of(whisper)
    frames = -(-reach * 2 * 3 // 2 // FRAME_SIZE)
    sound = 0.1 * torch.randn(1, frames * FRAME_SIZE)
    said = reader.loss(torch.randn(1, frames, 8), torch.tensor([frames]), sound, torch.tensor([sound.shape[1]]))
    assert 0 < float(said.detach()) < 2
