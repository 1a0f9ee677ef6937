"""Sound that a file holds and libsndfile skips without an error: files joined end to end, several streams in one."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Literal

from mimotok.io.sound.declared_lengths import is_placeholder, mp3_tag
from mimotok.io.sound.ogg import pages
from mimotok.io.sound.signatures import SIGNATURE_BYTES, signature

# libsndfile itself refuses what follows in these, or decodes it
_SELF_CHECKING = frozenset({"FLAC", "HTK", "AIFF", "SVX"})
# first bytes that two files of one format, rate and program have in common, and sound has not by chance
_COMMON_START = 16
_OWN_START = {"WAV": 4, "WAVEX": 4, "RIFF": 4, "AU": 4, "SDS": 10}
_ID3V1 = 128
_4_GIB = 1 << 32
# MPEG audio: kbit/s and Hz by the numbers in a frame's header
_BITRATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def find_more_sound(path: Path, container: str) -> str | None:
    """Return what sound of a file would not be read, in a few words, or None.

    container: libsndfile's name of the format.
    """
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if container == "OGG":
            return _more_in_ogg(data)
        if container == "MP3":
            tag = mp3_tag(raw)
            return None if tag is None else _more_in_mp3(data, tag.start, tag.num_frames)
        end = _declared_end(data, container)
        if container in ("WAV", "WAVEX") and end is not None and len(data) - end >= _4_GIB:
            return "a wav of more than 4 GiB, whose header counts less; convert it to w64 or flac"
        if end is not None:
            return _sound_behind(data, end)
        return None if container in _SELF_CHECKING else _another_start(data, container)


def _declared_end(data: mmap.mmap, container: str) -> int | None:
    """Return the end that the file declares; None where it declares none."""
    if container in ("WAV", "WAVEX", "AIFF", "SVX"):
        size = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big")
        return None if is_placeholder(size) or size == 0 else 8 + size + size % 2
    if container == "RF64" and data[12:16] == b"ds64":
        return _within(data, 8 + int.from_bytes(data[20:28], "little"))
    if container == "W64":
        return _within(data, int.from_bytes(data[16:24], "little"))
    if container == "CAF":
        return _end_of_caf(data)
    return None


def _within(data: mmap.mmap, end: int) -> int | None:
    return end if 0 < end <= len(data) else None


def _end_of_caf(data: mmap.mmap) -> int | None:
    place = 8
    while place + 12 <= len(data) and data[place : place + 4].isalpha():
        size = int.from_bytes(data[place + 4 : place + 12], "big", signed=True)
        # the last chunk of a recording may have no size
        if size < 0 or signature(data[place : place + SIGNATURE_BYTES]) is not None:
            break
        place += 12 + size
    return place


def _sound_behind(data: mmap.mmap, end: int) -> str | None:
    """Return the format of sound that begins near `end`, as odd chunks may be padded; tags are no sound."""
    end = max(0, _behind_tags(data, end))
    for place in range(max(0, end - 1), end + 2):
        start = data[place : place + SIGNATURE_BYTES]
        found = "MP3" if _is_mp3(data, place) else signature(start)
        if found is not None:
            return f"{found} of {len(data) - place} bytes behind its end"
    return None


def _behind_tags(data: mmap.mmap, place: int) -> int:
    """Return the first byte from `place` on that belongs to no ID3 tag."""
    while data[place : place + 3] in (b"ID3", b"TAG"):
        place += _id3_bytes(data[place : place + 10]) if data[place : place + 3] == b"ID3" else _ID3V1
    return place


def _id3_bytes(head: bytes) -> int:
    # a size in four bytes of seven bits
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))


def _another_start(data: mmap.mmap, container: str) -> str | None:
    """Find a second header like the first: libsndfile reads it as sound, or stops before it."""
    own = data[: _OWN_START.get(container, _COMMON_START)]
    place = data.find(own, len(own))
    while place >= 0:
        if len(own) >= 10 or signature(data[place : place + SIGNATURE_BYTES]) is not None:
            return f"a second {container} header at byte {place}"
        place = data.find(own, place + 1)
    return _more_behind_au(data) if container == "AU" else None


def _more_behind_au(data: mmap.mmap) -> str | None:
    """Find sound after the declared end: this format has no chunks, so that all bytes after it are more sound."""
    order: Literal["little", "big"] = "little" if data[:4] == b"dns." else "big"
    end = int.from_bytes(data[4:8], order) + int.from_bytes(data[8:12], order)
    rest = data[end:]
    return f"{len(rest)} bytes behind the end that the header declares" if rest.strip(b"\0") else None


def _more_in_ogg(data: mmap.mmap) -> str | None:
    streams = 0
    end = 0
    for page in pages(data):
        streams += page.begins_sound
        end = page.end
    if streams > 1:
        return f"{streams} streams of sound in one Ogg file; split them into files"
    return _sound_behind(data, end)


def _more_in_mp3(data: mmap.mmap, place: int, declared: int) -> str | None:
    """Find frames after those that the tag in the first frame counts; a decoder stops after the counted ones."""
    count = -1
    while declared and place < len(data):
        size = _mp3_frame_bytes(data[place : place + 4])
        if size:
            count += 1
            place += size
            continue
        behind = _behind_tags(data, place)
        found = signature(data[behind : behind + SIGNATURE_BYTES])
        if found is not None:
            return f"{found} of {len(data) - behind} bytes behind its end"
        # padding, and tags of other kinds
        place = behind if behind > place else _next_mp3_frame(data, place)
    # encoders disagree by one or two on what to count
    if declared and count > declared + 2:
        return f"{count} MPEG frames, but the first one says {declared}; join the sound, not the files"
    return None


def _next_mp3_frame(data: mmap.mmap, place: int) -> int:
    """Return the place of the next frame that another one follows; the end where no frame does."""
    found = data.find(b"\xff", place)
    while found >= 0:
        if _is_mp3(data, found):
            return found
        found = data.find(b"\xff", found + 1)
    return len(data)


def _is_mp3(data: mmap.mmap, place: int) -> bool:
    """Return whether a frame that another one follows begins at this place."""
    size = _mp3_frame_bytes(data[place : place + 4])
    return bool(size and _mp3_frame_bytes(data[place + size : place + size + 4]))


def _mp3_frame_bytes(header: bytes) -> int:
    """Return the size of the frame with this header, 0 where it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version = header[1] >> 3 & 3
    layer = 4 - (header[1] >> 1 & 3)
    rate_number = header[2] >> 2 & 3
    number = header[2] >> 4
    if version == 1 or layer == 4 or rate_number == 3 or number in (0, 15):
        return 0
    bitrate = 1000 * _BITRATES[1 if version == 3 else 2, layer][number]
    rate = _RATES[version][rate_number]
    padding = header[2] >> 1 & 1
    if layer == 1:
        return (12 * bitrate // rate + padding) * 4
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bitrate // rate + padding
