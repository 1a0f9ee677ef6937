"""The .npz container of codes: one array, `packed`, of a line of JSON and the packed codes behind it.

One array, because each costs an archive some 200 bytes, a tenth of what the codes of ten seconds take. Format 1 had
seven arrays and its codes as uint16; it is read and no longer written.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any, BinaryIO

import numpy as np

from mimotok.io.codes.bits import pack_codes, unpack_codes
from mimotok.io.codes.content import MAX_CODEBOOK_SIZE, CodesFile
from mimotok.io.json_object import parse_object
from mimotok.io.npz import field_names, read_npz

FORMAT_VERSION = 2
PACKED = "packed"
HEADER_FIELDS = (
    "format_version",
    "model",
    "sha256",
    "num_samples",
    "sample_rate",
    "frame_rate",
    "codebook_sizes",
    "num_frames",
)
FIELDS_1 = ("codes", "num_samples", "sample_rate", "frame_rate", "codebook_sizes", "model", "format_version")
MAX_FIELD = 1 << 13  # bytes of anything but the codes: more would be expensive as Python objects
# What may be decompressed: the codes of a day of sound. Longer recordings are stored, so that memory stays in
# proportion to the file.
MAX_INFLATED = 1 << 24


def npz_bytes(codes_file: CodesFile) -> bytes:
    """Return the archive, its one array stored or deflated, whichever is smaller."""
    data = _npy(_header_line(codes_file) + pack_codes(codes_file.codes, codes_file.codebook_sizes))
    stored = _archive(data, zipfile.ZIP_STORED)
    if len(data) > MAX_INFLATED:
        return stored
    return min(stored, _archive(data, zipfile.ZIP_DEFLATED), key=len)


def _header_line(codes_file: CodesFile) -> bytes:
    header = {
        "format_version": FORMAT_VERSION,
        "model": codes_file.model_name,
        "sha256": codes_file.model_sha256,
        "num_samples": codes_file.num_samples,
        "sample_rate": codes_file.sample_rate,
        "frame_rate": codes_file.frame_rate,
        "codebook_sizes": codes_file.codebook_sizes,
        "num_frames": codes_file.codes.shape[1],
    }
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _npy(data: bytes) -> bytes:
    # numpy pads this header to 64 bytes, which its reader does not ask for
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(data)},), }}\n".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + data


def _archive(data: bytes, compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # a ZipInfo made by its name alone has no date: the same codes give the same bytes
        archive.writestr(zipfile.ZipInfo(f"{PACKED}.npy"), data, compression, compresslevel=9)
    return buffer.getvalue()


def read_codes_npz(file: BinaryIO) -> CodesFile:
    """Read an open .npz of format 1 or 2. Raises ValueError for anything else."""
    names = field_names(file, len(FIELDS_1))
    if PACKED in names:
        return _from_packed(read_npz(file, (PACKED,), max_inflated=MAX_INFLATED)[PACKED])
    return _from_arrays(read_npz(file, FIELDS_1))


def _from_packed(array: np.ndarray) -> CodesFile:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"{PACKED}: {array.dtype} {list(array.shape)}, expected uint8 [bytes]")
    data = array.tobytes()
    line, end, _ = data[:MAX_FIELD].partition(b"\n")
    if not end:
        raise ValueError(f"{PACKED}: no line of JSON in its first {MAX_FIELD} bytes")
    values = parse_object(line)
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version={str(version)[:40]!r}, but this mimotok reads 1 and {FORMAT_VERSION} only")
    if set(values) != set(HEADER_FIELDS):
        odd = sorted(set(values) ^ set(HEADER_FIELDS))[0]
        raise ValueError(f"header: {odd[:40]!r} is missing or unknown; expected {', '.join(HEADER_FIELDS)}")
    sizes = _whole_numbers(values["codebook_sizes"])
    if not all(1 <= size <= MAX_CODEBOOK_SIZE for size in sizes):
        raise ValueError(f"codebook_sizes: expected 1 to {MAX_CODEBOOK_SIZE}")
    return CodesFile(
        codes=unpack_codes(memoryview(data)[len(line) + 1 :], _whole(values, "num_frames"), sizes),
        num_samples=_whole(values, "num_samples"),
        sample_rate=_whole(values, "sample_rate"),
        frame_rate=_real(values, "frame_rate"),
        codebook_sizes=sizes,
        model_name=_text(values, "model"),
        model_sha256=_text(values, "sha256"),
        container="npz, format 2",
    )


def _whole(values: dict[str, Any], field: str) -> int:
    value = values[field]
    # True is a whole number to Python, and JSON knows numbers without end
    if type(value) is not int or not 1 <= value < 1 << 63:
        raise ValueError(f"{field}: expected a whole number from 1 to 2^63 - 1")
    return value


def _whole_numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or any(type(size) is not int for size in value):
        raise ValueError("codebook_sizes: expected a list of whole numbers")
    return tuple(value)


def _real(values: dict[str, Any], field: str) -> float:
    value = values[field]
    if type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) is not float:
        raise ValueError(f"{field}: expected a number")
    return value


def _text(values: dict[str, Any], field: str) -> str:
    value = values[field]
    if not isinstance(value, str):
        raise ValueError(f"{field}: expected text")
    return value


def _from_arrays(arrays: dict[str, np.ndarray]) -> CodesFile:
    """Check the arrays of format 1."""
    version = _values(arrays, "format_version", "iu", 0)
    if version != 1:
        raise ValueError(f"format_version={version}, but a file with these fields has 1")
    name, sha256 = _values(arrays, "model", "U", 1, 2)
    return CodesFile(
        codes=arrays["codes"],
        num_samples=_values(arrays, "num_samples", "iu", 0),
        sample_rate=_values(arrays, "sample_rate", "iu", 0),
        frame_rate=_values(arrays, "frame_rate", "f", 0),
        codebook_sizes=tuple(_values(arrays, "codebook_sizes", "iu", 1)),
        model_name=name,
        model_sha256=sha256,
        container="npz, format 1",
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
