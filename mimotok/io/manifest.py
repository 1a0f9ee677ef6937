"""Lines of JSON objects, plain or compressed, local or behind fsspec, read in bounded memory.

A small compressed file may expand to a huge one: 13 MB of zeros were once 6 GB.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from mimotok.io.remote import open_file

MAX_LINE = 16 << 20  # bytes; the longest lines of real corpora, cuts with many supervisions, have some 100 kB
# bytes that a compressed byte may become; real manifests reach 30
MAX_EXPANSION = 100
_FREE = 1 << 20  # bytes that no ratio forbids: short files of like lines compress better than any
_BOM = b"\xef\xbb\xbf"


def read_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON objects of a file, one a line, with their line numbers; empty lines are skipped.

    Args:
        path: a file or an allowed address, .gz or not.

    Raises:
        ValueError: naming the file and the line, for what is no JSON object, too long, or expands too far, and for a
            file that cannot be read or is a pipe or a device.
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"{path}:{number}: not UTF-8 text") from None
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error})") from None
        except RecursionError:
            raise ValueError(f"{path}:{number}: not JSON that nests so deeply") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: a clip is a JSON object, not {printable_start(line)}")
        yield number, row


def read_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not empty, with their numbers. Raises ValueError as `read_rows`."""
    if os.path.isfile(path) and not os.path.getsize(path):
        return
    try:
        with open_file(path) as raw:
            for number, line in enumerate(_lines(raw, path), 1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason})") from error


def _lines(raw: BinaryIO, path: str) -> Iterator[bytes]:
    compressed = path.endswith(".gz")
    opened: Any = gzip.GzipFile(fileobj=raw) if compressed else raw
    number = 0
    total = 0
    while line := opened.readline(MAX_LINE + 1):
        number = number + 1
        total = total + len(line)
        if len(line) > MAX_LINE:
            raise ValueError(f"{path}:{number}: a line of more than {MAX_LINE >> 20} MiB")
        # as far as it was read, so that no more than is allowed is ever expanded
        if compressed and total > max(_FREE, MAX_EXPANSION * raw.tell()):
            raise ValueError(
                f"{path}:{number}: expands to more than {MAX_EXPANSION} times its size; unpack it first if you trust it"
            )
        yield line


def gunzip(data: bytes) -> bytes:
    """Decompress, within the bounds of a manifest. Raises ValueError beyond them, and what gzip raises."""
    limit = max(_FREE, MAX_EXPANSION * len(data))
    whole = gzip.GzipFile(fileobj=io.BytesIO(data)).read(limit + 1)
    if len(whole) > limit:
        raise ValueError(f"expands to more than {MAX_EXPANSION} times its size")
    return whole


def printable_start(line: bytes) -> str:
    """Return the start of a line, for a message."""
    return repr(line[:40].decode("utf-8", "replace").strip())
