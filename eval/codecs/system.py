"""Opus, Codec2 and Speex through the system's command-line tools, where they are installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from eval.codecs.base import CodecResult, CodecSpec, Timer

TIMEOUT = 600  # seconds for one clip: only a tool that hangs takes longer
CODEC2_MODES = ("3200", "2400", "1600", "1400", "1300", "1200", "700C", "450")
OGG_HEADER_PACKETS = 2  # identification and comments, in Opus and in Speex


class Opus:
    """`opusenc --bitrate KBPS` of opus-tools, with 20 ms frames and the settings for speech."""

    sample_rate = 24000
    codebook_sizes: tuple[int, ...] = ()
    nominal_bitrate: float | None

    def __init__(self, spec: CodecSpec, kbps: str) -> None:
        """Find the tools.

        Args:
            spec: names the codec in reports.
            kbps: bitrate to request from the encoder, 6 to 256 kbit/s.

        Raises:
            ValueError: `kbps` is outside.
            FileNotFoundError: the tools are not installed.
        """
        requested = _number(spec.name, kbps, 6, 256)
        self.encoder = _tool("opusenc", "opus-tools")
        self.decoder = _tool("opusdec", "opus-tools")
        self.label = spec.label
        self.nominal_bitrate = 1000 * requested
        self.options = ["--quiet", "--bitrate", f"{requested:g}", "--framesize", "20", "--speech", "--padding", "0"]
        self.identity: dict[str, Any] = {
            "kind": "opus",
            "options": self.options,
            "tool": _first_line([self.encoder, "--version"]),
        }

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Code wav [T] at 24 kHz and reconstruct it, as `Codec.encode_decode`."""
        encode = [self.encoder, *self.options]
        decode = [self.decoder, "--quiet", "--rate", str(self.sample_rate), "--no-dither"]
        return _through_ogg(encode, decode, wav, self.sample_rate)


class Codec2:
    """`c2enc MODE`, at 8 kHz."""

    sample_rate = 8000
    codebook_sizes: tuple[int, ...] = ()
    nominal_bitrate: float | None

    def __init__(self, spec: CodecSpec, mode: str) -> None:
        """Find the tools.

        Args:
            spec: names the codec in reports.
            mode: bit/s as c2enc names it, one of CODEC2_MODES.

        Raises:
            ValueError: there is no such mode.
            FileNotFoundError: the tools are not installed.
        """
        if mode not in CODEC2_MODES:
            raise ValueError(f"codec {spec.name!r}: codec2 has the modes {', '.join(CODEC2_MODES)}")
        self.encoder = _tool("c2enc", "codec2")
        self.decoder = _tool("c2dec", "codec2")
        self.label = spec.label
        self.mode = mode
        self.nominal_bitrate = float(mode.rstrip("C"))
        # the tools do not print their version
        self.identity: dict[str, Any] = {"kind": "codec2", "mode": mode}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Code wav [T] at 8 kHz and reconstruct it, as `Codec.encode_decode`."""
        with tempfile.TemporaryDirectory() as folder:
            source, coded, result = (Path(folder, name) for name in ("in.raw", "coded.bit", "out.raw"))
            # the encoder drops an unfinished last frame, 40 ms at the most
            padded = np.pad(wav, (0, 320))
            np.clip(np.round(padded * 32768), -32768, 32767).astype("<i2").tofile(source)
            with Timer() as encoding:
                _call([self.encoder, self.mode, str(source), str(coded)])
            with Timer() as decoding:
                _call([self.decoder, self.mode, str(coded), str(result)])
            decoded = np.fromfile(result, "<i2").astype(np.float32) / 32768
            bits = 8 * coded.stat().st_size
            return CodecResult(decoded[: len(wav)], None, bits, bits, encoding.seconds, decoding.seconds)


class Speex:
    """`speexenc --quality Q`, wideband at 16 kHz."""

    sample_rate = 16000
    codebook_sizes: tuple[int, ...] = ()
    nominal_bitrate: float | None = None

    def __init__(self, spec: CodecSpec, quality: str) -> None:
        """Find the tools.

        Args:
            spec: names the codec in reports.
            quality: 0 to 10.

        Raises:
            ValueError: `quality` is outside.
            FileNotFoundError: the tools are not installed.
        """
        requested = _number(spec.name, quality, 0, 10)
        self.encoder = _tool("speexenc", "speex")
        self.decoder = _tool("speexdec", "speex")
        self.label = spec.label
        self.options = ["--wideband", "--quality", f"{requested:g}"]
        version = _first_line([self.encoder, "--version"])
        self.identity: dict[str, Any] = {"kind": "speex", "options": self.options, "tool": version}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Code wav [T] at 16 kHz and reconstruct it, as `Codec.encode_decode`."""
        return _through_ogg([self.encoder, *self.options], [self.decoder], wav, self.sample_rate)


def ogg_payload_bits(data: bytes) -> int:
    """Count the bits of the speech packets in an Ogg file, without page headers and the two header packets.

    Raises ValueError where `data` is not Ogg.
    """
    packets = []
    size = 0
    position = 0
    while position < len(data):
        if data[position : position + 4] != b"OggS" or position + 27 > len(data):
            raise ValueError("not an Ogg file, or a damaged one")
        count = data[position + 26]
        segments = data[position + 27 : position + 27 + count]
        for length in segments:
            size += length
            if length < 255:  # a full segment is continued by the next one
                packets.append(size)
                size = 0
        position += 27 + count + sum(segments)
    return 8 * sum(packets[OGG_HEADER_PACKETS:])


def _through_ogg(encode: list[str], decode: list[str], wav: np.ndarray, sample_rate: int) -> CodecResult:
    """Code wav [T] with tools that write Ogg; each command gets an input and an output file as last arguments."""
    with tempfile.TemporaryDirectory() as folder:
        source, coded, result = (Path(folder, name) for name in ("in.wav", "coded.ogg", "out.wav"))
        soundfile.write(source, wav, sample_rate, "PCM_16")
        with Timer() as encoding:
            _call([*encode, str(source), str(coded)])
        with Timer() as decoding:
            _call([*decode, str(coded), str(result)])
        decoded, _ = soundfile.read(result, dtype="float32")
        bits = ogg_payload_bits(coded.read_bytes())
        return CodecResult(decoded, None, bits, 8 * coded.stat().st_size, encoding.seconds, decoding.seconds)


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ValueError(f"codec {name!r}: give a number from {least:g} to {most:g} after the colon")
    return value


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: apt-get install {package}, or your system's package of it")
    return path


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _call(command: list[str]) -> None:
    """Run a tool. Raises RuntimeError of one line where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{Path(command[0]).name} did not end within {TIMEOUT} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{Path(command[0]).name} failed with exit code {done.returncode}: {last}")
