"""A wav that comes through a pipe: read forwards only, no further than its header promises."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from mimotok.io.sound.declared_lengths import is_placeholder
from mimotok.io.sound.signatures import SIGNATURE_BYTES, signature

BLOCK_BYTES = 1 << 16
MAX_CHANNELS = 1024  # as of libsndfile
_PCM = 1
_FLOAT = 3
_ALAW = 6
_MULAW = 7
_EXTENSIBLE = 0xFFFE
_FORMAT_BYTES = 40  # of the longest "fmt " chunk that is read
# the rest of the GUID whose first two bytes are the format's number
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


class WavFormat(NamedTuple):
    """How samples are stored. kind: number of the format (1 integers, 3 floats, 6 A-law, 7 mu-law); width: bytes."""

    sample_rate: int
    channels: int
    kind: int = _PCM
    width: int = 2
    big_endian: bool = False

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * self.width

    def samples(self, data: bytes) -> np.ndarray:
        """Return whole frames as float32 [t], the mean over channels; integers have their full scale at 1."""
        return _READERS[self.kind, self.width](data, self.big_endian).reshape(-1, self.channels).mean(axis=1)


class SoundStream:
    """The samples in a stream of bytes: `blocks`, and then `finish`, which says what was wrong with their end.

    form: how they are stored, None where there is no byte at all.
    """

    def __init__(self, source: BinaryIO, *, raw_rate: int | None = None) -> None:
        """Read up to the first sample.

        raw_rate: Hz of raw 16-bit little-endian mono samples; None where the stream is a wav. Raises ValueError for
        what is neither.
        """
        self._source = source
        self._left: int | None = None  # bytes of sound to come, None where nobody knows
        self._padded = False
        self._held = source.read(12)
        self._problem: str | None = None
        self.form: WavFormat | None = None
        found = signature(self._held)
        if raw_rate is not None:
            if found is not None:
                raise ValueError(f"standard input: {found}, not raw samples; leave --raw out, or decode it first")
            self.form = WavFormat(raw_rate, 1)
        elif found == "wav":
            big_endian = self._held[:4] == b"RIFX"
            promised = _number(self._held[4:8], big_endian)
            self._held = b""
            self.form = self._read_header(big_endian, promised)
        elif self._held:
            self._held += source.read(SIGNATURE_BYTES - len(self._held))
            raise ValueError(
                f"standard input: {_kind_of(self._held)}, not a wav; send wav (ffmpeg -f wav -), or raw 16-bit samples "
                "with --raw"
            )

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 [t] as it comes in, waiting for no more than there is."""
        if self.form is None:
            return
        size = self.form.frame_bytes
        held = self._held
        read = getattr(self._source, "read1", self._source.read)
        while True:
            whole = len(held) // size * size
            if whole:
                yield self.form.samples(held[:whole])
            held = held[whole:]
            wanted = BLOCK_BYTES if self._left is None else min(BLOCK_BYTES, self._left)
            block = read(wanted) if wanted else b""
            if not block:
                break
            held += block
            if self._left is not None:
                self._left -= len(block)
        if self._left:
            self._problem = f"the wav is cut short, {self._left} bytes of its sound are missing"
        elif held:
            self._problem = f"ends within a sample or frame ({len(held)} of {size} bytes)"

    def finish(self) -> None:
        """Read what follows the sound, to the end. Raises ValueError where sound was cut short, or more of it follows.

        The sound was yielded all the same: a stream cannot be undone.
        """
        if self._problem is not None:
            raise ValueError(f"standard input: {self._problem}")
        if self._left is None:
            return
        if self._padded:
            self._source.read(1)
        while len(chunk := self._source.read(12)) == 12:
            if signature(chunk) is not None or chunk[:4] == b"data":
                raise ValueError("standard input: more sound follows behind the end of the first; send one at a time")
            if not chunk[:4].isascii():
                break
            size = _number(chunk[4:8], self.form is not None and self.form.big_endian)
            if not self._skip(size + size % 2 - 4):
                break
        while self._source.read(BLOCK_BYTES):
            pass  # the writer must not get an error because nobody reads

    def _read_header(self, big_endian: bool, promised: int) -> WavFormat:
        """Read the chunks before the sound. promised: bytes in all, by the header."""
        # by hand: the standard `wave` refuses floats, A-law and big-endian files, and believes the sizes of a pipe
        form: WavFormat | None = None
        place = 4
        while True:
            chunk = self._source.read(8)
            if len(chunk) < 8:
                raise ValueError("standard input: a wav without data")
            name = chunk[:4]
            size = _number(chunk[4:], big_endian)
            place += 8 + size + size % 2
            if name == b"data":
                break
            head = self._source.read(min(size, _FORMAT_BYTES)) if name == b"fmt " else b""
            if name == b"fmt ":
                form = _checked_format(head, big_endian)
            if not self._skip(size + size % 2 - len(head)):
                raise ValueError("standard input: a wav without data")
        if form is None:
            raise ValueError("standard input: a wav that does not tell its format")
        # nothing at all may be what was known when the header was written: then nothing is promised behind it either
        unknown = is_placeholder(size) or (size == 0 and (promised <= place or is_placeholder(promised)))
        self._left = None if unknown else size
        self._padded = bool(size % 2)
        return form

    def _skip(self, size: int) -> bool:
        """Read over so many bytes. Returns whether there were as many."""
        while size > 0:
            block = self._source.read(min(size, BLOCK_BYTES))
            if not block:
                return False
            size -= len(block)
        return True


