"""The .mimo file's header and its blocks of a second each, as docs/formats.md specifies them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mimotok.io.codes.bits import bits_to_codes, byte_count, code_widths, codes_to_bits
from mimotok.io.codes.content import MAX_CODEBOOK_SIZE, MAX_RATE
from mimotok.io.codes.entropy import DIGEST_BYTES

MAGIC = b"MIM"
# What a file of version 1 begins with. From version 2 on the fourth byte holds the version and the flags, 4 bits each.
_MAGIC_1 = b"MIMO\1"
VERSION = 2
PREFIX_SIZE = 5  # bytes, which tell the version
WHOLE_BYTES = 1  # flag: every frame begins with a byte
OWN_LAYOUT = 2  # flag: rates and codebook sizes follow the header
ENTROPY = 4  # flag: blocks went through an entropy coder (mimotok.io.codes.entropy); the digest of its model follows
MAX_CODEBOOKS = {1: 1024, 2: 255}  # by version
MAX_BLOCK_BITS = 1 << 23  # a block is held in memory
UNKNOWN = 0  # number of frames while nobody knows it
# of MiMo-Audio-Tokenizer; a header without a layout of its own has these
USUAL_RATE = 24000
USUAL_FRAME_SIZE = 960
USUAL_FIRST_SIZES = (1024, 1024)
USUAL_SIZE = 128
CHECK_BITS = 8  # at least; a block's checksum also takes the bits that its frames leave of their last byte
# what stands before the header's checksum, by version: from the flags on, as `_Fields`
_STARTS = {1: struct.Struct("<5xBH8sIH"), 2: struct.Struct("<3xBB4sIH")}
_CHECK = struct.Struct("<H")
_RATES = struct.Struct("<II")


class _Fields(NamedTuple):
    """The fields of a header before its checksum."""

    flags: int
    n_q: int
    digest: bytes
    num_frames: int
    missing_samples: int


def _version_of(start: bytes) -> int:
    """Return the version of a file that begins so. Raises ValueError for another beginning or version."""
    if len(start) < PREFIX_SIZE or not start.startswith(MAGIC):
        raise ValueError("not a .mimo file, or truncated within its header")
    if start.startswith(_MAGIC_1):
        return 1
    version = start[3] >> 4
    if version != VERSION:
        raise ValueError(f"version {version} of .mimo, but this mimotok reads 1 to {VERSION}")
    return version


def _fields_of(start: bytes) -> _Fields:
    version = _version_of(start)
    if len(start) < header_size(start):
        raise ValueError("truncated within its header")
    fields = _Fields(*_STARTS[version].unpack_from(start))
    return fields if version == 1 else fields._replace(flags=fields.flags & 15)


def header_size(start: bytes) -> int:
    """Return the bytes of a header without the layout that may follow. start: its first PREFIX_SIZE bytes at least.

    Raises ValueError where those are none.
    """
    return _STARTS[_version_of(start)].size + _CHECK.size


def _usual_sizes(n_q: int) -> tuple[int, ...]:
    return (*USUAL_FIRST_SIZES, *[USUAL_SIZE] * n_q)[:n_q]


@dataclass(frozen=True)
class MimoHeader:
    """What a .mimo file says before its codes.

    Attributes:
        codebook_sizes: of the n_q codebooks.
        sample_rate: Hz.
        frame_size: samples of a frame.
        model_sha256: the first 8 hex digits of the SHA-256 of the weights, 16 in version 1; the rest is not kept.
        num_frames: of the whole file; 0 while it is written, and in a stream.
        missing_samples: by how much the last frame reaches beyond the recording.
        whole_bytes: whether every frame begins with a byte, as in a stream, where none may wait for the next one.
        version: of the format. Files of version 1 are read and grow; new ones are of version 2.
        code_model: the first 8 hex digits of the digest of the model of codes by which blocks are coded; "" for none.

    Raises:
        ValueError: for what the format cannot hold.
    """

    codebook_sizes: tuple[int, ...]
    sample_rate: int
    frame_size: int
    model_sha256: str
    num_frames: int = UNKNOWN
    missing_samples: int = 0
    whole_bytes: bool = False
    version: int = VERSION
    code_model: str = ""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("codebooks", len(self.codebook_sizes), 1, MAX_CODEBOOKS[self.version]),
            ("sample_rate", self.sample_rate, 1, MAX_RATE),
            ("frame_size", self.frame_size, 1, MAX_RATE),
            ("num_frames", self.num_frames, 0, (1 << 32) - 1),
            ("missing_samples", self.missing_samples, 0, (1 << 16) - 1),
            ("smallest codebook", min(self.codebook_sizes, default=0), 1, MAX_CODEBOOK_SIZE),
            ("largest codebook", max(self.codebook_sizes, default=0), 1, MAX_CODEBOOK_SIZE),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name}={value}, but a .mimo file holds {least} to {most}; .npz has no such limit")
        bits = self.block_frames * self.stride
        if bits > MAX_BLOCK_BITS:
            raise ValueError(f"{bits} bits a second, but a .mimo file holds {MAX_BLOCK_BITS}; .npz has no such limit")

    @cached_property
    def widths(self) -> list[int]:
        """Bits of a code of each codebook."""
        return code_widths(self.codebook_sizes)

    @cached_property
    def stride(self) -> int:
        """Bits from the start of a frame to the start of the next one."""
        bits = sum(self.widths)
        return 8 * byte_count(bits) if self.whole_bytes else bits

    @property
    def block_frames(self) -> int:
        """Frames of a block, which lasts a second or, where a second is no whole number of frames, a little less."""
        return max(1, self.sample_rate // self.frame_size)

    def block_bytes(self, num_frames: int) -> int:
        """Return the bytes of a block of this many frames, with its checksum."""
        return byte_count(num_frames * self.stride + CHECK_BITS)

    def body_bytes(self, num_frames: int) -> int:
        """Return the bytes of this many frames in blocks, each with its checksum."""
        blocks, rest = divmod(num_frames, self.block_frames)
        return blocks * self.block_bytes(self.block_frames) + (self.block_bytes(rest) if rest else 0)

    def to_bytes(self) -> bytes:
        """Return the header as it stands in the file."""
        usual = (USUAL_RATE, USUAL_FRAME_SIZE, _usual_sizes(len(self.codebook_sizes)))
        own = (self.sample_rate, self.frame_size, self.codebook_sizes) != usual
        flags = WHOLE_BYTES * self.whole_bytes | OWN_LAYOUT * own | ENTROPY * bool(self.code_model)
        n_q = len(self.codebook_sizes)
        digest = bytes.fromhex(self.model_sha256[:16])
        prefix = _MAGIC_1
        if self.version > 1:
            prefix = MAGIC
            flags |= self.version << 4
        # struct keeps as much of the digest as the version has room for
        fields = _STARTS[self.version].pack(flags, n_q, digest, self.num_frames, self.missing_samples)
        start = prefix + fields[len(prefix) :]
        layout = b""
        if own:
            sizes = np.array(self.codebook_sizes) - 1
            layout = _RATES.pack(self.sample_rate, self.frame_size) + sizes.astype("<u2").tobytes()
        layout += bytes.fromhex(self.code_model)[:DIGEST_BYTES]
        return start + _CHECK.pack(_header_check(start, layout)) + layout


def _header_check(start: bytes, layout: bytes) -> int:
    return zlib.crc32(start + layout) & 0xFFFF


def layout_size(start: bytes) -> int:
    """Return the bytes that follow a header's first `header_size` bytes. Raises ValueError where those are none."""
    fields = _fields_of(start)
    version = _version_of(start)
    coded = bool(fields.flags & ENTROPY)
    # a coded block has no frames that begin with a byte
    if fields.flags > WHOLE_BYTES + OWN_LAYOUT + ENTROPY or (coded and (version == 1 or fields.flags & WHOLE_BYTES)):
        raise ValueError(f"unknown flags {fields.flags}")
    most = MAX_CODEBOOKS[version]
    if not 1 <= fields.n_q <= most:
        raise ValueError(f"{fields.n_q} codebooks, expected 1 to {most}")
    return (_RATES.size + 2 * fields.n_q) * bool(fields.flags & OWN_LAYOUT) + DIGEST_BYTES * coded


