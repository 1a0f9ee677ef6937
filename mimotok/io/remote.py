"""Addresses behind fsspec: which of them may be read, and how they are opened."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

from mimotok.io.files import open_regular

# Plain stores of bytes. Not among them: what reads one address out of another (reference, zip, tar, simplecache, dir),
# runs programs or logs in elsewhere (ssh, sftp, smb, git, github, jupyter, dask), or is this machine (file, local).
PROTOCOLS = frozenset(
    {"s3", "s3a", "gs", "gcs", "hf", "http", "https", "memory", "az", "abfs", "abfss", "oss", "hdfs", "webhdfs"}
)

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def is_remote(path: str) -> bool:
    """Return whether `path` is an address, such as s3://..., and not a local path. The address may not be allowed."""
    return "://" in path


def without_scheme(path: str) -> str:
    """Return a local path without file:// before it; other paths and addresses stay as they are."""
    return path.removeprefix("file://") if path.startswith("file:///") else path


def checked_address(address: str) -> str:
    """Return `address` if it may be read. Raises ValueError for another protocol, and for chained addresses."""
    match = _ADDRESS.fullmatch(address)
    if "::" in address:
        raise ValueError(f"{address}: addresses chained by :: are not read; give one of {_allowed()}")
    if match is None or match[1].lower() not in PROTOCOLS:
        raise ValueError(f"{address}: protocol not allowed; give a file or one of {_allowed()}")
    if any(ord(character) < 32 or ord(character) == 127 for character in address):
        raise ValueError(f"{address!r}: control characters in an address")
    return address


def _allowed() -> str:
    return ", ".join(f"{name}://" for name in sorted(PROTOCOLS))


def file_system(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an allowed address, and the path in it. Raises as `checked_address`."""
    checked_address(address)
    import fsspec

    return fsspec.core.url_to_fs(address)


def fetch(address: str, first: int = 0, size: int | None = None) -> bytes:
    """Read `size` bytes from byte `first` on, or all. Raises as `checked_address`, and what the file system raises."""
    system, inner = file_system(address)
    return system.cat_file(inner, start=first, end=None if size is None else first + size)


def open_file(path: str) -> BinaryIO:
    """Open a local file or an address for reading. Raises ValueError for pipes, devices and addresses not allowed."""
    if not is_remote(path):
        return open_regular(path)
    system, inner = file_system(path)
    return system.open(inner, "rb")
