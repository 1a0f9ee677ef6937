"""Codes as bits: in each frame every codebook takes as many bits as its entries need, most significant bit first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# frames that are spread out into bits at a time; a multiple of 8, so that each part begins with a byte
_PART = 8192


def code_widths(codebook_sizes: Sequence[int]) -> list[int]:
    """Return the bits of a code of each codebook: 10 for 1024 entries, and at least 1."""
    return [max(1, (size - 1).bit_length()) for size in codebook_sizes]


def blocks_needed(length: int, size: int) -> int:
    """Return ceil(length / size): how many blocks of `size` hold `length` steps."""
    return (length + size - 1) // size


def byte_count(num_bits: int) -> int:
    """Return the bytes that hold this many bits."""
    return blocks_needed(num_bits, 8)


def codes_to_bits(codes: np.ndarray, widths: Sequence[int], stride: int) -> np.ndarray:
    """Spread codes [n_q, F] out into bits, uint8 [F, stride]; what the widths leave of a frame's bits is 0."""
    bits = np.zeros((codes.shape[1], stride), np.uint8)
    place = 0
    for row, width in zip(codes, widths, strict=True):
        shifts = np.arange(width - 1, -1, -1, dtype=np.uint16)
        bits[:, place : place + width] = (row[:, None] >> shifts) & 1
        place += width
    return bits


def bits_to_codes(bits: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Gather bits, uint8 [F, stride], into codes, uint16 [n_q, F]."""
    codes = np.zeros((len(widths), len(bits)), np.uint16)
    place = 0
    for row, width in zip(codes, widths, strict=True):
        for column in range(place, place + width):
            np.left_shift(row, 1, out=row)
            np.bitwise_or(row, bits[:, column], out=row)
        place += width
    return codes


def pack_codes(codes: np.ndarray, codebook_sizes: Sequence[int]) -> bytes:
    """Pack codes [n_q, F] frame after frame without a gap; zeros fill the last byte."""
    widths = code_widths(codebook_sizes)
    parts = (codes[:, start : start + _PART] for start in range(0, codes.shape[1], _PART))
    return b"".join(np.packbits(codes_to_bits(part, widths, sum(widths))).tobytes() for part in parts)


def unpack_codes(packed: bytes | memoryview, num_frames: int, codebook_sizes: Sequence[int]) -> np.ndarray:
    """Invert `pack_codes`: uint16 [n_q, num_frames]. Raises ValueError for bytes of other than these frames."""
    widths = code_widths(codebook_sizes)
    stride = sum(widths)
    size = byte_count(num_frames * stride)
    if len(packed) != size:
        raise ValueError(f"{len(packed)} bytes of codes, but {num_frames} frames of {stride} bits take {size}")
    spare = 8 * size - num_frames * stride
    if spare and packed[-1] & ((1 << spare) - 1):
        raise ValueError("bits follow the last code")
    codes = np.empty((len(widths), num_frames), np.uint16)
    data = np.frombuffer(packed, np.uint8)
    for start, stop in _parts(num_frames):
        bits = np.unpackbits(data[start * stride // 8 : byte_count(stop * stride)])[: (stop - start) * stride]
        codes[:, start:stop] = bits_to_codes(bits.reshape(-1, stride), widths)
    return codes


def _parts(num_frames: int) -> Iterator[tuple[int, int]]:
    for start in range(0, num_frames, _PART):
        yield start, min(num_frames, start + _PART)
