"""Chunked encoding and decoding against the whole file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok import Tokenizer, chunking
from mimotok.model.mel import log_mel
from mimotok.streaming.blocks import decode_blocks, encode_blocks
from mimotok.streaming.mel_stream import MelStream

pytestmark = pytest.mark.slow

cuts = st.lists(st.integers(0, 4_000), max_size=12)
fixture_ok = settings(deadline=None, max_examples=25)


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "SEGMENT_MEL_FRAMES", 24)
    monkeypatch.setattr("mimotok.tokenizer.GROUP_SECONDS", 1)


def split(wav: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    parts, at = [], 0
    for size in sizes:
        parts.append(wav[:, at : at + size])
        at += size
    return [*parts, wav[:, at:]]


@fixture_ok
@given(length=st.integers(1, 12_000), sizes=cuts)
def test_mel_stream_equals_whole(streamable: Callable[..., Tokenizer], length: int, sizes: list[int]) -> None:
    config = streamable().config
    wav = torch.randn(1, length)
    stream = MelStream(config)
    frames = torch.cat([*(stream.push(part) for part in split(wav, sizes)), stream.flush()], dim=1)
    torch.testing.assert_close(frames, log_mel(wav, None, config)[0])


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("changes", [{}, {"avg_pooler": 1}, {"encoder_attn_window_size": (-1, -1)}])
@settings(deadline=None, max_examples=12)
@given(length=st.integers(1, 24_000), sizes=cuts)
def test_encode_blocks_equals_whole(
    streamable: Callable[..., Tokenizer], changes: dict, length: int, sizes: list[int]
) -> None:
    tokenizer = streamable(**changes)
    wav = 0.3 * torch.randn(1, length)
    codes = torch.cat(list(encode_blocks(tokenizer, split(wav, sizes), n_q=3)), dim=2)
    assert torch.equal(codes, tokenizer.encode(wav, n_q=3))
    if tokenizer.config.encoder_is_bounded:
        whole = tokenizer.encoder(log_mel(wav, None, tokenizer.config)[0])
        torch.testing.assert_close(tokenizer.encode_latents(wav).values, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("changes", [{}, {"avg_pooler": 1}, {"hop_length": 256, "n_fft": 1024, "window_size": 1024}])
@settings(deadline=None, max_examples=12)
@given(frames=st.integers(1, 60), cut=st.integers(0, 900))
def test_decode_blocks_equals_whole(streamable: Callable[..., Tokenizer], changes: dict, frames: int, cut: int) -> None:
    tokenizer = streamable(**changes)
    codes = torch.randint(0, 16, (1, 4, frames))
    length = max(1, frames * tokenizer.frame_size - cut)
    wav = torch.cat(list(decode_blocks(tokenizer, codes, length=length)), dim=1)
    whole = tokenizer.decoder(tokenizer.dequantize(codes))[:, :length]
    torch.testing.assert_close(wav, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokenizer.decode(codes, length=length), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("short_segments")
@settings(deadline=None, max_examples=12)
@given(frames=st.lists(st.integers(1, 36), min_size=2, max_size=3))
def test_a_long_batch_gives_what_each_clip_gives(streamable: Callable[..., Tokenizer], frames: list[int]) -> None:
    tokenizer, lengths = streamable(), torch.tensor(frames)
    codes = torch.randint(0, 16, (len(frames), 4, max(frames)))
    samples = lengths * tokenizer.frame_size - 7
    wav, _ = tokenizer.decode(codes, lengths)
    latents, counts = tokenizer.encode_latents(wav, samples)
    for row, (count, size) in enumerate(zip(frames, samples.tolist(), strict=True)):
        alone = tokenizer.decode(codes[row : row + 1, :, :count])
        torch.testing.assert_close(wav[row : row + 1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-5)
        assert not wav[row, alone.shape[1] :].any()
        alone = tokenizer.encode_latents(wav[row : row + 1, :size]).values
        torch.testing.assert_close(latents[row : row + 1, : counts[row]], alone, atol=1e-5, rtol=1e-5)
        assert not latents[row, counts[row] :].any()


def test_contexts_are_the_receptive_fields(streamable: Callable[..., Tokenizer]) -> None:
    """What a gradient reaches, counted in code frames, is what the contexts say: neither less nor more."""
    tokenizer = streamable()
    mel = torch.randn(1, 160, tokenizer.config.n_mels, requires_grad=True)
    tokenizer.encoder(mel)[:, 20].sum().backward()
    assert mel.grad is not None
    touched = mel.grad.abs().sum(-1)[0].nonzero().flatten() // tokenizer.config.frame_stride
    assert (20 - int(touched.min()), int(touched.max()) - 20) == tokenizer.chunking.encoder_context

    quantized = torch.randn(1, 40, tokenizer.config.d_model, requires_grad=True)
    size = tokenizer.frame_size
    tokenizer.decoder(quantized)[:, 20 * size : 21 * size].square().sum().backward()
    assert quantized.grad is not None
    touched = quantized.grad.abs().sum(-1)[0].nonzero().flatten()
    assert (20 - int(touched.min()), int(touched.max()) - 20) == tokenizer.chunking.decoder_context


def test_official_models_use_the_published_overlap(tiny: Callable[..., Tokenizer]) -> None:
    tokenizer = tiny()
    assert tokenizer.chunking.decoder_context == (250, 40)
    codes = torch.randint(0, 16, (1, 2, 1600))
    wav = torch.cat(list(decode_blocks(tokenizer, codes)), dim=1)
    wanted = tokenizer.decode(codes[:, :, : 1500 + 40])[:, : 1500 * 960]
    torch.testing.assert_close(wav[:, : 1500 * 960], wanted, atol=1e-5, rtol=1e-5)
    wanted = tokenizer.decode(codes[:, :, 1500 - 250 :])[:, 250 * 960 :]
    torch.testing.assert_close(wav[:, 1500 * 960 :], wanted, atol=1e-5, rtol=1e-5)


def test_long_audio_through_unlimited_attention_is_cut_like_the_official_pipeline(
    tiny: Callable[..., Tokenizer],
) -> None:
    tokenizer = tiny()
    wav = 0.1 * torch.randn(1, 24_000 * 61)
    mel, _ = log_mel(wav, None, tokenizer.config)
    parts = [tokenizer.encoder(mel[:, :6000]), tokenizer.encoder(mel[:, 6000:])]
    torch.testing.assert_close(tokenizer.encode_latents(wav).values, torch.cat(parts, 1), atol=1e-5, rtol=1e-5)


def test_an_empty_stream_is_refused(streamable: Callable[..., Tokenizer]) -> None:
    with pytest.raises(ValueError, match="before its first sample"):
        list(encode_blocks(streamable(), []))


def test_the_mel_of_long_audio_is_made_in_blocks(
    streamable: Callable[..., Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = streamable().config
    wav = 0.1 * torch.randn(2, 9_600)
    whole, _ = log_mel(wav, None, config)
    for size in (1, 7, 40, 41):
        monkeypatch.setattr("mimotok.model.mel.BLOCK_FRAMES", size)
        torch.testing.assert_close(log_mel(wav, None, config)[0], whole)
