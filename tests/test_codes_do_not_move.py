"""In float32 a clip has one result: alone, in any batch, at any number of threads, and as a stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mimotok import Tokenizer, load_audio
from mimotok.streaming import StreamEncoder
from mimotok.weights import WEIGHTS_NAME
from tests.helpers.paths import ROOT


def streamed(tokenizer: Tokenizer, wav: Tensor, block: int) -> Tensor:
    """Codes [n_q, F] of wav [T], given to a stream in blocks."""
    encoder = StreamEncoder(tokenizer)
    parts = [encoder.push(part[None]) for part in wav.split(block)]
    return torch.cat([*parts, encoder.flush()], dim=2)[0]


def assert_one_result(tokenizer: Tokenizer, wavs: list[Tensor], threads: int, block: int) -> None:
    torch.set_num_threads(1)
    alone = [tokenizer.encode(wav[None])[0] for wav in wavs]
    torch.set_num_threads(threads)
    codes, frames = tokenizer.encode(pad_sequence(wavs, batch_first=True), torch.tensor([len(wav) for wav in wavs]))
    for wanted, found, count in zip(alone, codes, frames.tolist(), strict=True):
        assert torch.equal(found[:, :count], wanted)
    assert torch.equal(tokenizer.encode(wavs[0][None])[0], alone[0])
    assert torch.equal(streamed(tokenizer, wavs[0], block), alone[0])


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 9_000), min_size=1, max_size=5),
    threads=st.integers(1, 3),
    block=st.integers(200, 6_000),
    loudness=st.sampled_from([1e-3, 0.1, 1.0]),
)
def test_random_batches(
    streamable: Callable[..., Tokenizer], lengths: list[int], threads: int, block: int, loudness: float
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    wavs = [loudness * torch.randn(length, generator=generator) for length in lengths]
    assert_one_result(streamable(), wavs, threads, block)


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "checkpoints/default" / WEIGHTS_NAME).is_file(), reason="no embedded checkpoint in this tree"
)
def test_speech_by_the_embedded_model() -> None:
    tokenizer = Tokenizer.from_pretrained()
    speech = load_audio(ROOT / "examples/sample.flac", tokenizer.sample_rate)[0]
    wavs = [speech[start : start + length] for start, length in ((0, 19_000), (50_000, 9_456), (90_000, 4_001))]
    assert_one_result(tokenizer, wavs, threads=2, block=4_800)
