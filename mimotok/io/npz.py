"""A strict reader of the .npz files that numpy.savez writes.

numpy.load allocates what an array's header asks for, and inflates what is compressed. Here every size is first held
against the bytes of the file, nothing is unpickled or evaluated, and what is compressed is inflated up to a limit only.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from mimotok.io.terminal.streams import excerpt

MAX_DIRECTORY = 1 << 12  # bytes of the archive's directory; zipfile makes an object of each entry
_END = struct.Struct("<4s4H2LH")  # what closes an archive without a comment
MAX_HEADER = 1000  # characters of an array's header; longer ones are slow to parse
# What damaged or forged archives make zipfile and numpy raise.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    # a place before the file's beginning
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
)


def field_names(file: BinaryIO, most: int) -> list[str]:
    """List the fields of an open .npz. Raises ValueError where it is none, or has more than `most` fields."""
    _check_directory(file, 0, most)
    with _damage_in_one_line(), zipfile.ZipFile(file) as archive:
        return [_field(member) for member in archive.infolist()]


def read_npz(file: BinaryIO, fields: tuple[str, ...], *, max_inflated: int = 0) -> dict[str, np.ndarray]:
    """Read the arrays of an open .npz, which must hold exactly these fields.

    Arrays are little-endian numbers or text of at most two dimensions, none of them empty, and read-only.
    max_inflated: bytes that a deflated field may have; 0 refuses every compression. Allocates at most a little more
    than the file's size, and that many bytes for each field. Raises ValueError for anything else.
    """
    _check_directory(file, len(fields), len(fields))
    size = file.seek(0, os.SEEK_END)
    with _damage_in_one_line(), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_members(members, fields, size, max_inflated)
        return {_field(member): _array(_field(member), _content(archive, member)) for member in members}


@contextmanager
def _damage_in_one_line() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"not a codes file, truncated or damaged ({excerpt(error)})") from None


def _check_directory(file: BinaryIO, least: int, most: int) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        raise ValueError("not a codes file, or truncated")
    _, _, _, _, found, length, _, _ = _END.unpack(end)
    if not least <= found <= most:
        raise ValueError(f"{found} fields, expected {most}")
    if length > MAX_DIRECTORY:
        raise ValueError(f"a directory of {length} bytes, expected at most {MAX_DIRECTORY}")


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as stream:
        # a size, so that zipfile inflates no more than that at a time, and compares the checksum at the end
        return stream.read(member.file_size)


def _field(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check_members(members: list[zipfile.ZipInfo], fields: tuple[str, ...], size: int, max_inflated: int) -> None:
    names = [_field(member) for member in members]
    for name in fields:
        if names.count(name) != 1:
            raise ValueError(f"{names.count(name)} fields {name}, expected one")
    if len(names) != len(fields):
        raise ValueError(f"{len(names)} fields, expected {len(fields)}")
    left = size
    for name, member in zip(names, members, strict=True):
        if member.compress_type == zipfile.ZIP_DEFLATED and max_inflated:
            if member.file_size > max_inflated:
                raise ValueError(f"{name}: inflates to {member.file_size} bytes, expected at most {max_inflated}")
            continue
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name!r} is compressed: write it with numpy.savez, uncompressed")
        # members that overlap or claim more than there is would be read into more memory than the file takes
        left -= member.file_size
        if left < 0:
            raise ValueError(f"{name}: larger than its place in the file")


def _array(name: str, data: bytes) -> np.ndarray:
    """Return the array in the bytes of an .npy file, without a copy."""
    stream = io.BytesIO(data)
    try:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError("another version")
        shape, fortran_order, dtype = npy.read_array_header_1_0(stream, max_header_size=MAX_HEADER)
    except (ValueError, TypeError):
        raise ValueError(f"{name}: not an array in .npy format 1.0") from None
    if dtype.kind not in "iufU" or dtype.byteorder == ">" or len(shape) > 2:
        raise ValueError(
            f"{name}: {dtype} {list(shape)}, expected little-endian numbers or text in one or two dimensions"
        )
    left = len(data) - stream.tell()
    if left == 0 or min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"{name}: {dtype} {list(shape)} does not fill its {left} bytes")
    array = np.frombuffer(data, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if fortran_order else "C")
