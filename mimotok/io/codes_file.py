"""The codes file: an .npz of the codes of one recording and of what decodes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from mimotok.io.files import StrPath, atomic_path, open_regular, writing
from mimotok.io.npz import read_npz

FORMAT_VERSION = 1
MAX_CODEBOOK_SIZE = 1 << 16  # what uint16 holds
MAX_NAME = 256  # characters
MAX_FIELD = 1 << 13  # bytes of any field but the codes: more would be expensive as Python objects
FIELDS = ("codes", "num_samples", "sample_rate", "frame_rate", "codebook_sizes", "model", "format_version")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        model_sha256: SHA-256 of their file in hex.
        format_version: of the container.

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
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format_version={self.format_version}, but this mimotok reads {FORMAT_VERSION} only")
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
        for i, (size, largest) in enumerate(zip(sizes, codes.max(axis=1).tolist(), strict=True)):
            if not 1 <= size <= MAX_CODEBOOK_SIZE:
                raise ValueError(f"codebook_sizes[{i}]={size}, expected 1 to {MAX_CODEBOOK_SIZE}")
            if largest >= size:
                raise ValueError(f"codes[{i}] has {largest}, but codebook {i} has {size} entries")

    def _check_rates(self) -> None:
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate={self.sample_rate}, expected at least 1 Hz")
        if not (math.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise ValueError(f"frame_rate={self.frame_rate}, expected a finite number above 0")
        size = self.sample_rate / self.frame_rate
        if not (math.isfinite(size) and round(size) >= 1 and math.isclose(size, round(size), rel_tol=1e-9)):
            raise ValueError(f"frame_rate={self.frame_rate}: not a whole number of samples at {self.sample_rate} Hz")

    def _check_num_samples(self) -> None:
        num_frames = self.codes.shape[1]
        most = num_frames * self.frame_size
        # the last frame may begin up to a mel frame, a quarter of a code frame, after the recording's end
        least = max(1, most - self.frame_size - self.frame_size // 4)
        if not least <= self.num_samples <= most:
            raise ValueError(f"num_samples={self.num_samples}, but {num_frames} frames stand for {least} to {most}")

    def _check_model(self) -> None:
        # printable: the name goes to terminals
        if not 1 <= len(self.model_name) <= MAX_NAME or not self.model_name.isprintable():
            raise ValueError(f"model: the name must be 1 to {MAX_NAME} printable characters")
        if not _SHA256.fullmatch(self.model_sha256):
            raise ValueError("model: the SHA-256 must be 64 lower-case hex digits")

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


def save_codes(path: StrPath, codes_file: CodesFile, *, overwrite: bool = True) -> None:
    """Write a codes file, whole or not at all. Raises ValueError where `path` cannot be written."""
    fields: dict[str, Any] = {
        "codes": np.ascontiguousarray(codes_file.codes, "<u2"),
        "num_samples": np.array(codes_file.num_samples, "<i8"),
        "sample_rate": np.array(codes_file.sample_rate, "<i8"),
        "frame_rate": np.array(codes_file.frame_rate, "<f8"),
        "codebook_sizes": np.array(codes_file.codebook_sizes, "<i8"),
        "model": np.array([codes_file.model_name, codes_file.model_sha256]),
        "format_version": np.array(codes_file.format_version, "<i8"),
    }
    with atomic_path(path, overwrite=overwrite) as temporary, writing(path), temporary.open("wb") as file:
        np.savez(file, **fields)


def load_codes(path: StrPath) -> CodesFile:
    """Read a codes file, allocating no more memory than its size justifies.

    Raises ValueError, in one line, for a file that is missing, no codes file, damaged, or forged.
    """
    with open_regular(path) as file:
        try:
            return _from_arrays(read_npz(file, FIELDS))
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {error}") from None


def _from_arrays(arrays: dict[str, np.ndarray]) -> CodesFile:
    name, sha256 = _values(arrays, "model", "U", 1, 2)
    return CodesFile(
        codes=arrays["codes"],
        num_samples=_values(arrays, "num_samples", "iu", 0),
        sample_rate=_values(arrays, "sample_rate", "iu", 0),
        frame_rate=_values(arrays, "frame_rate", "f", 0),
        codebook_sizes=tuple(_values(arrays, "codebook_sizes", "iu", 1)),
        model_name=name,
        model_sha256=sha256,
        format_version=_values(arrays, "format_version", "iu", 0),
    )


def _values(arrays: dict[str, np.ndarray], field: str, kinds: str, ndim: int, length: int | None = None) -> Any:
    """Return a small field as Python values. Raises ValueError for another kind of dtype or shape."""
    array = arrays[field]
    if array.nbytes > MAX_FIELD:
        raise ValueError(f"{field}: {array.nbytes} bytes, expected at most {MAX_FIELD}")
    if array.dtype.kind not in kinds or array.ndim != ndim or length not in (None, array.size):
        raise ValueError(f"{field}: unexpected {array.dtype} {list(array.shape)}")
    try:
        return array.tolist()
    except ValueError:  # numbers beyond Unicode
        raise ValueError(f"{field}: not text") from None
