"""A strict reader of the .npz files that numpy.savez writes.

numpy.load allocates what an array's header asks for. Here every size is first held against the bytes that are
there, and nothing is decompressed, unpickled or evaluated.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np

_END = struct.Struct("<4s4H2LH")  # what closes the archive
_ENTRY = struct.Struct("<4s6H3L5H2L")  # a member in the directory
_LOCAL = struct.Struct("<4s5H3L2H")  # what precedes a member's bytes
_ENCRYPTED = 1
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    r"\{'descr': '([<|](?:[iu][1248]|f[248]|U\d{1,4}))', 'fortran_order': (False|True), "
    r"'shape': \((|\d{1,18},|\d{1,18}, \d{1,18})\), \} *\n"
)


class _Member(NamedTuple):
    """A file inside the archive, stored as it is."""

    name: str
    checksum: int
    size: int
    local: int


def read_npz(file: BinaryIO, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an open .npz, which must hold exactly these fields.

    Arrays are little-endian numbers or text of at most two dimensions, none of them empty, and read-only.
    Allocates at most a little more than the file's size. Raises ValueError for anything else.
    """
    start, members = _directory(file, len(fields))
    names = [member.name.removesuffix(".npy") for member in members]
    for name in fields:
        if names.count(name) != 1:
            raise ValueError(f"{names.count(name)} fields {name}, expected one")
    arrays, occupied = {}, 0
    for name, member in zip(names, members, strict=True):
        place = _place(file, member)
        # in order and apart, as they were written: overlapping members would be read more than once
        if member.local < occupied or place + member.size > start:
            raise ValueError(f"{name}: larger than its place in the file")
        occupied = place + member.size
        file.seek(place)
        arrays[name] = _array(name, file.read(member.size), member.checksum)
    return arrays


def _directory(file: BinaryIO, count: int) -> tuple[int, list[_Member]]:
    """Where the archive's directory starts, and its `count` members."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        raise ValueError("not a codes file, or truncated")
    _, _, _, _, found, length, start, _ = _END.unpack(end)
    if found != count:
        raise ValueError(f"{found} fields, expected {count}")
    if start + length + _END.size != size:
        raise ValueError("damaged, its directory does not end where the file does")
    file.seek(start)
    directory, members, offset = file.read(length), [], 0
    for _ in range(count):
        member, length = _entry(directory[offset:])
        members.append(member)
        offset += length
    return start, members


def _entry(directory: bytes) -> tuple[_Member, int]:
    """The first member of the rest of a directory, and the length of its entry."""
    if len(directory) < _ENTRY.size or not directory.startswith(b"PK\1\2"):
        raise ValueError("damaged directory")
    _, _, _, flags, method, _, _, checksum, stored, size, *lengths, _, _, _, local = _ENTRY.unpack_from(directory)
    name = directory[_ENTRY.size : _ENTRY.size + lengths[0]].decode("ascii", "replace")
    if method != 0 or flags & _ENCRYPTED or stored != size:
        raise ValueError(f"{name!r} is compressed or encrypted: write it with numpy.savez, uncompressed")
    return _Member(name, checksum, size, local), _ENTRY.size + sum(lengths)


def _place(file: BinaryIO, member: _Member) -> int:
    """Where a member's bytes start."""
    file.seek(member.local)
    local = file.read(_LOCAL.size)
    if len(local) < _LOCAL.size or not local.startswith(b"PK\3\4"):
        raise ValueError(f"{member.name!r} is not where the directory has it: the file is damaged")
    *_, name, extra = _LOCAL.unpack(local)
    return member.local + _LOCAL.size + name + extra


def _array(name: str, data: bytes, checksum: int) -> np.ndarray:
    """The array in the bytes of an .npy file, without a copy."""
    if zlib.crc32(data) != checksum:
        raise ValueError(f"{name}: damaged (its checksum differs)")
    start = len(_MAGIC) + 2
    if len(data) < start or not data.startswith(_MAGIC):
        raise ValueError(f"{name}: not an array in .npy format 1.0")
    start += int.from_bytes(data[start - 2 : start], "little")
    header = _HEADER.fullmatch(data[len(_MAGIC) + 2 : start].decode("latin-1"))
    if header is None:
        raise ValueError(f"{name}: not an array of little-endian numbers or text in one or two dimensions")
    shape = tuple(int(length) for length in header[3].split(",") if length)
    dtype = np.dtype(header[1])
    if math.prod(shape) * dtype.itemsize != len(data) - start or len(data) == start:
        raise ValueError(f"{name}: {dtype} {list(shape)} does not fill its {len(data) - start} bytes")
    order = "F" if header[2] == "True" else "C"
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order=order)  # type: ignore[call-overload]
