"""Opus, Codec2 and Speex through the system's command-line tools, where they are installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from eval.codecs.base import CodecResult, CodecSpec, timed

TIMEOUT = 600  # seconds for one clip: only a tool that hangs takes longer
CODEC2_MODES = ("3200", "2400", "1600", "1400", "1300", "1200", "700C", "450", "450PWB")
OGG_HEADER_PACKETS = 2  # identification and comments, in Opus and in Speex


class Opus:
    """`opusenc --bitrate KBPS`, constrained to 20 ms frames of speech, as opus-tools and its libopus do it."""

    sample_rate = 24000
    codebook_sizes: tuple[int, ...] = ()
    nominal_bitrate: float | None

    def __init__(self, spec: CodecSpec, kbps: str) -> None:
        """kbps: asked of the encoder, 6 to 256. Raises ValueError outside, FileNotFoundError without the tools."""
        asked = _number(spec.name, kbps, 6, 256)
        self.encoder, self.decoder = _tool("opusenc", "opus-tools"), _tool("opusdec", "opus-tools")
        self.label, self.nominal_bitrate = spec.label, 1000 * asked
        self.options = ["--quiet", "--bitrate", f"{asked:g}", "--framesize", "20", "--speech", "--padding", "0"]
        self.identity: dict[str, Any] = {
            "kind": "opus",
            "options": self.options,
            "tool": _first_line([self.encoder, "--version"]),
        }

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: [T] at 24 kHz."""
        with tempfile.TemporaryDirectory() as folder:
            source, coded, result = (Path(folder, name) for name in ("in.wav", "coded.opus", "out.wav"))
            soundfile.write(source, wav, self.sample_rate, "PCM_16")
            with timed() as encoding:
                _call([self.encoder, *self.options, str(source), str(coded)])
            with timed() as decoding:
                options = ["--quiet", "--rate", str(self.sample_rate), "--no-dither"]
                _call([self.decoder, *options, str(coded), str(result)])
            return _result(result, coded, ogg_payload_bits(coded.read_bytes()), encoding, decoding)


class Codec2:
    """`c2enc MODE`, at 8 kHz."""

    sample_rate = 8000
    codebook_sizes: tuple[int, ...] = ()
    nominal_bitrate: float | None

    def __init__(self, spec: CodecSpec, mode: str) -> None:
        """mode: bit/s as c2enc names it. Raises ValueError for others, FileNotFoundError without the tools."""
        if mode not in CODEC2_MODES:
            raise ValueError(f"codec {spec.name!r}: codec2 has the modes {', '.join(CODEC2_MODES)}")
        self.encoder, self.decoder = _tool("c2enc", "codec2"), _tool("c2dec", "codec2")
        self.label, self.mode = spec.label, mode
        self.nominal_bitrate = float(mode.rstrip("CPWB"))
        # the tools do not tell their version
        self.identity: dict[str, Any] = {"kind": "codec2", "mode": mode}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: [T] at 8 kHz."""
        with tempfile.TemporaryDirectory() as folder:
            source, coded, result = (Path(folder, name) for name in ("in.raw", "coded.bit", "out.raw"))
            # the encoder drops an unfinished last frame, 40 ms at the most
            padded = np.pad(wav, (0, 320))
            np.clip(np.round(padded * 32768), -32768, 32767).astype("<i2").tofile(source)
            with timed() as encoding:
                _call([self.encoder, self.mode, str(source), str(coded)])
            with timed() as decoding:
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
        """quality: 0 to 10. Raises ValueError outside, FileNotFoundError without the tools."""
        asked = _number(spec.name, quality, 0, 10)
        self.encoder, self.decoder = _tool("speexenc", "speex"), _tool("speexdec", "speex")
        self.label = spec.label
        self.options = ["--wideband", "--quality", f"{asked:g}"]
        version = _first_line([self.encoder, "--version"])
        self.identity: dict[str, Any] = {"kind": "speex", "options": self.options, "tool": version}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: [T] at 16 kHz."""
        with tempfile.TemporaryDirectory() as folder:
            source, coded, result = (Path(folder, name) for name in ("in.wav", "coded.spx", "out.wav"))
            soundfile.write(source, wav, self.sample_rate, "PCM_16")
            with timed() as encoding:
                _call([self.encoder, *self.options, str(source), str(coded)])
            with timed() as decoding:
                _call([self.decoder, str(coded), str(result)])
            return _result(result, coded, ogg_payload_bits(coded.read_bytes()), encoding, decoding)


def ogg_payload_bits(data: bytes) -> int:
    """Bits of the speech packets in an Ogg file: without pages' headers and the two header packets.

    Raises ValueError where `data` is not Ogg.
    """
    packets, size, position = [], 0, 0
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


def _result(decoded: Path, coded: Path, bits: int, encoding: timed, decoding: timed) -> CodecResult:
    wav, _ = soundfile.read(decoded, dtype="float32")
    return CodecResult(wav, None, bits, 8 * coded.stat().st_size, encoding.seconds, decoding.seconds)


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
    """Runs a tool; raises RuntimeError, in one line, where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{Path(command[0]).name} did not end within {TIMEOUT} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{Path(command[0]).name} failed with exit code {done.returncode}: {last}")
