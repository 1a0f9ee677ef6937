"""What a file of codes holds, in whatever container."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_CODEBOOK_SIZE = 1 << 16  # what uint16 holds
MAX_RATE = (1 << 32) - 1  # Hz
MAX_NAME = 256  # characters
SHA256_DIGITS = (8, 16, 64)  # hex digits of the model's SHA-256: of a .mimo file, of one of version 1, and all of them
_SHA256 = re.compile("|".join(f"[0-9a-f]{{{digits}}}" for digits in SHA256_DIGITS))


def check_books(codes: np.ndarray, sizes: Sequence[int]) -> None:
    """Raise ValueError where codes [n_q, F] have an entry that its codebook of `sizes` has not."""
    for i, (size, row) in enumerate(zip(sizes, codes, strict=True)):
        if row.size and not 0 <= row.min() <= row.max() < size:
            raise ValueError(f"codes[{i}] has {row.max()}, but codebook {i} has {size} entries")


def check_num_samples(num_samples: int, num_frames: int, frame_size: int) -> None:
    """Raise ValueError where a recording of so many samples does not have so many frames."""
    most = num_frames * frame_size
    # the last frame may begin up to a mel frame, a quarter of a code frame, after the recording's end
    least = max(1, most - frame_size - frame_size // 4)
    if not least <= num_samples <= most:
        raise ValueError(f"num_samples={num_samples}, but {num_frames} frames stand for {least} to {most}")


@dataclass(frozen=True, eq=False)
class CodesFile:
    """The codes of one recording.

    Attributes:
        codes: uint16 [n_q, F], each below its codebook's size.
        num_samples: of the recording, at `sample_rate`.
        sample_rate: Hz.
        frame_rate: code frames per second.
        codebook_sizes: of the n_q codebooks.
        model_name: name of the weights that encoded the recording.
        model_sha256: SHA-256 of their file in hex, or its first 8 or 16 digits.
        container: format and version of the file that was read.
        missing_frames: frames that the file should hold besides these and does not: it was cut short.

    Raises:
        ValueError: naming the field, where the fields do not fit together.
    """

    codes: np.ndarray
    num_samples: int
    sample_rate: int
    frame_rate: float
    codebook_sizes: tuple[int, ...]
    model_name: str
    model_sha256: str
    container: str = ""
    missing_frames: int = 0

    def __post_init__(self) -> None:
        self._check_codes()
        self._check_rates()
        self._check_num_samples()
        self._check_model()

    def _check_codes(self) -> None:
        codes = self.codes
        sizes = self.codebook_sizes
        if codes.dtype != np.uint16 or codes.ndim != 2 or codes.size == 0:
            raise ValueError(f"codes: {codes.dtype} {list(codes.shape)}, expected uint16 [n_q, F], not empty")
        if len(sizes) != len(codes):
            raise ValueError(f"codebook_sizes: {len(sizes)} sizes, but codes have {len(codes)} codebooks")
        for i, size in enumerate(sizes):
            if not 1 <= size <= MAX_CODEBOOK_SIZE:
                raise ValueError(f"codebook_sizes[{i}]={size}, expected 1 to {MAX_CODEBOOK_SIZE}")
        check_books(codes, sizes)

    def _check_rates(self) -> None:
        if not 1 <= self.sample_rate <= MAX_RATE:
            raise ValueError(f"sample_rate={self.sample_rate}, expected 1 to {MAX_RATE} Hz")
        if not (math.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise ValueError(f"frame_rate={self.frame_rate}, expected a finite number above 0")
        size = self.sample_rate / self.frame_rate
        if not (math.isfinite(size) and round(size) >= 1 and math.isclose(size, round(size), rel_tol=1e-9)):
            raise ValueError(f"frame_rate={self.frame_rate}: not a whole number of samples at {self.sample_rate} Hz")

    def _check_num_samples(self) -> None:
        check_num_samples(self.num_samples, self.codes.shape[1], self.frame_size)

    def _check_model(self) -> None:
        # printable: the name goes to terminals
        if not 1 <= len(self.model_name) <= MAX_NAME or not self.model_name.isprintable():
            raise ValueError(f"model: the name must be 1 to {MAX_NAME} printable characters")
        if not _SHA256.fullmatch(self.model_sha256):
            raise ValueError("model: the SHA-256 must be 64 lower-case hex digits, or the first 8 or 16 of them")

    @property
    def n_q(self) -> int:
        """Codebooks stored."""
        return self.codes.shape[0]

    @property
    def frame_size(self) -> int:
        """Samples per code frame."""
        return round(self.sample_rate / self.frame_rate)

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return self.num_samples / self.sample_rate

    @property
    def bitrate(self) -> float:
        """Nominal bit/s: frame_rate x sum(log2 codebook size)."""
        return self.frame_rate * sum(math.log2(size) for size in self.codebook_sizes)

    def is_of(self, sha256: str) -> bool:
        """Return whether a model whose weights have this SHA-256 made the codes, as far as the file's digits tell."""
        return sha256.startswith(self.model_sha256)
