"""Codecs by name: what each does to a recording, and how many bits it takes."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from eval.protocol import SAMPLE_RATE, resample
from mimotok.io.codes_file import CodesFile, save_codes
from mimotok.tokenizer import Tokenizer


class CodecResult(NamedTuple):
    """A recording after a codec.

    wav: float32 [T] at the codec's sample_rate. codes: int [n_q, F], where the codec has codebooks.
    stream_bits: of the coded speech itself, without container; file_bits: of the file written. None where nothing is
    coded.
    encode_seconds, decode_seconds: wall clock.
    """

    wav: np.ndarray
    codes: np.ndarray | None
    stream_bits: float | None
    file_bits: int | None
    encode_seconds: float
    decode_seconds: float


class Codec(Protocol):
    """Anything that encodes and decodes.

    label: its name in the report. identity: all that its results depend on, as JSON. sample_rate: Hz in and out.
    nominal_bitrate: bit/s as specified, None where it has none. codebook_sizes: entries of each, where it has codes.
    """

    label: str
    identity: dict[str, Any]
    sample_rate: int
    nominal_bitrate: float | None
    codebook_sizes: tuple[int, ...]

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: float32 [T] at `sample_rate` Hz, in [-1, 1]."""
        ...


class TokenCodec(Codec, Protocol):
    """A codec that has codes, and gives them without decoding."""

    def encode(self, wav: np.ndarray) -> np.ndarray:
        """wav: float32 [T] at `sample_rate` Hz -> codes int64 [n_q, F]."""
        ...


class CodecSpec(NamedTuple):
    """A codec as a user names it, and the codebooks to use of it, where that can be chosen."""

    name: str
    n_q: int | None = None

    @property
    def label(self) -> str:
        """How reports call it."""
        return self.name if self.n_q is None else f"{self.name} n_q={self.n_q}"


KINDS = "a model's folder or hub id, default, copy, vocoder, hf:ID, opus:KBPS, codec2:MODE, speex:QUALITY"


def expand_specs(names: list[str], n_q: list[int]) -> list[CodecSpec]:
    """Specs of codecs in order, each of our models once for every `n_q`; `NAME@N` fixes one codec's own number.

    Raises ValueError for a codec named twice, and for what cannot be a codec.
    """
    specs = []
    for name in names:
        kind, _, argument = name.partition(":")
        base, at, number = name.rpartition("@")
        if at and number.isdigit() and kind not in ("opus", "codec2", "speex", "copy", "vocoder"):
            specs.append(CodecSpec(base, int(number)))
        elif (argument and kind in ("hf", "opus", "codec2", "speex", "copy", "vocoder")) or name in ("copy", "vocoder"):
            specs.append(CodecSpec(name))
        elif argument or not name or kind in ("hf", "opus", "codec2", "speex"):
            raise ValueError(f"codec {name!r}: give {KINDS}")
        else:
            specs += [CodecSpec(name, count) for count in n_q] or [CodecSpec(name)]
    labels = [spec.label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"codec {label} is given twice")
    return specs


def make_codec(spec: CodecSpec, device: str = "cpu") -> Codec:
    """The codec of a spec, ready to use.

    Raises ValueError where it does not exist, ImportError or FileNotFoundError, saying what to install, where its
    package or tool is missing.
    """
    kind, _, argument = spec.name.partition(":")
    if kind == "copy":
        return CopyCodec(spec, int(argument) if argument else SAMPLE_RATE)
    if kind == "vocoder":
        return VocoderCodec(spec, argument or None, device)
    if kind == "hf":
        from eval.hf_codecs import HuggingFaceCodec

        return HuggingFaceCodec(spec, argument, device)
    if kind in ("opus", "codec2", "speex"):
        from eval import external

        made: dict[str, Any] = {"opus": external.Opus, "codec2": external.Codec2, "speex": external.Speex}
        return made[kind](spec, argument)
    return MimoCodec(spec, None if spec.name == "default" else spec.name, device)


