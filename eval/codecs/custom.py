"""Anyone's codec: a class of four members in any module, named as `--codec package.module:Class`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from eval.codecs.base import CodecResult, CodecSpec, Timer

MIN_RATE = 1_000  # Hz
MAX_RATE = 768_000
# the lengths of which the frame rate is found, where a class does not say its frame size
SHORT = 1  # seconds
LONG = 9
Result = TypeVar("Result")


class PlainCodec(Protocol):
    """What a class must have to be measured.

    `bitrate` is in bit/s, None where there is none. `encode` takes float32 [T] at `sample_rate` Hz and returns anything
    that `decode` understands; `decode` returns [T'] at the same rate, as an array or a tensor.
    """

    sample_rate: int
    bitrate: float | None

    def encode(self, wav: np.ndarray) -> Any: ...  # noqa: D102

    def decode(self, codes: Any) -> np.ndarray: ...  # noqa: D102


class CustomCodec:
    """A `PlainCodec` as a `Codec` of the evaluation.

    What it has besides is used, too:

    - `codebook_sizes`, the entries of each codebook: `encode` then returns integers [n_q, F], of which bits, entropy
      and the metrics of tokens are computed. The bits of encoded `bytes` are counted; otherwise `bitrate` says them.
    - `frame_size`, samples of a token frame; it is found by two encodings where it is missing.
    - `identity`, a dict as JSON: what the results depend on besides the source file, such as the weights' version.
    - parameters `device` and `n_q` of its constructor, which otherwise gets no argument.
    """

    def __init__(self, spec: CodecSpec, device: str) -> None:
        """Import the class and make a codec of it.

        Args:
            spec: its name is `package.module:Class`; its n_q is passed on.
            device: passed on to a class that takes one.

        Raises:
            ImportError: there is no such module or class.
            ValueError: the class lacks a member, or one of them cannot be.
            RuntimeError: its constructor failed.
        """
        self.name = spec.name
        self.label = spec.label
        kind = _imported(spec.name)
        options = _options(spec, kind, device)
        self.codec = self._called("its constructor", lambda: kind(**options))
        for member in ("encode", "decode"):
            if not callable(getattr(self.codec, member, None)):
                raise ValueError(f"codec {self.name!r}: has no method {member}; docs/evaluate.md shows a whole one")
        self.sample_rate = self._checked_rate()
        self.nominal_bitrate = self._checked_bitrate()
        self.codebook_sizes: tuple[int, ...] = tuple(map(int, getattr(self.codec, "codebook_sizes", None) or ()))
        self.identity: dict[str, Any] = {
            "kind": "custom",
            "class": spec.name,
            "source": _source_hash(kind),
            "identity": self._checked_identity(),
        }
        if spec.n_q is not None:
            self.identity["n_q"] = spec.n_q

    @cached_property
    def frame_size(self) -> float:
        """Samples of a token frame."""
        stated = getattr(self.codec, "frame_size", None)
        if stated:
            return float(stated)
        noise = 0.1 * np.random.default_rng(0).standard_normal(LONG * self.sample_rate).astype(np.float32)
        frames = [self.tokens(noise[: seconds * self.sample_rate]).shape[1] for seconds in (SHORT, LONG)]
        return (LONG - SHORT) * self.sample_rate / max(1, frames[1] - frames[0])

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Code wav [T] and reconstruct it, as `Codec.encode_decode`."""
        with Timer() as encoding:
            coded = self._encoded(wav)
        with Timer() as decoding:
            decoded = self._called("decode", lambda: self._wav(self.codec.decode(coded)))
        codes = self._codes(coded) if self.codebook_sizes else None
        file_bits = 8 * len(coded) if isinstance(coded, bytes) else None
        bits = self._bits(codes, file_bits, len(wav))
        return CodecResult(decoded, codes, bits, file_bits, encoding.seconds, decoding.seconds)

    def tokens(self, wav: np.ndarray) -> np.ndarray:
        """Encode wav [T] into codes [n_q, F]."""
        return self._codes(self._encoded(wav))

    def _encoded(self, wav: np.ndarray) -> Any:
        # a codec that writes into its input must not change the original
        return self._called("encode", lambda: self.codec.encode(wav.copy()))

    def _called(self, what: str, function: Callable[[], Result]) -> Result:
        """Call a function of theirs. Raises RuntimeError of one line, whatever it raises."""
        try:
            with torch.no_grad():
                return function()
        except Exception as error:
            raise RuntimeError(f"codec {self.name!r}: {what}: {type(error).__name__}: {error}") from error

    def _checked_rate(self) -> int:
        rate = getattr(self.codec, "sample_rate", None)
        if not isinstance(rate, (int, np.integer)) or not MIN_RATE <= rate <= MAX_RATE:
            raise ValueError(
                f"codec {self.name!r}: sample_rate={rate!r}, but it is a whole number of {MIN_RATE} to {MAX_RATE} Hz"
            )
        return int(rate)

    def _checked_bitrate(self) -> float | None:
        if not hasattr(self.codec, "bitrate"):
            raise ValueError(f"codec {self.name!r}: has no bitrate; give its bit/s, or None where it has none")
        bitrate = self.codec.bitrate
        if bitrate is None:
            return None
        if not isinstance(bitrate, (int, float, np.number)) or not 0 < bitrate < math.inf:
            raise ValueError(f"codec {self.name!r}: bitrate={bitrate!r}, but it is a number of bit/s above 0, or None")
        return float(bitrate)

    def _checked_identity(self) -> Any:
        more = getattr(self.codec, "identity", None)
        try:
            json.dumps(more)
        except (TypeError, ValueError) as error:
            raise ValueError(f"codec {self.name!r}: identity is no JSON ({error}); give text and numbers") from None
        return more

    def _wav(self, decoded: Any) -> np.ndarray:
        wav = _array(decoded)
        if wav.size != max(wav.shape, default=0):
            raise ValueError(f"it returned shape {list(wav.shape)}: give the samples of one channel, [T]")
        return wav.reshape(-1).astype(np.float32)

    def _codes(self, coded: Any) -> np.ndarray:
        """Check codes against `codebook_sizes`; [1, n_q, F] is taken, too."""
        codes = _array(coded)
        codes = codes[0] if codes.ndim == 3 and len(codes) == 1 else codes
        sizes = self.codebook_sizes
        if codes.ndim != 2 or len(codes) != len(sizes) or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(
                f"codec {self.name!r}: encode returned {codes.dtype} {list(codes.shape)}, but {len(sizes)} codebooks "
                f"need whole numbers [{len(sizes)}, F]"
            )
        for book, (row, size) in enumerate(zip(codes, sizes, strict=True)):
            if row.size and not 0 <= row.min() <= row.max() < size:
                raise ValueError(
                    f"codec {self.name!r}: codes from {row.min()} to {row.max()} in codebook {book}, which has {size} "
                    "entries"
                )
        return codes

    def _bits(self, codes: np.ndarray | None, file_bits: int | None, samples: int) -> float | None:
        if codes is not None:
            return codes.shape[1] * sum(math.log2(size) for size in self.codebook_sizes)
        if file_bits is not None:
            return float(file_bits)
        return None if self.nominal_bitrate is None else self.nominal_bitrate * samples / self.sample_rate


def _imported(name: str) -> Any:
    """Import `package.module:Class`. Raises ImportError of one line."""
    module, _, member = name.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a module may raise anything when it is imported
        raise ImportError(
            f"codec {name!r}: {module} cannot be imported ({type(error).__name__}: {error}); run from the folder that "
            "holds it, or name that folder in PYTHONPATH"
        ) from error
    if not callable(getattr(found, member, None)):
        raise ImportError(f"codec {name!r}: {module} has no class {member}")
    return getattr(found, member)


def _options(spec: CodecSpec, kind: Any, device: str) -> dict[str, Any]:
    """Choose the constructor's arguments."""
    try:
        names = set(inspect.signature(kind).parameters)
    except (TypeError, ValueError):  # classes in C may not tell
        names = set()
    if spec.n_q is not None and "n_q" not in names:
        raise ValueError(f"codec {spec.name!r}: @{spec.n_q} needs a constructor that takes n_q")
    given = {"device": device} if spec.n_q is None else {"device": device, "n_q": spec.n_q}
    return {option: value for option, value in given.items() if option in names}


def _source_hash(kind: Any) -> str | None:
    """Hash the file that defines a class, so that results of an edited one are not taken from the cache."""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