def header_from_bytes(start: bytes, layout: bytes) -> MimoHeader:
    """Invert `MimoHeader.to_bytes`. layout: the `layout_size` bytes after `start`. Raises ValueError for damage."""
    if len(layout) != layout_size(start):
        raise ValueError("truncated within its header")
    fields = _fields_of(start)
    before = header_size(start) - _CHECK.size
    (check,) = _CHECK.unpack_from(start, before)
    if check != _header_check(start[:before], layout):
        raise ValueError("damaged: the checksum of the header does not match")
    sample_rate = USUAL_RATE
    frame_size = USUAL_FRAME_SIZE
    sizes = _usual_sizes(fields.n_q)
    code_model = ""
    if fields.flags & ENTROPY:
        code_model = layout[-DIGEST_BYTES:].hex()
        layout = layout[:-DIGEST_BYTES]
    if layout:
        sample_rate, frame_size = _RATES.unpack_from(layout)
        sizes = tuple(size + 1 for size in np.frombuffer(layout[_RATES.size :], "<u2").tolist())
    return MimoHeader(
        sizes,
        sample_rate,
        frame_size,
        fields.digest.hex(),
        fields.num_frames,
        fields.missing_samples,
        bool(fields.flags & WHOLE_BYTES),
        _version_of(start),
        code_model,
    )