class CopyCodec:
    """The original itself, through a lower rate and back where one is given: the ceiling of that bandwidth."""

    nominal_bitrate: float | None = None
    codebook_sizes: tuple[int, ...] = ()

    def __init__(self, spec: CodecSpec, rate: int) -> None:
        """rate: of the copy, in Hz."""
        self.label, self.sample_rate, self.rate = spec.label, SAMPLE_RATE, rate
        self.identity: dict[str, Any] = {"kind": "copy", "rate": rate}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: [T] at the protocol's rate."""
        copied = resample(resample(wav, self.sample_rate, self.rate), self.rate, self.sample_rate)
        return CodecResult(copied, None, None, None, 0.0, 0.0)


class MimoCodec:
    """A model of ours, or the official one, at `n_q` codebooks."""

    def __init__(self, spec: CodecSpec, source: str | None, device: str) -> None:
        """source: folder or hub id, None for the embedded checkpoint. Raises ValueError where it is no model."""
        self.tokenizer = Tokenizer.from_pretrained(source, device=device)
        self.n_q = self.tokenizer.config.checked_n_q(spec.n_q)
        self.label, self.sample_rate = spec.label, self.tokenizer.sample_rate
        self.codebook_sizes = self.tokenizer.codebook_sizes[: self.n_q]
        self.nominal_bitrate: float | None = self.tokenizer.bitrate(self.n_q)
        self.identity: dict[str, Any] = {"kind": "mimotok", "sha256": self.tokenizer.weights_sha256, "n_q": self.n_q}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: [T] at the model's rate."""
        with timed() as encoding:
            codes = self.encode(wav)
        with timed() as decoding:
            decoded = self.tokenizer.decode(torch.from_numpy(codes)[None], length=len(wav))[0].cpu().numpy()
        bits = codes.shape[1] * sum(math.log2(size) for size in self.codebook_sizes)
        return CodecResult(decoded, codes, bits, self._file_bits(codes, len(wav)), encoding.seconds, decoding.seconds)

    def encode(self, wav: np.ndarray) -> np.ndarray:
        """wav: [T] at the model's rate -> codes [n_q, F]."""
        return self.tokenizer.encode(torch.from_numpy(wav)[None], n_q=self.n_q)[0].cpu().numpy()

    def _file_bits(self, codes: np.ndarray, num_samples: int) -> int:
        model = self.tokenizer
        written = CodesFile(
            codes=codes.astype(np.uint16),
            num_samples=num_samples,
            sample_rate=model.sample_rate,
            frame_rate=model.frame_rate,
            codebook_sizes=self.codebook_sizes,
            model_name=model.name,
            model_sha256=model.weights_sha256,
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "codes.npz")
            save_codes(path, written)
            return 8 * path.stat().st_size


class VocoderCodec:
    """A model of ours without quantization: what its decoder makes of continuous latents."""

    nominal_bitrate: float | None = None
    codebook_sizes: tuple[int, ...] = ()

    def __init__(self, spec: CodecSpec, source: str | None, device: str) -> None:
        """source: folder or hub id, None for the embedded checkpoint. Raises ValueError where it is no model."""
        self.tokenizer = Tokenizer.from_pretrained(source, device=device)
        self.label, self.sample_rate = spec.label, self.tokenizer.sample_rate
        self.identity: dict[str, Any] = {"kind": "vocoder", "sha256": self.tokenizer.weights_sha256}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: [T] at the model's rate."""
        with timed() as encoding:
            # .cpu() waits for the device, so that each side's time is its own
            latents = self.tokenizer.encode_latents(torch.from_numpy(wav)[None]).cpu()
        with timed() as decoding:
            decoded = self.tokenizer.decode_latents(latents.to(self.tokenizer.device), length=len(wav))[0].cpu().numpy()
        return CodecResult(decoded, None, None, None, encoding.seconds, decoding.seconds)


class timed:  # noqa: N801
    """`with timed() as t: ...` leaves the wall clock seconds of the block in `t.seconds`."""

    seconds = 0.0

    def __enter__(self) -> timed:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *raised: object) -> None:
        self.seconds = time.perf_counter() - self._start
