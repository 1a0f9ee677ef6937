"""The pages of an Ogg file: where it ends, and how many streams it holds."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEADER = 27
_BEGIN = 2
_END = 4
_MAX_PAGE = 65_307  # bytes
_CRC = slice(22, 26)
# first packets of the codecs that are sound
_SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"fLaC")


class Page(NamedTuple):
    """A page. start, end: its bytes in the file; whole: whether all of them are there."""

    start: int
    end: int
    flags: int
    whole: bool
    full: bool  # its last packet goes on in the next page
    packet: bytes  # the first bytes of its content

    @property
    def is_last(self) -> bool:
        """Whether it is marked as the end of its stream."""
        return bool(self.flags & _END)

    @property
    def begins_sound(self) -> bool:
        """Whether a stream of sound begins with it."""
        return bool(self.flags & _BEGIN) and self.packet.startswith(_SOUND)


def pages(data: mmap.mmap, place: int = 0) -> Iterator[Page]:
    """Yield the pages from byte `place` on; what lies between pages is passed over: decoders find damage."""
    start = data.find(b"OggS", place)
    while start >= 0:
        page = _page(data, start)
        yield page
        start = data.find(b"OggS", max(page.end, start + 4))


def _page(data: mmap.mmap, start: int) -> Page:
    head = data[start : start + _HEADER]
    if len(head) < _HEADER:
        return Page(start, start + _HEADER, 0, whole=False, full=False, packet=b"")
    table = data[start + _HEADER : start + _HEADER + head[-1]]
    body = start + _HEADER + head[-1]
    end = body + sum(table)
    return Page(
        start,
        end,
        head[5],
        whole=len(table) == head[-1] and end <= len(data),
        full=not table or table[-1] == 255,
        packet=data[body : body + 8],
    )


def last_page(data: mmap.mmap) -> Page | None:
    """Return the last page, None where there is none."""
    start = data.rfind(b"OggS", max(0, len(data) - _MAX_PAGE))
    return None if start < 0 else _page(data, start)


def end_problem(path: Path) -> str | None:
    """Return how the last page shows that the file was cut short, in a few words, or None.

    A recorder that is switched off leaves no mark of the end: there the last packet must be whole. A file that was cut
    short looks so only by chance.
    """
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        page = last_page(data)
        if page is not None and page.whole and (page.is_last or not page.full):
            return None
        return "the Ogg stream has no end"


def with_end_mark(path: Path) -> mmap.mmap | None:
    """Return the content of an Ogg file with its end marked; None where it is marked already, or is no whole Ogg file.

    libsndfile takes an Opus stream for damaged whose unmarked last page is not played to its end.
    """
    with path.open("rb") as raw:
        if raw.read(4) != b"OggS":
            return None
        # changes go to memory, not to the file
        data = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_COPY)
    page = last_page(data)
    if page is None or not page.whole or page.is_last or page.full:
        data.close()
        return None
    content = bytearray(data[page.start : page.end])
    content[5] |= _END
    content[_CRC] = bytes(4)
    content[_CRC] = _checksum(content).to_bytes(4, "little")
    data[page.start : page.end] = bytes(content)
    data.seek(0)
    return data


def _checksum(page: bytes | bytearray) -> int:
    """Compute the CRC of a page (RFC 3533): polynomial 0x04c11db7, not reflected, from 0."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value
