"""A .mimo file frame after frame, as it comes: written to a file or a pipe, and read from one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from mimotok.io.codes.content import check_books
from mimotok.io.codes.entropy import EntropyModel, GetModel, decode_blocks, encode_blocks, model_for, read_blocks
from mimotok.io.codes.entropy import block_to_bytes as coded_block_to_bytes
from mimotok.io.codes.mimo_layout import (
    PREFIX_SIZE,
    UNKNOWN,
    MimoHeader,
    block_to_bytes,
    check_block,
    frames_from_bytes,
    frames_to_bytes,
    header_from_bytes,
    header_size,
    layout_size,
)


class MimoWriter:
    """Writes frames as they come, and the checksum of each second when it is full.

    Args:
        target: where to write. The file's beginning, unless `at` is given.
        header: of the file; its number of frames is filled in by `close`.
        after: frames of the block that is not full yet, [n_q, F], of a file that goes on.
        at: where that block begins in `target`.
        num_frames: frames before that block.
        code_model: by which the blocks are coded, of a header that names one. Then a block is written when it is full.

    Raises:
        ValueError: for codes that the codebooks do not have.
    """

    def __init__(
        self,
        target: BinaryIO,
        header: MimoHeader,
        *,
        after: np.ndarray | None = None,
        at: int | None = None,
        num_frames: int = 0,
        code_model: EntropyModel | None = None,
    ) -> None:
        self._target = target
        self._code_model = code_model
        self._header = replace(header, num_frames=UNKNOWN, missing_samples=0)
        # frames of the block that is not full yet, and how many bytes of it are written
        self._open = np.empty((len(header.codebook_sizes), 0), np.uint16)
        self._written = 0
        self._num_frames = num_frames
        self._blocks = num_frames // header.block_frames
        if at is None:
            target.write(self._header.to_bytes())
            return
        # the padding and the checksum of the last block go first, then the number of frames: a file that is cut
        # between the two still reads up to its last whole frame
        self._open = self._open if after is None else after
        self._num_frames += self._open.shape[1]
        if code_model is None:
            self._written = self._open.shape[1] * self._header.stride // 8
        target.truncate(at + self._written)
        target.seek(0)
        target.write(self._header.to_bytes())
        target.flush()
        target.seek(at + self._written)
        if self._code_model is None and self._open.shape[1] == header.block_frames:
            self._end_block()

    def write(self, codes: np.ndarray) -> None:
        """Write frames, [n_q, F]: all of their bytes that the next frame cannot change."""
        check_books(codes, self._header.codebook_sizes)
        full = self._header.block_frames
        self._num_frames += codes.shape[1]
        if self._code_model is not None:
            self._open = np.concatenate([self._open, codes.astype(np.uint16)], axis=1)
            self._write_coded(self._open.shape[1] // full, full)
            return
        done = 0
        while done < codes.shape[1]:
            part = codes[:, done : done + full - self._open.shape[1]]
            done += part.shape[1]
            self._open = np.concatenate([self._open, part.astype(np.uint16)], axis=1)
            if self._open.shape[1] == full:
                self._end_block()
        if self._open.shape[1]:
            whole = self._open.shape[1] * self._header.stride // 8
            self._target.write(frames_to_bytes(self._header, self._open)[self._written : whole])
            self._written = whole

    def _write_coded(self, count: int, frames: int) -> None:
        """Code blocks of `frames` frames each, and write them."""
        assert self._code_model is not None
        part = self._open[:, : count * frames]
        self._open = self._open[:, count * frames :]
        for data in encode_blocks(self._code_model, self._header.codebook_sizes, part, frames):
            fewer = None if frames == self._header.block_frames else frames
            self._target.write(coded_block_to_bytes(self._blocks, data, fewer))
            self._blocks += 1

    def finish(self) -> None:
        """Write what is left, of a stream: the frames of a coded block that is not full; others are written already."""
        if self._code_model is not None and self._open.shape[1]:
            self._write_coded(1, self._open.shape[1])

    def _end_block(self) -> None:
        index = self._blocks
        self._target.write(block_to_bytes(self._header, index, self._open)[self._written :])
        self._open = self._open[:, :0]
        self._written = 0
        self._blocks += 1

    def close(self, num_samples: int | None = None) -> None:
        """Write the last block's checksum, and the number of frames and samples into the header of a file.

        num_samples: of the whole recording; all samples of its frames where None. A pipe is not closed so: its header
        has gone, and says no number.
        """
        most = self._num_frames * self._header.frame_size
        samples = most if num_samples is None else num_samples
        header = replace(self._header, num_frames=self._num_frames, missing_samples=most - samples)
        if self._code_model is not None:
            self.finish()
        elif self._open.shape[1]:
            self._end_block()
        self._target.flush()
        self._target.seek(0)
        self._target.write(header.to_bytes())


def read_header(source: BinaryIO) -> MimoHeader:
    """Read the header at the beginning of a stream. Raises ValueError where it does not begin with one."""
    start = _exactly(source, PREFIX_SIZE)
    start += _exactly(source, header_size(start) - PREFIX_SIZE)
    return header_from_bytes(start, _exactly(source, layout_size(start)))


def _exactly(source: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < size:
        more = source.read(size - len(data))
        if not more:
            break
        data += more
    return data


def stream_frames(
    source: BinaryIO, header: MimoHeader, block_bytes: int, get_model: GetModel | None = None
) -> Iterator[np.ndarray]:
    """Yield the codes behind a header, uint16 [n_q, F], each frame as soon as its last byte is there.

    block_bytes: how much is read at a time. get_model: gives the model by which a file's blocks are coded. Raises
    ValueError, after the frames before it, for a second whose checksum does not match, for a stream that ends within a
    frame or before its header says, and for one that goes on afterwards.
    """
    if header.code_model:
        yield from _coded_frames(source, header, get_model)
        return
    read = getattr(source, "read1", source.read)
    # bytes of the block that is not whole yet, and how many of its frames were yielded
    held = bytearray()
    given = 0
    done = 0
    index = 0
    while True:
        data = read(block_bytes)
        if not data:
            break
        held += data
        while held:
            count = header.block_frames
            if header.num_frames != UNKNOWN:
                count = min(count, header.num_frames - index * header.block_frames)
            if count <= 0:
                raise ValueError("more follows the last frame that the header tells of")
            size = header.block_bytes(count)
            if len(held) >= size:
                check_block(header, index, bytes(held[:size]), count)
            ready = min(count, 8 * len(held) // header.stride)
            if ready > given:
                block = np.frombuffer(bytes(held[:size]), np.uint8)
                yield frames_from_bytes(header, block, ready, given)
                done += ready - given
                given = ready
            if len(held) < size:
                break
            del held[:size]
            given = 0
            index += 1
    if header.num_frames != UNKNOWN and done < header.num_frames:
        raise ValueError(f"ends after {done} of {header.num_frames} frames")
    # fewer bits than a byte are the padding of a frame that is not written yet
    if header.num_frames == UNKNOWN and 8 * len(held) - given * header.stride >= 8:
        raise ValueError(f"ends within a frame, after {done} whole ones")


def _coded_frames(source: BinaryIO, header: MimoHeader, get_model: GetModel | None) -> Iterator[np.ndarray]:
    """Yield the codes of coded blocks, a block at a time."""
    model = model_for(header.code_model, header.codebook_sizes, get_model)
    done = 0
    # where the header tells the frames, their number says below what is missing
    whole = header.num_frames == UNKNOWN
    for index, block in enumerate(read_blocks(source, header.block_frames, len(header.codebook_sizes), whole=whole)):
        if not block.is_intact:
            raise ValueError(f"damaged: the checksum of second {index} does not match")
        done += block.frames
        if header.num_frames != UNKNOWN and done > header.num_frames:
            raise ValueError("more follows the last frame that the header tells of")
        yield decode_blocks(model, header.codebook_sizes, [block.data], block.frames)
    if header.num_frames != UNKNOWN and done < header.num_frames:
        raise ValueError(f"ends after {done} of {header.num_frames} frames")
