"""Codecs of transformers, at small random configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.codecs.base import CodecSpec
from eval.codecs.registry import make_codec
from eval.protocol import SAMPLE_RATE, resample
from tests.helpers.evaluation_speech import speech

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def encodec():
    return transformers.EncodecModel(
        transformers.EncodecConfig(
            target_bandwidths=[1.5, 3.0],
            num_filters=4,
            hidden_size=16,
            codebook_dim=16,
            num_lstm_layers=1,
            upsampling_ratios=[8, 5, 4, 2],
        )
    )


def mimi():
    return transformers.MimiModel(
        transformers.MimiConfig(
            num_filters=4,
            hidden_size=32,
            codebook_size=64,
            codebook_dim=16,
            vector_quantization_hidden_dimension=16,
            num_quantizers=4,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            upsample_groups=32,
            intermediate_size=32,
        )
    )


def dac():
    return transformers.DacModel(
        transformers.DacConfig(
            encoder_hidden_size=8,
            decoder_hidden_size=64,
            downsampling_ratios=[2, 4, 8, 8],
            upsampling_ratios=[8, 8, 4, 2],
            n_codebooks=3,
            codebook_size=32,
            hidden_size=128,
        )
    )


EXTRACTORS = {
    "encodec": lambda: transformers.EncodecFeatureExtractor(sampling_rate=24000),
    "mimi": lambda: transformers.EncodecFeatureExtractor(sampling_rate=24000),
    "dac": lambda: transformers.DacFeatureExtractor(sampling_rate=16000, hop_length=512),
}
MODELS = {"encodec": encodec, "mimi": mimi, "dac": dac}


@pytest.fixture(params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path: Path):
    torch.manual_seed(0)
    MODELS[request.param]().eval().save_pretrained(tmp_path / request.param)
    EXTRACTORS[request.param]().save_pretrained(tmp_path / request.param)
    return f"hf:{tmp_path / request.param}"


@pytest.mark.slow
def test_codecs_of_transformers_code_and_keep_the_length(saved) -> None:
    full = make_codec(CodecSpec(saved))
    wav = resample(speech(1.0), SAMPLE_RATE, full.sample_rate)
    result = full.encode_decode(wav)
    assert abs(len(result.wav) - len(wav)) <= 0.05 * full.sample_rate
    assert result.codes.shape[0] == len(full.codebook_sizes)
    assert result.codes.max() < full.codebook_sizes[0]
    # one second may end within a frame
    assert full.nominal_bitrate <= result.stream_bits <= 1.3 * full.nominal_bitrate

    fewer: Any = make_codec(CodecSpec(saved, 2))
    frames = fewer.frames(wav)
    assert np.array_equal(frames.codes, result.codes[:2])
    assert len(frames.vectors) == frames.codes.shape[1]
    assert len(frames.vectors) / frames.rate == pytest.approx(1, abs=0.1)
    assert fewer.nominal_bitrate == pytest.approx(full.nominal_bitrate * 2 / len(full.codebook_sizes))
    assert fewer.encode_decode(wav).wav.shape == result.wav.shape
    with pytest.raises(ValueError, match="codebooks"):
        make_codec(CodecSpec(saved, 99))