def _kind_of(start: bytes) -> str:
    from mimotok.io.sound.signatures import likely_format

    return likely_format(start) or f"unknown data that begin with {start[:8]!r}"


def _number(data: bytes, big_endian: bool) -> int:
    return int.from_bytes(data, "big" if big_endian else "little")


def _checked_format(body: bytes, big_endian: bool) -> WavFormat:
    """Return what a "fmt " chunk says. Raises ValueError for formats that are not read."""
    if len(body) < 16:
        raise ValueError(f"standard input: a wav whose format has {len(body)} bytes, expected 16 or more")
    order = ">" if big_endian else "<"
    kind, channels, rate, _, align, bits = struct.unpack_from(f"{order}HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 40 and body[26:40] == _GUID_TAIL:
        kind = struct.unpack_from(f"{order}H", body, 24)[0]
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"standard input: a wav with {channels} channels, expected 1 to {MAX_CHANNELS}")
    width = (bits + 7) // 8
    if (kind, width) not in _READERS or align != channels * width:
        raise ValueError(
            f"standard input: wav format {kind} of {bits} bits in frames of {align} bytes is not read; "
            "send PCM or float samples (arecord -f S16_LE, ffmpeg -c:a pcm_s16le -f wav -)"
        )
    return WavFormat(rate, channels, kind, width, big_endian)


def _plain(code: str, scale: float, offset: float = 0.0) -> Callable[[bytes, bool], np.ndarray]:
    def read(data: bytes, big_endian: bool) -> np.ndarray:
        values = np.frombuffer(data, (">" if big_endian else "<") + code).astype(np.float32)
        return (values - np.float32(offset)) * np.float32(1 / scale)

    return read


def _read_24_bits(data: bytes, big_endian: bool) -> np.ndarray:
    # as the upper three bytes of 32 bits
    values = np.zeros((len(data) // 3, 4), np.uint8)
    if big_endian:
        values[:, :3] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    else:
        values[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _plain("i4", 2.0**31)(values.tobytes(), big_endian)


def _alaw_table() -> np.ndarray:
    """Compute the 13-bit values of A-law's 256 codes (ITU-T G.711), full scale at 1."""
    code = np.arange(256) ^ 0x55
    exponent = (code >> 4) & 7
    mantissa = code & 15
    value = np.where(exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0)) << 3
    return (np.where(code & 0x80, value, -value) / 32768).astype(np.float32)


def _mulaw_table() -> np.ndarray:
    """Compute the 14-bit values of mu-law's 256 codes (ITU-T G.711), full scale at 1."""
    code = ~np.arange(256) & 0xFF
    value = ((((code & 15) << 3) + 132) << ((code >> 4) & 7)) - 132
    return (np.where(code & 0x80, -value, value) / 32768).astype(np.float32)


def _table(values: np.ndarray) -> Callable[[bytes, bool], np.ndarray]:
    return lambda data, _: values[np.frombuffer(data, np.uint8)]


_READERS: dict[tuple[int, int], Callable[[bytes, bool], np.ndarray]] = {
    (_PCM, 1): _plain("u1", 128.0, 128.0),
    (_PCM, 2): _plain("i2", 2.0**15),
    (_PCM, 3): _read_24_bits,
    (_PCM, 4): _plain("i4", 2.0**31),
    (_FLOAT, 4): _plain("f4", 1.0),
    (_FLOAT, 8): _plain("f8", 1.0),
    (_ALAW, 1): _table(_alaw_table()),
    (_MULAW, 1): _table(_mulaw_table()),
}
