"""Sound files: what goes in comes out, at the right length, and what cannot be read or written is refused."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.io import audio
from mimotok.io.audio import AudioWriter, load_audio, read_blocks, save_audio

CONTAINERS = {
    "wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_24"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "aiff": ("AIFF", "PCM_16"),
}


def noise(num_samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (num_samples, channels)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 24000) -> Path:
    container, encoding = CONTAINERS[path.suffix[1:]]
    soundfile.write(path, samples, rate, format=container, subtype=encoding)
    return path


def resampled_length(num_samples: int, rate: int, target: int) -> int:
    return max(1, (2 * num_samples * target + rate) // (2 * rate))


@settings(max_examples=40, deadline=None)
@given(
    rate=st.integers(8000, 192000) | st.sampled_from([8000, 16000, 24000, 44100, 48000, 96000, 192000]),
    channels=st.integers(1, 9),
    num_samples=st.integers(1, 30) | st.integers(1, 20000),
)
def test_any_rate_length_and_channels(tmp_path_factory: pytest.TempPathFactory, rate, channels, num_samples) -> None:
    samples = noise(num_samples, channels)
    wav = load_audio(write(tmp_path_factory.mktemp("a") / "in.wav", samples, rate), 24000)
    assert wav.dtype == torch.float32
    assert wav.shape == (1, resampled_length(num_samples, rate, 24000))
    expected = soxr.resample(samples.mean(axis=1), rate, 24000, quality="VHQ")
    assert np.array_equal(wav[0, : len(expected)].numpy(), expected)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(block=st.integers(1, 5000), rate=st.sampled_from([8000, 24000, 44100, 192000]), channels=st.integers(1, 3))
def test_blocks_together_are_the_whole_file(tmp_path_factory: pytest.TempPathFactory, block, rate, channels) -> None:
    path = write(tmp_path_factory.mktemp("a") / "in.wav", noise(9000, channels), rate)
    whole = load_audio(path, 24000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "_BLOCK_VALUES", block)
        blocks = list(read_blocks(path, 24000))
    assert torch.equal(torch.cat(blocks, dim=1), whole)
    assert len(blocks) > 1
    assert max(b.shape[1] for b in blocks) < 24000  # bounded: about one block each


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "opus", "aiff"])
@pytest.mark.parametrize("channels", [1, 2])
def test_compressed_files_read_forwards_to_their_end(
    tmp_path: Path, suffix: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"in.{suffix}", noise(50_001, channels), 48000)
    whole = load_audio(path, 48000)
    assert whole.shape == (1, 50_001)
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 3001)
    assert torch.equal(torch.cat(list(read_blocks(path, 48000)), dim=1), whole)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = noise(1000)
    path = write(tmp_path / "in.wav", np.concatenate([left, -left], axis=1))
    assert load_audio(path, 24000).abs().max() == 0


def id3(text: bytes) -> bytes:
    """An ID3 tag, as may stand before the first frame of an MP3."""
    size = 1000 + len(text)
    return b"ID3\4\0\0" + bytes([0, 0, size >> 7, size & 127]) + text + bytes(1000)


@pytest.mark.parametrize("before", [b"", id3(b"Xing\0\0\0\3\xff\xff\xff\xff\xff\xff\xff\xff")])
def test_mp3_without_a_length_tag_is_read_to_its_end(tmp_path: Path, before) -> None:
    path = tmp_path / "in.mp3"
    fading = noise(100_000) * np.linspace(0, 1, 100_000, dtype=np.float32)[:, None] ** 4
    options = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5}
    with soundfile.SoundFile(path, "w", 48000, 1, "MPEG_LAYER_III", **options) as file:
        file.write(fading)
    data = path.read_bytes()
    second = data.index(data[:2], 40)
    path.write_bytes(before + data[second:])
    assert load_audio(path, 48000).shape[1] >= 100_000


@pytest.mark.parametrize("kept", [1.0, 0.995, 0.5])
def test_mp3_with_a_length_tag_behind_an_id3_tag(
    tmp_path: Path, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.mp3", noise(100_000), 48000)
    data = path.read_bytes()
    path.write_bytes(id3(b"Info") + data[: int(kept * len(data))])
    if kept == 1:
        assert load_audio(path, 48000).shape == (1, 100_000)
    else:
        with pytest.raises(ValueError, match="truncated"):
            load_audio(path, 48000)
    assert capfd.readouterr().err == ""  # libmpg123 has its say on files cut short


def test_wav_streamed_to_a_pipe_has_a_placeholder_for_its_size(tmp_path: Path) -> None:
    path = write(tmp_path / "in.wav", noise(1000))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert load_audio(path, 24000).shape == (1, 1000)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus", "aiff"])
@pytest.mark.parametrize("kept", [0.98, 0.7, 0.3, 0.002])
def test_cut_short(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write(tmp_path / f"in.{suffix}", noise(100_000), 48000)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"in\.\w+: (truncated|not audio|empty)") as caught:
        load_audio(path, 24000)
    assert "\n" not in str(caught.value)


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / ("in.raw" if kind == "raw suffix" else "in.wav")
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "no samples":
        write(path, noise(0))
    elif kind in ("text", "raw suffix"):
        path.write_text("this is no sound\n" * 100)
    elif kind in ("nan", "inf", "huge"):
        samples = noise(30_000)
        samples[-1] = {"nan": np.nan, "inf": -np.inf, "huge": 1e30}[kind]
        write(path, samples, 44100)
    elif kind in ("rate 7999", "rate 192001"):
        write(path, noise(100), int(kind.split()[1]))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("folder", "not a regular file"),
        ("empty", "0 bytes"),
        ("no samples", "0 samples"),
        ("text", "not audio"),
        ("raw suffix", "without a header"),
        ("nan", "NaN"),
        ("inf", "infinite"),
        ("huge", "absurdly large"),
        ("rate 7999", "7999 Hz is outside 8000 to 192000"),
        ("rate 192001", "192001 Hz is outside"),
    ],
)
def test_bad_files_are_reported_in_one_line(tmp_path: Path, kind: str, message: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(ValueError, match=message) as caught:
        load_audio(path, 24000)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["wav", "flac", "w64", "ogg", "opus", "mp3"])
@settings(max_examples=8, deadline=None)
@given(num_samples=st.integers(1, 70_000), seed=st.integers(0, 9))
def test_saved_audio_has_every_sample(tmp_path_factory: pytest.TempPathFactory, suffix: str, num_samples, seed) -> None:
    path = tmp_path_factory.mktemp("a") / f"out.{suffix}"
    wav = torch.from_numpy(noise(num_samples, seed=seed)[:, 0])
    save_audio(path, wav[None], 24000)
    back = load_audio(path, 24000)
    assert back.shape == (1, num_samples)
    if suffix in ("wav", "flac", "w64"):
        assert (back[0] - wav).abs().max() <= 1 / 32768


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_is_written_and_clipped(tmp_path: Path, dtype) -> None:
    save_audio(tmp_path / "out.wav", torch.tensor([0.0, 2.0, -3.0, 0.5], dtype=dtype), 24000)
    assert load_audio(tmp_path / "out.wav", 24000)[0] == pytest.approx([0, 1, -1, 0.5], abs=1e-4)


def test_blocks_written_one_by_one_give_the_same_file(tmp_path: Path) -> None:
    wav = torch.from_numpy(noise(10_000).T)
    save_audio(tmp_path / "whole.wav", wav, 24000)
    with AudioWriter(tmp_path / "blocks.wav", 24000) as writer:
        for block in wav.split(777, dim=1):
            writer.write(block)
    assert writer.num_samples == 10_000
    assert (tmp_path / "blocks.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError, AssertionError])
def test_nothing_is_left_by_a_writer_that_was_interrupted(tmp_path: Path, error) -> None:
    def interrupted(path):
        with AudioWriter(path, 24000) as writer:
            writer.write(torch.zeros(1, 5000))
            raise error("stop")

    with pytest.raises(error, match="stop"):
        interrupted(tmp_path / "out.wav")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="NaN"):
        save_audio(path, torch.tensor([0.0, float("nan")]), 24000)
    with pytest.raises(ValueError, match="exists already"):
        save_audio(path, torch.zeros(10), 24000, overwrite=False)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]
    save_audio(path, torch.zeros(10), 24000)
    assert load_audio(path, 24000).shape == (1, 10)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.wav").touch()
    (tmp_path / "link.wav").symlink_to("real.wav")
    save_audio(tmp_path / "link.wav", torch.zeros(10), 24000)
    assert (tmp_path / "link.wav").is_symlink()
    assert load_audio(tmp_path / "real.wav", 24000).shape == (1, 10)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_full_disk_is_reported(tmp_path: Path, suffix: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"out\.\w+: cannot be written \(File too large"):
            save_audio(tmp_path / f"out.{suffix}", torch.from_numpy(noise(400_000)[:, 0]), 24000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/out.wav", "does not exist"),
        ("file/out.wav", "not a folder"),
        ("folder.wav", "is a folder"),
        ("out.xyz", "no sound format '.xyz'"),
        ("out", "no sound format ''"),
        ("x" * 300 + ".wav", "name too long"),
        ("out.opus", "Opus only supports"),
    ],
)
def test_unwritable_outputs(tmp_path: Path, name, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"(?i){message}") as caught:
        save_audio(tmp_path / name, torch.zeros(100), 22050)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_pipe_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="not a regular file"):
        save_audio(pipe, torch.zeros(10), 24000)
    with pytest.raises(ValueError, match="not a regular file"):
        load_audio(pipe, 24000)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    "wav",
    [torch.zeros(2, 10), torch.zeros(1, 1, 10), torch.zeros(10, dtype=torch.int16), torch.zeros(1, 0)],
)
def test_wrong_tensors_are_refused(tmp_path: Path, wav) -> None:
    with pytest.raises(ValueError, match=r"wav (must be|has shape)"):
        save_audio(tmp_path / "out.wav", wav, 24000)
    assert list(tmp_path.iterdir()) == []
