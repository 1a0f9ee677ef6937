"""Codecs by name: ours, the system's tools where they are installed, and errors that say what to install."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.codecs.base import CodecSpec, Frames
from eval.codecs.copy import averaged
from eval.codecs.registry import expand_specs, make_codec
from eval.codecs.system import ogg_payload_bits
from eval.protocol import SAMPLE_RATE, resample
from mimotok.tokenizer import Tokenizer
from mimotok.weights import CONFIG_NAME
from tests.helpers.evaluation_speech import speech


def test_specs_expand_our_models_over_n_q_and_nothing_else() -> None:
    specs = expand_specs(["default", "opus:6", "org/model@3", "hf:org/mimi@8", "copy", "vocoder:dir"], [2, 4])
    assert [spec.label for spec in specs] == [
        "default n_q=2",
        "default n_q=4",
        "opus:6",
        "org/model n_q=3",
        "hf:org/mimi n_q=8",
        "copy",
        "vocoder:dir",
    ]


@pytest.mark.parametrize("name", ["opus", "hf:", "mp3:128", "", "features"])
def test_what_cannot_be_a_codec_is_reported(name: str) -> None:
    with pytest.raises(ValueError, match="give a model"):
        expand_specs([name], [])


def test_a_codec_given_twice_is_reported() -> None:
    with pytest.raises(ValueError, match="twice"):
        expand_specs(["copy", "copy"], [])


@pytest.fixture
def folder(tmp_path: Path, tiny: Callable[..., Tokenizer]) -> str:
    tiny().save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def test_our_model_gives_what_the_library_gives_with_its_bits(folder: str) -> None:
    wav = speech(1.0)
    codec = make_codec(CodecSpec(folder, 2))
    result = codec.encode_decode(wav)
    model = Tokenizer.from_pretrained(folder)
    frames = result.codes.shape[1]
    assert result.codes.shape == (2, model.num_frames(len(wav)))
    assert result.wav.shape == wav.shape
    assert result.stream_bits == pytest.approx(frames * sum(map(math.log2, model.codebook_sizes[:2])))
    assert result.file_bits > result.stream_bits
    assert codec.nominal_bitrate == model.bitrate(2)
    assert codec.identity["sha256"] == model.weights_sha256


@pytest.mark.parametrize("prefix", ["", "vocoder:"])
def test_the_same_weights_with_other_settings_are_another_codec(prefix: str, folder: str) -> None:
    """Otherwise a report's cached figures would pass for those of the new settings."""
    before = make_codec(CodecSpec(prefix + folder))
    config = Path(folder, CONFIG_NAME)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantizer_settings": {"beam": 2}}))
    after = make_codec(CodecSpec(prefix + folder))
    assert before.identity["sha256"] == after.identity["sha256"]
    assert before.identity != after.identity


def frames_of(codec: Any, wav: np.ndarray) -> Frames:
    return codec.frames(wav)


def test_frames_are_the_vectors_that_the_codes_stand_for(folder: str) -> None:
    wav = speech(1.0)
    codec = make_codec(CodecSpec(folder, 2))
    frames = frames_of(codec, wav)
    model = Tokenizer.from_pretrained(folder)
    codes = codec.encode_decode(wav).codes
    assert codes is not None
    assert frames.codes is not None
    assert np.array_equal(frames.codes, codes)
    books = model.encoder.quantizer.codebooks()
    expected = torch.stack([books[book].embed[frames.codes[book]] for book in range(2)]).sum(0)
    np.testing.assert_allclose(frames.vectors, expected.numpy(), atol=1e-5)
    assert frames.rate == model.frame_rate


def test_unquantized_frames_are_the_models_latents(folder: str) -> None:
    wav = speech(0.5)
    frames = frames_of(make_codec(CodecSpec(f"vocoder:{folder}")), wav)
    latents = Tokenizer.from_pretrained(folder).encode_latents(torch.from_numpy(wav)[None]).values[0]
    assert frames.codes is None
    np.testing.assert_allclose(frames.vectors, latents.numpy(), atol=1e-5)


def test_log_mel_frames_last_40_ms_and_follow_the_sound() -> None:
    wav = speech(1.0)
    wav[12000:] = 0
    frames = frames_of(make_codec(CodecSpec("features:mel")), wav)
    assert len(frames.vectors) in (25, 26)
    assert frames.rate == 25
    assert frames.vectors[2:10].mean() > frames.vectors[15:23].mean() + 1


def test_averages_of_neighbours_keep_the_last_ones() -> None:
    vectors = np.arange(10, dtype=np.float32)[:, None]
    assert averaged(vectors, 4).ravel().tolist() == [1.5, 5.5, 8.5]


def test_too_many_codebooks_are_reported(folder: str) -> None:
    with pytest.raises(ValueError, match="codebooks"):
        make_codec(CodecSpec(folder, 99))


def test_the_vocoder_row_has_no_bits(folder: str) -> None:
    result = make_codec(CodecSpec(f"vocoder:{folder}")).encode_decode(speech(0.5))
    assert result.stream_bits is None
    assert result.wav.shape == speech(0.5).shape


def test_copy_is_exact_and_a_lower_rate_limits_the_band() -> None:
    wav = speech(1.0)
    assert np.array_equal(make_codec(CodecSpec("copy")).encode_decode(wav).wav, wav)
    narrow = make_codec(CodecSpec("copy:8000")).encode_decode(wav).wav
    power = np.abs(np.fft.rfft(narrow)) ** 2
    assert power[round(4200 * len(narrow) / SAMPLE_RATE) :].sum() < 1e-6 * power.sum()


@pytest.mark.parametrize(
    ("name", "tool", "least", "most"),
    [("opus:8", "opusenc", 4000, 10000), ("codec2:1600", "c2enc", 1600, 1700), ("speex:4", "speexenc", 5000, 15000)],
)
def test_tools_code_at_their_bitrate_and_keep_the_length(name: str, tool: str, least: int, most: int) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    codec = make_codec(CodecSpec(name))
    wav = resample(speech(2.0), SAMPLE_RATE, codec.sample_rate)
    result = codec.encode_decode(wav)
    assert abs(len(result.wav) - len(wav)) <= 0.1 * codec.sample_rate
    assert least <= result.stream_bits / 2.0 <= most
    assert result.file_bits >= result.stream_bits
    assert np.abs(result.wav).max() > 0.1


@pytest.mark.parametrize(
    ("name", "package"), [("opus:6", "opus-tools"), ("codec2:1600", "codec2"), ("speex:4", "speex")]
)
def test_a_missing_tool_names_its_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match=f"apt-get install {package}"):
        make_codec(CodecSpec(name))


@pytest.mark.parametrize("name", ["opus:x", "opus:5", "codec2:1500", "speex:11", "copy:1", "features:none"])
def test_settings_that_a_tool_lacks_are_reported(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make_codec(CodecSpec(name))


@given(st.lists(st.integers(0, 700), min_size=2, max_size=8))
def test_ogg_payload_is_all_packets_but_the_two_headers(sizes) -> None:
    data = b""
    for size in sizes:
        segments = bytes([255] * (size // 255) + [size % 255])
        data += b"OggS" + bytes(22) + bytes([len(segments)]) + segments + bytes(size)
    assert ogg_payload_bits(data) == 8 * sum(sizes[2:])


def test_what_is_not_ogg_is_reported() -> None:
    with pytest.raises(ValueError, match="not an Ogg"):
        ogg_payload_bits(b"RIFF" + bytes(40))
