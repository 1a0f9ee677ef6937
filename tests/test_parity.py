"""Tokens and waveforms of the official implementation, reproduced on its own checkpoint format."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mimotok import Tokenizer
from mimotok.model.mel import log_mel
from tests.helpers.paths import PARITY

MODELS = ["a", "c"]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    folder = PARITY / request.param
    return Tokenizer.from_pretrained(folder), dict(np.load(folder / "expected.npz"))


def clips(expected: dict[str, np.ndarray]) -> list[int]:
    return [int(key.removeprefix("wav")) for key in expected if key.startswith("wav")]


def test_mel_and_latents(model: tuple[Tokenizer, dict[str, np.ndarray]]) -> None:
    tokenizer, expected = model
    for i in clips(expected):
        wav = torch.from_numpy(expected[f"wav{i}"])[None]
        mel, _ = log_mel(wav, None, tokenizer.config)
        np.testing.assert_allclose(mel[0].numpy(), expected[f"mel{i}"], atol=1e-4)
        np.testing.assert_allclose(tokenizer.encode_latents(wav).values[0].numpy(), expected[f"latents{i}"], atol=1e-4)


def test_codes_are_equal(model: tuple[Tokenizer, dict[str, np.ndarray]]) -> None:
    tokenizer, expected = model
    for i in clips(expected):
        codes = tokenizer.encode(torch.from_numpy(expected[f"wav{i}"])[None])
        np.testing.assert_array_equal(codes[0].numpy(), expected[f"codes{i}"])


def test_waveforms(model: tuple[Tokenizer, dict[str, np.ndarray]]) -> None:
    tokenizer, expected = model
    decoded = [key for key in expected if key.startswith("decoded")]
    assert decoded
    for key in decoded:
        clip, n_q = key.removeprefix("decoded").split("_q")
        codes = torch.from_numpy(expected[f"codes{clip}"][: int(n_q)].astype(np.int64))[None]
        wav = tokenizer.decode(codes)[0].numpy()
        assert wav.shape == expected[key].shape
        np.testing.assert_allclose(wav, expected[key], atol=1e-4)


def test_padded_batch_of_the_fixture_clips(model: tuple[Tokenizer, dict[str, np.ndarray]]) -> None:
    tokenizer, expected = model
    wavs = [torch.from_numpy(expected[f"wav{i}"]) for i in clips(expected)]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    codes, frames = tokenizer.encode(batch, torch.tensor([len(wav) for wav in wavs]))
    for row, i in enumerate(clips(expected)):
        np.testing.assert_array_equal(codes[row, :, : int(frames[row])].numpy(), expected[f"codes{i}"])
