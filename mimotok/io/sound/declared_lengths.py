"""What sound files declare about their own length: sizes of chunks, and the tag of an MP3."""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple

UNKNOWN_LENGTH = 1 << 62  # libsndfile's count of samples where a file does not say


def is_placeholder(size: int) -> bool:
    """Return whether a size is what programs write that stream to a pipe and cannot know it."""
    return any(abs(size - limit) <= 1 << 16 for limit in (1 << 31, 1 << 32)) or size >= UNKNOWN_LENGTH


class Mp3Tag(NamedTuple):
    """The "Xing" or "Info" header in the first MPEG frame of an MP3, which counts what follows."""

    start: int  # byte of that frame
    present: int  # bytes in the file from that frame on
    declared: int  # bytes there should be; 0 if the tag does not say
    num_frames: int  # frames behind that one; 0 if the tag does not say

    @property
    def cut_short(self) -> bool:
        """Whether more than 1 % is missing; encoders disagree on what to count."""
        return self.present < 0.99 * self.declared


def mp3_tag(raw: BinaryIO) -> Mp3Tag | None:
    """Return the length tag of a file that may be an MP3."""
    size = raw.seek(0, 2)
    raw.seek(0)
    start = 0
    head = raw.read(10)
    if head[:3] == b"ID3" and len(head) == 10:  # its size follows in four bytes of seven bits
        start = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    raw.seek(start)
    frame = raw.read(64)
    found = re.search(rb"(?:Xing|Info)\0\0\0(.)(.{8})", frame, re.DOTALL)
    if not frame.startswith(b"\xff") or found is None:
        return None
    has_frames = found[1][0] & 1
    has_bytes = found[1][0] & 2
    declared = found[2][4 * has_frames : 4 * has_frames + 4] if has_bytes else b""
    num_frames = found[2][:4] if has_frames else b""
    return Mp3Tag(start, size - start, int.from_bytes(declared, "big"), int.from_bytes(num_frames, "big"))
