"""A clip's codes and waveform do not depend on what shares its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from mimotok import Tokenizer

CONFIGS: dict[str, Any] = {
    "official": {},
    "causal": {"encoder_causal": True, "encoder_skip_layer_id": None},
    "50 Hz": {"avg_pooler": 1},
    "rms": {"ln_type": "RMSNorm"},
    "windows": {"encoder_attn_window_size": (6, 3), "decoder_attn_window_size": (9, -1)},
    "hybrid": {
        "encoder_causal": True,
        "encoder_attn_window_size": (4, 0),
        "hybrid_attention": True,
        "swa_per_block": 2,
    },
    "hop 256": {"hop_length": 256, "n_fft": 1024, "window_size": 1024, "fmin": 40.0, "fmax": 8000.0},
    "layer": {"upsample_norm": "layer", "mel_floor": 1e-3},
    "silu": {"activation_function": "silu", "encoder_attn_window_size": (-1, 2)},
}


@pytest.mark.parametrize("name", CONFIGS)
@settings(deadline=None, max_examples=8)
@given(lengths=st.lists(st.integers(1, 9_000), min_size=2, max_size=4))
def test_batch_equals_single(tiny: Callable[..., Tokenizer], name: str, lengths: list[int]) -> None:
    tokenizer = tiny(**CONFIGS[name])
    generator = torch.Generator().manual_seed(sum(lengths))
    wavs = [0.2 * torch.randn(length, generator=generator) for length in lengths]
    codes, frames = tokenizer.encode(pad_sequence(wavs, batch_first=True), torch.tensor(lengths))
    decoded, samples = tokenizer.decode(codes, frames)
    latents, latent_frames = tokenizer.encode_latents(pad_sequence(wavs, batch_first=True), torch.tensor(lengths))
    assert torch.equal(frames, latent_frames)
    assert frames.tolist() == [tokenizer.num_frames(length) for length in lengths]
    assert samples.tolist() == [int(f) * tokenizer.frame_size for f in frames]
    for i, wav in enumerate(wavs):
        alone = tokenizer.encode(wav[None])
        size = int(frames[i])
        alone_latents = tokenizer.encode_latents(wav[None]).values[0]
        torch.testing.assert_close(latents[i, :size], alone_latents, atol=1e-4, rtol=1e-4)
        assert torch.equal(codes[i, :, :size], alone[0])
        assert not codes[i, :, size:].any()
        wanted = tokenizer.decode(alone)[0]
        torch.testing.assert_close(decoded[i, : int(samples[i])], wanted, atol=1e-5, rtol=1e-5)
        assert not decoded[i, int(samples[i]) :].any()


def test_padding_content_is_ignored(tiny: Callable[..., Tokenizer]) -> None:
    tokenizer = tiny()
    wav = 0.1 * torch.randn(1, 9_999)
    loud = torch.cat([wav, 5 * torch.ones(1, 3_333)], dim=1)
    codes, frames = tokenizer.encode(loud, torch.tensor([9_999]))
    assert torch.equal(codes[:, :, : int(frames)], tokenizer.encode(wav))
