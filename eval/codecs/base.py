"""What all codecs share: their interface, their results, and how a user names them."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from mimotok.io.codes.entropy import EntropyModel


class CodecResult(NamedTuple):
    """A recording after a codec.

    Attributes:
        wav: float32 [T] at the codec's `sample_rate`.
        codes: int [n_q, F], None where the codec has no codebooks.
        stream_bits: bits of the coded speech itself, without a container; None where nothing is coded.
        file_bits: bits of the file that is written; None where nothing is coded.
        encode_seconds: wall clock of encoding.
        decode_seconds: wall clock of decoding.
    """

    wav: np.ndarray
    codes: np.ndarray | None
    stream_bits: float | None
    file_bits: int | None
    encode_seconds: float
    decode_seconds: float


class Frames(NamedTuple):
    """What a reader of tokens gets of a recording.

    Attributes:
        vectors: float32 [F, D], for a codec the quantized vectors that its decoder receives.
        codes: int64 [n_q, F], None for continuous vectors.
        rate: frames per second.
    """

    vectors: np.ndarray
    codes: np.ndarray | None
    rate: float


class Codec(Protocol):
    """Anything that encodes and decodes.

    Attributes:
        label: its name in the report.
        identity: all that its results depend on, as JSON.
        sample_rate: Hz, of what goes in and comes out.
        nominal_bitrate: bit/s as specified, None where it has none.
        codebook_sizes: entries of each codebook, empty where it has none.
    """

    label: str
    identity: dict[str, Any]
    sample_rate: int
    nominal_bitrate: float | None
    codebook_sizes: tuple[int, ...]

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Code a recording and reconstruct it.

        Args:
            wav: float32 [T] at `sample_rate` Hz, in [-1, 1].
        """
        ...


@runtime_checkable
class FrameCodec(Protocol):
    """A codec whose frames can be read without decoding."""

    def frames(self, wav: np.ndarray) -> Frames:
        """Encode a recording.

        Args:
            wav: float32 [T] at `sample_rate` Hz, in [-1, 1].
        """
        ...


@runtime_checkable
class TokenCodec(Protocol):
    """A codec whose tokens can be read without decoding.

    Attributes:
        frame_size: samples of a token frame at `sample_rate`, on average where that is no whole number.
    """

    frame_size: float

    def tokens(self, wav: np.ndarray) -> np.ndarray:
        """Encode a recording.

        Args:
            wav: float32 [T] at `sample_rate` Hz, in [-1, 1].

        Returns:
            Codes, int [n_q, F].
        """
        ...


class OwnModel(NamedTuple):
    """The model of codes that a codec codes its files by.

    Attributes:
        model: says how likely codes are.
        frames: of a block, which is predicted by itself.
    """

    model: EntropyModel
    frames: int


@runtime_checkable
class ModelledCodec(Protocol):
    """A codec that may have a model of its codes."""

    def own_model(self) -> OwnModel | None:
        """Return the model, None where there is none. Raises ValueError for one that is of other weights."""
        ...


class CodecSpec(NamedTuple):
    """A codec as a user names it, and how many of its codebooks to use where that can be chosen."""

    name: str
    n_q: int | None = None

    @property
    def label(self) -> str:
        """The name in reports."""
        return self.name if self.n_q is None else f"{self.name} n_q={self.n_q}"


class Timer:
    """A context that measures wall clock: `with Timer() as timer: ...` leaves it in `timer.seconds`."""

    seconds = 0.0

    def __enter__(self) -> Timer:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *raised: object) -> None:
        self.seconds = time.perf_counter() - self._start
