"""Sound that others decoded is what `load_audio` reads of the same file; what changes codes is reported."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimotok import load_audio


@dataclass
class Samples:
    """As torchcodec's AudioSamples."""

    data: Tensor
    sample_rate: int
    pts_seconds: float = 0.0


class Decoder:
    """As torchcodec's AudioDecoder of a file of two channels at 16 kHz."""

    metadata = SimpleNamespace(sample_rate=16000, num_channels=2)

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def get_all_samples(self) -> Samples:
        return self.samples


@settings(max_examples=12)
@given(
    st.integers(1, 3),
    st.integers(1, 3000),
    st.sampled_from([8000, 16000, 24000, 44100]),
    st.sampled_from(["tuple", "samples"]),
)
def test_a_decoded_sound_is_that_of_its_file(
    tmp_path_factory: pytest.TempPathFactory, channels: int, samples: int, rate: int, form: str
) -> None:
    wav = np.random.default_rng(samples).uniform(-1, 1, (samples, channels)).astype(np.float32)
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    soundfile.write(path, wav, rate, "FLOAT")
    waveform = torch.from_numpy(wav.T)
    source: Any = (waveform, rate) if form == "tuple" else Samples(waveform, rate)
    assert torch.equal(load_audio(source, 24000), load_audio(path, 24000))


def test_a_decoder_is_read_and_what_it_changed_is_reported() -> None:
    waveform = torch.rand(2, 1600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load_audio(Decoder(Samples(waveform, 16000)), 16000), waveform.mean(0, keepdim=True))
    with pytest.warns(UserWarning, match="mixed 2 channels to 1 at another level .* make it without num_channels"):
        load_audio(Decoder(Samples(waveform[:1], 16000)), 16000)
    with pytest.warns(UserWarning, match="resampled from 16000 to 24000 Hz .* make it without sample_rate"):
        load_audio(Decoder(Samples(waveform, 24000)), 16000)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((torch.zeros(1, 10, dtype=torch.int16), 16000), "normalize=True"),
        ((torch.zeros(1, 0), 16000), "no audio"),
        ((torch.zeros(1, 1, 10), 16000), r"\[1, 1, 10\]"),
        ((np.zeros((1, 10)), 16000), "a tensor"),
        ((torch.zeros(1, 10), 16000.5), "16000.5 Hz"),
        ((torch.zeros(1, 10), 4000), "outside 8000"),
        ((torch.full((1, 10), torch.nan), 16000), "NaN"),
        ((torch.full((1, 10), 3000.0), 16000), "absurdly large"),
    ],
)
def test_what_is_no_decoded_sound_is_reported(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_audio(source, 24000)
