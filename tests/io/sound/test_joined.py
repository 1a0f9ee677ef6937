"""A sound file is read whole or refused: files joined end to end, several streams, Ogg without a mark of its end."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mimotok.io.audio import load_audio
from mimotok.io.sound.ogg import _checksum

RATE = 24_000
# as soundfile has them: all that libsndfile writes and reads again
FORMATS = [name for name in soundfile.available_formats() if name not in ("RAW", "SD2")]
COMMON = ("WAV", "FLAC", "MP3", "OGG", "AIFF", "AU", "CAF", "RF64", "W64")


def sound(num_samples: int) -> np.ndarray:
    return 0.3 * np.sin(np.arange(num_samples) * 0.1) + 0.05 * np.random.default_rng(0).standard_normal(num_samples)


def encoded(container: str, num_samples: int, subtype: str | None = None) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, sound(num_samples), RATE, format=container, subtype=subtype)
    return data.getvalue()


def require_whole_or_refused(path: Path, *parts: bytes) -> None:
    """Joined, the parts give no more and no less than their sounds one after another, or an error of one line."""
    lengths = []
    for part in parts:
        path.write_bytes(part)
        lengths.append(load_audio(path, RATE).shape[1])
    path.write_bytes(b"".join(parts))
    assert length_or_refusal(path) in (None, sum(lengths))


def length_or_refusal(path: Path) -> int | None:
    with suppress(ValueError):
        return load_audio(path, RATE).shape[1]
    return None


@pytest.mark.parametrize("container", FORMATS)
def test_files_of_one_format_joined_end_to_end_are_whole_or_refused(tmp_path: Path, container: str) -> None:
    require_whole_or_refused(tmp_path / "a", encoded(container, 24_000), encoded(container, 36_000))


@pytest.mark.parametrize("first", COMMON)
@pytest.mark.parametrize("second", ["WAV", "FLAC", "MP3", "OGG"])
def test_files_of_two_formats_joined_end_to_end_are_whole_or_refused(tmp_path: Path, first: str, second: str) -> None:
    require_whole_or_refused(tmp_path / "a", encoded(first, 24_000), encoded(second, 36_000))


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "OGG", "AIFF"])
@pytest.mark.parametrize(
    "tail", [bytes(3000), b"TAG" + b"a title".ljust(125, b"\0"), b"ID3\4\0\0\0\0\x10\0" + bytes(2048)]
)
def test_tags_and_zeros_behind_a_sound_are_no_sound(tmp_path: Path, container: str, tail: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(container, 24_000) + tail)
    if container == "FLAC":  # libFLAC takes them for damage
        assert length_or_refusal(path) in (None, 24_000)
    else:
        assert load_audio(path, RATE).shape == (1, 24_000)


def test_a_wav_of_unknown_size_joined_to_another_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded("WAV", 1000))
    at = data.index(b"data") + 4
    data[4:8] = b"\xff\xff\xff\xff"
    data[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert load_audio(tmp_path / "a.wav", RATE).shape == (1, 1000)
    (tmp_path / "a.wav").write_bytes(data + data)
    with pytest.raises(ValueError, match="a second WAV header"):
        load_audio(tmp_path / "a.wav", RATE)


def test_a_wav_whose_size_has_wrapped_round_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("WAV", 1000))
    with path.open("r+b") as file:
        file.truncate((1 << 32) + 2044)  # sparse
    with pytest.raises(ValueError, match="more than 4 GiB"):
        load_audio(path, RATE)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_complete_ogg_without_a_mark_of_its_end_is_read(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.ogg"
    data = bytearray(encoded("OGG", 100_001, subtype))
    path.write_bytes(data)
    whole = load_audio(path, RATE)
    last = data.rfind(b"OggS")
    data[last + 5] &= ~4
    data[last + 22 : last + 26] = bytes(4)
    data[last + 22 : last + 26] = _checksum(data[last:]).to_bytes(4, "little")
    path.write_bytes(data)
    assert load_audio(path, RATE).equal(whole)
    assert path.read_bytes() == data
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="truncated"):
        load_audio(path, RATE)


@pytest.mark.parametrize("scale", [127, 2.0**15, 2.0**31])
def test_integers_stored_as_floats_are_refused_with_their_peak(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(1000) * scale, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav: absurdly large samples, peak .*integers stored as floats"):
        load_audio(path, RATE)
    soundfile.write(path, sound(1000) * 10, RATE, subtype="FLOAT")  # a mix that is far too loud is still sound
    assert load_audio(path, RATE).abs().max() > 2
