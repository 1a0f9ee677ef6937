"""Sound through pipes: the same codes and samples as of files, and first sound before the last is in."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from mimotok import Tokenizer
from mimotok.io.codes.mimo import mimo_bytes, read_mimo
from mimotok.io.codes.mimo_layout import MimoHeader
from mimotok.io.codes_file import CodesFile
from mimotok.streaming.pipes import decode_pipe, encode_pipe
from tests.helpers.warm_python import warm_python

pytestmark = pytest.mark.slow


def pcm(wav: np.ndarray) -> bytes:
    return (wav * 32767).round().astype("<i2").tobytes()


def wav_file(wav: np.ndarray, rate: int, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, rate, subtype=subtype, format="WAV")
    return buffer.getvalue()


def codes_of(stream: bytes, n_q: int) -> np.ndarray:
    codes = read_mimo(io.BytesIO(stream)).codes
    assert len(codes) == n_q
    return codes


@pytest.fixture
def sound() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(30_000)).astype(np.float32)


def test_raw_sound_and_back(streamable: Callable[..., Tokenizer], sound: np.ndarray) -> None:
    tokenizer, coded, heard = streamable(), io.BytesIO(), io.BytesIO()
    encode_pipe(tokenizer, io.BytesIO(pcm(sound)), coded, n_q=3, raw=True)
    exact = torch.from_numpy(np.frombuffer(pcm(sound), "<i2").astype(np.float32) / 32768)[None]
    wanted = tokenizer.encode(exact, n_q=3)
    assert np.array_equal(codes_of(coded.getvalue(), 3), wanted[0].numpy())
    decode_pipe(tokenizer, io.BytesIO(coded.getvalue()), heard)
    samples = np.frombuffer(heard.getvalue()[44:], "<i2") / 32767
    np.testing.assert_allclose(samples, tokenizer.decode(wanted)[0].clamp(-1, 1).numpy(), atol=1e-4)
    assert heard.getvalue()[:4] == b"RIFF"


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (16_000, 2), (44_100, 1)])
def test_wav_of_any_rate(streamable: Callable[..., Tokenizer], sound: np.ndarray, rate: int, channels: int) -> None:
    tokenizer, coded = streamable(), io.BytesIO()
    encode_pipe(tokenizer, io.BytesIO(wav_file(np.stack([sound] * channels, 1), rate)), coded)
    exact = np.frombuffer(pcm(sound), "<i2").astype(np.float32) / 32768
    wanted = tokenizer.encode(torch.from_numpy(soxr.resample(exact, rate, 24_000, "VHQ"))[None])[0].numpy()
    got = codes_of(coded.getvalue(), 4)
    assert got.shape == wanted.shape
    assert (got == wanted).mean() > 0.98


def test_raw_sound_is_not_what_has_a_header_and_ends_with_a_sample(
    streamable: Callable[..., Tokenizer], sound: np.ndarray
) -> None:
    for given, message in ((wav_file(sound, 24_000), "leave --raw out"), (b"\0\0\0", "ends within a sample")):
        with pytest.raises(ValueError, match=message):
            encode_pipe(streamable(), io.BytesIO(given), io.BytesIO(), raw=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "before its first sample"),
        (b"\0\0\0", "not a wav; send wav"),
        (wav_file(np.zeros(9), 24_000, "IMA_ADPCM"), "send PCM or float"),
        (wav_file(np.full(9, 2.0**14), 24_000, "FLOAT"), "divide 16-bit ones by 32768"),
        (wav_file(np.zeros(9), 24_000)[:-1], "1 bytes of its sound are missing"),
        (wav_file(np.zeros(9), 24_000) * 2, "more sound follows"),
        (wav_file(np.zeros(9), 4_000), "4000 Hz is outside"),
        (b"RIFF\0\0\0\0WAVE", "a wav without data"),
    ],
)
def test_bad_sound(streamable: Callable[..., Tokenizer], given: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_pipe(streamable(), io.BytesIO(given), io.BytesIO())


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("given", [b"", b"fLaC" + bytes(100), wav_file(np.zeros(9), 4_000)])
def test_refused_sound_leaves_no_half_of_a_file(given: bytes, entropy: bool) -> None:
    coded = io.BytesIO()
    with pytest.raises(ValueError, match=r"standard input|before its first sample"):
        encode_pipe(Tokenizer.from_pretrained(), io.BytesIO(given), coded, entropy=entropy)
    assert not coded.getvalue()


def test_bad_codes(streamable: Callable[..., Tokenizer], sound: np.ndarray) -> None:
    tokenizer, coded = streamable(), io.BytesIO()
    encode_pipe(tokenizer, io.BytesIO(pcm(sound)), coded, raw=True)
    for given, message in (
        (b"", "not a stream of codes"),
        (b"{}\n", "not a stream of codes"),
        (pcm(sound), "not a stream of codes"),
        (coded.getvalue()[:-1], "ends within a frame, after 31 whole ones"),
        (coded.getvalue()[:50] + b"\xff" + coded.getvalue()[51:], "the checksum of frames 0 to 24 does not match"),
        (MimoHeader((16,) * 9, 24000, 960, "0" * 16).to_bytes(), "n_q=9"),
        (MimoHeader((16,) * 3, 24000, 480, "0" * 16).to_bytes(), "480 samples a frame"),
        (MimoHeader((16, 15), 24000, 960, "0" * 16).to_bytes(), r"codebooks \(16, 15\) do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_pipe(tokenizer, io.BytesIO(given), io.BytesIO())
    other = streamable(n_mels=24)
    with pytest.raises(ValueError, match="codes made by a model with sha256"):
        decode_pipe(other, io.BytesIO(coded.getvalue()), io.BytesIO())
    decode_pipe(other, io.BytesIO(coded.getvalue()), io.BytesIO(), force=True)


def test_a_whole_file_comes_through_a_pipe_to_its_last_sample(
    streamable: Callable[..., Tokenizer], sound: np.ndarray
) -> None:
    tokenizer, heard = streamable(), io.BytesIO()
    codes = tokenizer.encode(torch.from_numpy(sound)[None])
    sizes = tokenizer.codebook_sizes
    held = codes[0].numpy().astype(np.uint16)
    file = CodesFile(held, len(sound), 24000, 25.0, sizes, "tiny", tokenizer.identity.sha256)
    data = mimo_bytes(file)
    decode_pipe(tokenizer, io.BytesIO(data), heard)
    samples = np.frombuffer(heard.getvalue()[44:], "<i2") / 32767
    wanted = tokenizer.decode(codes, length=len(sound))[0].clamp(-1, 1).numpy()
    np.testing.assert_allclose(samples, wanted, atol=1e-4)
    # what is whole of a stream that was cut is heard before the error
    cut = io.BytesIO()
    with pytest.raises(ValueError, match="ends after 17 of 32 frames"):
        decode_pipe(tokenizer, io.BytesIO(data[: -len(data) // 3]), cut)
    assert len(cut.getvalue()) == 44 + 2 * 960 * 17


def test_command_line_answers_while_the_sound_is_still_coming(
    streamable: Callable[..., Tokenizer], tmp_path: Path
) -> None:
    streamable().save_pretrained(tmp_path)
    command = [warm_python(), "-m", "mimotok"]
    options = ["--stream", "--model", str(tmp_path)]
    encoder = subprocess.Popen([*command, "encode", "--raw", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    decoder = subprocess.Popen([*command, "decode", *options], stdin=encoder.stdout, stdout=subprocess.PIPE)
    assert encoder.stdin is not None
    assert decoder.stdout is not None
    encoder.stdin.write(bytes(2 * 24_000))
    encoder.stdin.flush()
    first = os.read(decoder.stdout.fileno(), 44 + 2 * 960)  # waits for ever if nothing comes before the end
    assert first.startswith(b"RIFF")
    encoder.stdin.write(bytes(2 * 24_000))
    encoder.stdin.close()
    rest = first + decoder.stdout.read()
    assert len(rest) == 44 + 2 * 960 * streamable().num_frames(48_000)
    assert encoder.wait() == decoder.wait() == 0


def test_command_line_errors() -> None:
    command = [warm_python(), "-m", "mimotok", "decode", "--stream"]
    done = subprocess.run([*command, "a.npz"], input=b"", capture_output=True)
    assert done.returncode == 2
    assert b"takes no files" in done.stderr
    done = subprocess.run([*command, "--overwrite"], input=b"", capture_output=True)
    assert done.returncode == 2
    assert b"--overwrite: --stream reads standard input" in done.stderr
    assert done.stderr.count(b"\n") == 1