def frames_to_bytes(header: MimoHeader, codes: np.ndarray) -> bytes:
    """Pack codes [n_q, F] frame after frame; zeros fill the last byte."""
    return np.packbits(codes_to_bits(codes, header.widths, header.stride)).tobytes()


def block_to_bytes(header: MimoHeader, index: int, codes: np.ndarray) -> bytes:
    """Return block number `index`: its frames [n_q, F] and their checksum."""
    frames = frames_to_bytes(header, codes)
    value = _block_check(header, index, codes.shape[1], frames)
    size = header.block_bytes(codes.shape[1])
    return (int.from_bytes(frames, "big") << 8 * (size - len(frames)) | value).to_bytes(size, "big")


def _block_check(header: MimoHeader, index: int, num_frames: int, frames: bytes) -> int:
    width = 8 * header.block_bytes(num_frames) - num_frames * header.stride
    # the index, so that a block in the place of another one is noticed
    return zlib.crc32(index.to_bytes(4, "little") + frames) >> (32 - width)


def frames_from_bytes(header: MimoHeader, data: np.ndarray, num_frames: int, skip: int = 0) -> np.ndarray:
    """Unpack frames `skip` to `num_frames` of a block, uint8 [bytes], into codes [n_q, F]. Does not check them."""
    first = skip * header.stride
    bits = np.unpackbits(data[first // 8 : byte_count(num_frames * header.stride)])[first % 8 :]
    count = num_frames - skip
    return bits_to_codes(bits[: count * header.stride].reshape(count, header.stride), header.widths)


def check_block(header: MimoHeader, index: int, data: bytes, num_frames: int) -> None:
    """Raise ValueError where the checksum of block number `index` is not that of its frames, or other bits are set."""
    used = num_frames * header.stride
    width = 8 * len(data) - used
    value = int.from_bytes(data[used // 8 :], "big") & ((1 << width) - 1)
    frames = bytearray(data[: byte_count(used)])
    if used % 8:
        frames[-1] &= 0xFF00 >> used % 8 & 0xFF
    if value != _block_check(header, index, num_frames, bytes(frames)):
        first = index * header.block_frames
        raise ValueError(
            f"damaged: the checksum of frames {first} to {first + num_frames - 1} does not match "
            f"(from second {first * header.frame_size / header.sample_rate:.1f})"
        )
