"""A wav through a pipe is heard as the same wav from a file: every sample of the sound, and nothing else."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.io.audio import load_audio
from mimotok.io.sound.wav_stream import SoundStream

RATE = 24_000
SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW")
NAMES = st.sampled_from([b"ID3 ", b"C2PA", b"JUNK", b"abcd"])
CHUNKS = st.lists(st.tuples(NAMES, st.binary(max_size=9) | st.just(bytes(9000))), max_size=3)


class Pipe(io.BytesIO):
    """Gives a few bytes at a time, as pipes may."""

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(min(7, size if size is not None and size >= 0 else 7))


def wav(samples: np.ndarray, *, container: str = "WAV", subtype: str = "PCM_16", endian: str = "FILE") -> bytes:
    data = io.BytesIO()
    soundfile.write(data, samples, RATE, format=container, subtype=subtype, endian=endian)
    return data.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def with_chunks(data: bytes, before: list[tuple[bytes, bytes]], behind: list[tuple[bytes, bytes]]) -> bytes:
    """The wav with chunks before and behind its sound, which is padded to an even number of bytes."""
    at = data.index(b"data")
    size = struct.unpack_from("<I", data, at + 4)[0]
    sound = data[at : at + 8 + size] + bytes(size % 2)
    body = data[12:at] + b"".join(chunk(*item) for item in before) + sound + b"".join(chunk(*item) for item in behind)
    return data[:4] + struct.pack("<I", len(body) + 4) + data[8:12] + body


def heard(data: bytes) -> np.ndarray:
    stream = SoundStream(Pipe(data))
    blocks = list(stream.blocks())
    stream.finish()
    return np.concatenate([np.zeros(0, np.float32), *blocks])


@settings(max_examples=60, deadline=None)
@given(
    subtype=st.sampled_from(SUBTYPES),
    container=st.sampled_from(["WAV", "WAVEX"]),
    endian=st.sampled_from(["LITTLE", "BIG"]),
    channels=st.integers(1, 3),
    length=st.integers(1, 40),
    before=CHUNKS,
    behind=CHUNKS,
)
def test_a_stream_holds_what_the_file_reader_finds(
    tmp_path_factory: pytest.TempPathFactory,
    subtype: str,
    container: str,
    endian: str,
    channels: int,
    length: int,
    before: list[tuple[bytes, bytes]],
    behind: list[tuple[bytes, bytes]],
) -> None:
    samples = np.random.default_rng(length).uniform(-0.9, 0.9, (length, channels))
    if container == "WAVEX" and subtype in ("ALAW", "ULAW"):
        container = "WAV"
    data = wav(samples, container=container, subtype=subtype, endian=endian if container == "WAV" else "FILE")
    if data[:4] == b"RIFF":
        data = with_chunks(data, before, behind)
    path = tmp_path_factory.mktemp("a") / "a.wav"
    path.write_bytes(data)
    np.testing.assert_array_equal(heard(data), load_audio(path, RATE)[0].numpy())


@pytest.mark.parametrize("declared", [0, 0xFFFFFFFF, 0x7FFFFFFF - 36, 0x80000000])
def test_a_size_that_no_program_can_know_means_until_the_end(declared: int) -> None:
    data = bytearray(wav(np.full(100, 0.5)))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", declared)
    data[4:8] = struct.pack("<I", 36 if declared == 0 else 0xFFFFFFFF)
    np.testing.assert_allclose(heard(bytes(data)), np.full(100, 0.5), atol=1e-4)


def test_an_empty_wav_before_other_chunks_has_no_sound() -> None:
    assert len(heard(with_chunks(wav(np.zeros(0)), [], [(b"LIST", bytes(400))]))) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-3], "3 bytes of its sound are missing"),
        (lambda data: data + data, "more sound follows"),
        (lambda data: with_chunks(data, [], [(b"LIST", b"abc"), (b"data", bytes(8))]), "more sound follows"),
        (lambda data: data[:20], "16 or more"),
        (lambda data: data[:40], "a wav without data"),
        (lambda data: data[:12] + data[data.index(b"data") :], "does not tell its format"),
    ],
)
def test_a_stream_that_breaks_its_promise_is_reported(spoil: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heard(spoil(wav(np.zeros(50))))


@pytest.mark.parametrize("container", ["FLAC", "OGG", "RF64", "AIFF", "W64", "CAF", "AU", "MP3"])
def test_other_containers_are_named_and_refused(container: str) -> None:
    data = io.BytesIO()
    soundfile.write(data, np.zeros(3000), RATE, format=container)
    with pytest.raises(ValueError, match=f"(?i)standard input: {container}, not a wav"):
        SoundStream(io.BytesIO(data.getvalue()))
    if container != "MP3":  # whose first bytes sound may have too
        with pytest.raises(ValueError, match="leave --raw out"):
            SoundStream(io.BytesIO(data.getvalue()), raw_rate=RATE)


def test_reading_goes_no_further_than_the_sound_before_it_is_given() -> None:
    source = io.BytesIO(with_chunks(wav(np.zeros(50)), [], [(b"LIST", bytes(5000))]))
    stream = SoundStream(source)
    assert sum(map(len, stream.blocks())) == 50
    assert source.tell() == source.getvalue().index(b"LIST")
    stream.finish()
    assert source.read() == b""
