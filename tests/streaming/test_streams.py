"""A stream gives what the whole file gives, however it is cut, and the items of a batch do not affect each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok import Tokenizer
from mimotok.model.mel import log_mel
from mimotok.streaming import StreamDecoder, StreamEncoder
from mimotok.streaming.streams import DecoderStreams, EncoderStreams

pytestmark = pytest.mark.slow

MODELS: dict[str, Any] = {
    "ours": {},
    "50 Hz": {"avg_pooler": 1},
    "causal": {"encoder_causal": True, "encoder_skip_layer_id": None, "vocoder_attn_window_size": (7, 0)},
    "odd look-ahead": {"encoder_attn_window_size": (4, 1), "encoder_skip_layer_id": 1},
    "even look-ahead": {"encoder_layers": 3, "encoder_attn_window_size": (4, 1)},
    "hop 256": {"hop_length": 256, "n_fft": 1024, "window_size": 1024},
    "hop 200": {"hop_length": 200, "n_fft": 960, "window_size": 800},
    "looking decoder": {"decoder_causal": False, "decoder_attn_window_size": (3, 2)},
    "wide kernel": {"decoder_kernel_size": 5, "ln_type": "RMSNorm"},
}
examples = settings(deadline=None, max_examples=6)


def parts_of(whole: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """`whole` cut along its last dimension, nothing empty."""
    parts, at = [], 0
    for size in sizes:
        parts.append(whole[..., at : at + size])
        at += size
    return [part for part in [*parts, whole[..., at:]] if part.shape[-1]]


@pytest.mark.parametrize("name", MODELS)
@examples
@given(length=st.integers(1, 20_000), sizes=st.lists(st.integers(1, 3_000), max_size=20), batch=st.integers(1, 2))
def test_encoder(streamable: Callable[..., Tokenizer], name: str, length: int, sizes: list[int], batch: int) -> None:
    tokenizer = streamable(**MODELS[name])
    wav = 0.3 * torch.randn(batch, length)
    stream = StreamEncoder(tokenizer, n_q=3)
    codes = torch.cat([*(stream.push(part) for part in parts_of(wav, sizes)), stream.flush()], dim=2)
    assert torch.equal(codes, tokenizer.encode(wav, n_q=3))


@pytest.mark.parametrize("name", MODELS)
@examples
@given(frames=st.integers(1, 30), sizes=st.lists(st.integers(1, 5), max_size=20), batch=st.integers(1, 2))
def test_decoder(streamable: Callable[..., Tokenizer], name: str, frames: int, sizes: list[int], batch: int) -> None:
    tokenizer = streamable(**MODELS[name])
    codes = torch.randint(0, 16, (batch, 4, frames))
    stream = StreamDecoder(tokenizer)
    wav = torch.cat([*(stream.push(part) for part in parts_of(codes, sizes)), stream.flush()], dim=1)
    torch.testing.assert_close(wav, tokenizer.decode(codes), atol=1e-5, rtol=1e-4)


def test_samples_come_as_soon_as_the_look_ahead_says(streamable: Callable[..., Tokenizer]) -> None:
    tokenizer = streamable()
    stream, encoder = StreamDecoder(tokenizer), StreamEncoder(tokenizer)
    given_ms = come_ms = 0.0
    latest = 0.0
    for _ in range(30):
        given_ms += 40
        come_ms += 1000 * stream.push(torch.zeros(1, 4, 1, dtype=torch.int64)).shape[1] / 24_000
        assert come_ms >= given_ms - stream.look_ahead_ms - 1e-6
        assert come_ms <= given_ms
        latest = max(latest, given_ms - come_ms)
    # and no sooner than by a hop
    assert latest > stream.look_ahead_ms - 10
    given_ms = come_ms = latest = 0.0
    for _ in range(60):
        given_ms += 10
        come_ms += 40 * encoder.push(torch.zeros(1, 240)).shape[2]
        assert come_ms >= given_ms - encoder.look_ahead_ms - 40 - 1e-6
        latest = max(latest, given_ms - come_ms)
    assert latest > encoder.look_ahead_ms


def test_nothing_grows_with_the_stream(streamable: Callable[..., Tokenizer]) -> None:
    tokenizer = streamable()
    encoder, decoder = StreamEncoder(tokenizer), StreamDecoder(tokenizer)

    def sizes() -> dict[str, int]:
        return {name: tensor.numel() for stream in (encoder, decoder) for name, tensor in stream.state.items()}

    def second() -> None:
        encoder.push(torch.randn(1, 24_000))
        decoder.push(torch.zeros(1, 4, 25, dtype=torch.int64))

    second()
    before = sizes()
    for _ in range(5):
        second()
    assert sizes() == before


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("at", [0, 1, 9, 60])
def test_a_decoder_goes_on_from_a_saved_state(
    streamable: Callable[..., Tokenizer], tiny: Callable[..., Tokenizer], exact: bool, at: int
) -> None:
    tokenizer = streamable() if exact else tiny()
    codes = torch.randint(0, 16, (1, 4, 70))
    stream = StreamDecoder(tokenizer)
    if at:
        stream.push(codes[:, :, :at])
    saved = stream.state
    other = StreamDecoder(tokenizer)
    other.push(codes[:, :, :3])
    other.state = saved
    rest = torch.cat([stream.push(codes[:, :, at:]), stream.flush()], 1)
    assert torch.equal(torch.cat([other.push(codes[:, :, at:]), other.flush()], 1), rest)


@pytest.mark.parametrize("at", [0, 1, 300, 20_000])
def test_an_encoder_goes_on_from_a_saved_state(streamable: Callable[..., Tokenizer], at: int) -> None:
    tokenizer = streamable()
    wav = 0.3 * torch.randn(1, 24_000)
    stream, other = StreamEncoder(tokenizer), StreamEncoder(tokenizer)
    other.push(wav[:, :5000])
    if at:
        stream.push(wav[:, :at])
    other.state = stream.state
    rest = torch.cat([stream.push(wav[:, at:]), stream.flush()], 2)
    assert torch.equal(torch.cat([other.push(wav[:, at:]), other.flush()], 2), rest)


def test_an_ended_stream_is_refused_until_it_is_reset(
    streamable: Callable[..., Tokenizer], tiny: Callable[..., Tokenizer]
) -> None:
    wav = 0.3 * torch.randn(1, 24_000)
    encoder = StreamEncoder(streamable())
    streams: list[tuple[Any, torch.Tensor]] = [
        (encoder, wav),
        *((StreamDecoder(model), encoder.tokenizer.encode(wav)) for model in (streamable(), tiny())),
    ]
    for stream, whole in streams:
        first = torch.cat([stream.push(whole), stream.flush()], -1)
        for use in (lambda stream=stream, whole=whole: stream.push(whole), stream.flush):
            with pytest.raises(ValueError, match="call reset"):
                use()
        stream.reset()
        assert torch.equal(torch.cat([stream.push(whole), stream.flush()], -1), first)


def test_a_refused_push_leaves_the_stream_as_it_was(
    streamable: Callable[..., Tokenizer], tiny: Callable[..., Tokenizer]
) -> None:
    codes = torch.randint(0, 16, (1, 4, 50))
    spoilt = [codes[:, :, :0], codes + 1000, codes[:, :2], codes.repeat(2, 1, 1), codes[0], codes.float()]
    for model in (streamable(), tiny()):
        stream, undisturbed = StreamDecoder(model), StreamDecoder(model)
        for each in (stream, undisturbed):
            each.push(codes[:, :, :45])
        for wrong in spoilt:
            with pytest.raises(ValueError, match="codes"):
                stream.push(wrong)
        parts = [(each.push(codes[:, :, 45:]), each.flush()) for each in (stream, undisturbed)]
        assert torch.equal(torch.cat(parts[0], 1), torch.cat(parts[1], 1))
    model = streamable()
    wav = 0.3 * torch.randn(1, 24_000)
    encoder = StreamEncoder(model)
    blocks = [encoder.push(wav[:, :7000])]
    for wrong in (wav[:, :0], wav[0], wav.repeat(2, 1), wav.long(), wav / 0):
        with pytest.raises(ValueError, match="wav"):
            encoder.push(wrong)
    blocks += [encoder.push(wav[:, 7000:]), encoder.flush()]
    assert torch.equal(torch.cat(blocks, 2), model.encode(wav))


def test_items_of_a_batch_begin_and_end_at_any_time(streamable: Callable[..., Tokenizer]) -> None:
    """Five streams of different lengths over two items of a batch; each takes the next stream once it has drained."""
    tokenizer = streamable()
    waiting = [torch.randint(0, 16, (4, frames)) for frames in (7, 1, 12, 3, 5)]
    wanted = [tokenizer.decode(codes[None])[0] for codes in waiting]
    streams = DecoderStreams(tokenizer)
    drain = -(-streams.look_ahead // 4)
    queue = list(range(5))
    active = [-1, -1]
    out: dict[int, list[torch.Tensor]] = {i: [] for i in range(5)}
    left = [0, 0]
    for _ in range(80):
        codes, valid = torch.zeros(2, 4, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.bool)
        for item in (0, 1):
            if left[item] == 0 and queue:
                active[item] = queue.pop(0)
                left[item] = waiting[active[item]].shape[1] + drain
                streams.state.reset(torch.arange(2) == item)
            stream = active[item]
            at = waiting[stream].shape[1] + drain - left[item]
            if stream >= 0 and at < waiting[stream].shape[1]:
                codes[item, :, 0], valid[item, 0] = waiting[stream][:, at], True
        wav, known = streams.step(codes, valid)
        for item in (0, 1):
            if left[item]:
                out[active[item]].append(wav[item, known[item]].flatten())
                left[item] -= 1
    for stream, expected in enumerate(wanted):
        torch.testing.assert_close(torch.cat(out[stream]), expected, atol=1e-5, rtol=1e-4)


def test_encoder_streams_are_independent(streamable: Callable[..., Tokenizer]) -> None:
    tokenizer = streamable()
    wavs = [0.3 * torch.randn(1, 24_000), 0.3 * torch.randn(1, 9_600 - 240)]
    mels = [log_mel(wav, None, tokenizer.config)[0] for wav in wavs]
    streams = EncoderStreams(tokenizer)
    size = 4 * (-(-mels[0].shape[1] // 4) + streams.look_ahead)
    mel, valid = torch.zeros(2, size, tokenizer.config.n_mels), torch.zeros(2, size, dtype=torch.bool)
    for row, (frames, start) in enumerate(zip(mels, (0, 24), strict=True)):
        mel[row, start : start + frames.shape[1]] = frames[0]
        valid[row, start : start + frames.shape[1]] = True
    steps = [streams.step(a, b) for a, b in zip(mel.split(4, 1), valid.split(4, 1), strict=True)]
    codes, known = torch.cat([s[0] for s in steps], 2), torch.cat([s[1] for s in steps], 1)
    for row, wav in enumerate(wavs):
        assert torch.equal(codes[row : row + 1, :, known[row]], tokenizer.encode(wav))


def test_official_models(tiny: Callable[..., Tokenizer]) -> None:
    """The overlap scheme: no code is decoded with less than 40 behind it, none with more than 250 before it."""
    tokenizer = tiny()
    codes = torch.randint(0, 16, (1, 4, 330))
    stream = StreamDecoder(tokenizer)
    assert stream.push(codes[:, :, :40]).shape == (1, 0)
    parts = [stream.push(codes[:, :, 40:300]), stream.push(codes[:, :, 300:]), stream.flush()]
    assert [part.shape[1] // 960 for part in parts] == [260, 30, 40]
    torch.testing.assert_close(parts[0], tokenizer.decode(codes[:, :, :300])[:, : 260 * 960])
    torch.testing.assert_close(parts[1], tokenizer.decode(codes[:, :, 10:])[:, 250 * 960 : 280 * 960])
    assert stream.look_ahead_ms == 1600
    with pytest.raises(ValueError, match="cannot encode a stream exactly"):
        StreamEncoder(tokenizer)


def test_empty_streams_are_refused(streamable: Callable[..., Tokenizer], tiny: Callable[..., Tokenizer]) -> None:
    for stream in (StreamDecoder(streamable()), StreamDecoder(tiny()), StreamEncoder(streamable())):
        with pytest.raises(ValueError, match="ended before its first"):
            stream.flush()


@pytest.mark.parametrize("size", [1, 3, 240, 480, 960])
def test_a_buffer_that_is_recorded_into_again(streamable: Callable[..., Tokenizer], size: int) -> None:
    tokenizer = streamable()
    wav = 0.3 * torch.randn(1, 20 * size)
    buffer = torch.empty(1, size)
    stream = StreamEncoder(tokenizer)
    given = []
    for part in wav.split(size, dim=1):
        given.append(stream.push(buffer.copy_(part)))
    assert torch.equal(torch.cat([*given, stream.flush()], dim=2), tokenizer.encode(wav))


@pytest.mark.parametrize("name", MODELS)
def test_codes_in_a_tensor_that_is_written_to_again(streamable: Callable[..., Tokenizer], name: str) -> None:
    tokenizer = streamable(**MODELS[name])
    codes = torch.randint(0, 16, (1, 4, 12))
    buffer = torch.empty_like(codes[:, :, :1])
    streams = StreamDecoder(tokenizer), StreamDecoder(tokenizer)
    sounds = []
    for stream, copied in zip(streams, (False, True), strict=True):
        parts = [stream.push(part.clone() if copied else buffer.copy_(part)) for part in codes.split(1, dim=2)]
        sounds.append(torch.cat([*parts, stream.flush()], dim=1))
    assert torch.equal(*sounds)


def test_steps_of_another_shape_are_refused_before_anything_changes(streamable: Callable[..., Tokenizer]) -> None:
    tokenizer = streamable()
    stride = tokenizer.config.frame_stride
    mel = torch.zeros(1, stride, tokenizer.config.n_mels)
    codes = torch.zeros(1, 2, 3, dtype=torch.int64)
    encoder, decoder = EncoderStreams(tokenizer), DecoderStreams(tokenizer)
    for step, frames, valid, message in (
        (encoder.step, mel[:, : stride - 1], torch.ones(1, stride - 1), f"n a multiple of {stride}"),
        (encoder.step, mel[0], torch.ones(1, stride), "give \\[B, n, n_mels\\]"),
        (encoder.step, mel, torch.ones(1, stride), "valid is torch.float32"),
        (encoder.step, mel, torch.ones(1, stride + 1, dtype=torch.bool), f"give torch.bool \\[1, {stride}\\]"),
        (decoder.step, codes, torch.ones(1, 2, dtype=torch.bool), "give torch.bool \\[1, 3\\]"),
    ):
        with pytest.raises(ValueError, match=message):
            step(frames, valid)
    assert not encoder.state.tensors()
    assert not decoder.state.tensors()


def test_a_stream_keeps_no_gradients(streamable: Callable[..., Tokenizer]) -> None:
    stream = StreamEncoder(streamable())
    for block in (0.1 * torch.randn(1, 9600)).requires_grad_().split(700, dim=1):
        stream.push(block)
    assert not any(tensor.requires_grad for tensor in stream.state.values())


def test_streams_of_inference_mode_are_reset_outside_of_it(streamable: Callable[..., Tokenizer]) -> None:
    tokenizer = streamable()
    streams = DecoderStreams(tokenizer)
    codes = torch.randint(0, 16, (2, 4, 5))
    valid = torch.ones(2, 5, dtype=torch.bool)
    with torch.inference_mode():
        first = streams.step(codes, valid)
    streams.state.reset(torch.tensor([True, False]))
    again = streams.step(codes, valid)
    assert torch.allclose(again.wav[0], first.wav[0])
    assert not torch.allclose(again.wav[1], first.wav[1])
