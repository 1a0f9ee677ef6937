"""Whole .mimo files: written, read from any frame to any other, and appended to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np

from mimotok.io.codes.bits import blocks_needed
from mimotok.io.codes.content import CodesFile, check_books, check_num_samples
from mimotok.io.codes.entropy import (
    DIGEST_BYTES,
    CodedBlock,
    EntropyModel,
    GetModel,
    check_sizes,
    decode_blocks,
    model_for,
    read_blocks,
)
from mimotok.io.codes.mimo_layout import (
    MAGIC,
    UNKNOWN,
    MimoHeader,
    check_block,
    frames_from_bytes,
)
from mimotok.io.codes.mimo_stream import MimoWriter, read_header
from mimotok.io.files import StrPath, open_regular, writing

__all__ = ["MAGIC", "append_codes", "mimo_bytes", "read_frames", "read_mimo"]

UNNAMED = "unnamed"  # a .mimo file knows its model by the digest only


def header_of(codes_file: CodesFile, code_model: EntropyModel | None = None) -> MimoHeader:
    """Return the header for these codes, before their number is known."""
    header = MimoHeader(
        codes_file.codebook_sizes, codes_file.sample_rate, codes_file.frame_size, codes_file.model_sha256
    )
    return header if code_model is None else coded_header(header, code_model)


def coded_header(header: MimoHeader, code_model: EntropyModel) -> MimoHeader:
    """Return the header of a file whose blocks this model codes. Raises ValueError where it has other codebooks."""
    check_sizes(code_model, header.codebook_sizes)
    return replace(header, whole_bytes=False, code_model=code_model.digest[: 2 * DIGEST_BYTES])


def mimo_bytes(codes_file: CodesFile, code_model: EntropyModel | None = None) -> bytes:
    """Return the bytes of a .mimo file, its blocks coded by `code_model`. Raises ValueError for what it cannot hold."""
    target = BytesIO()
    writer = MimoWriter(target, header_of(codes_file, code_model), code_model=code_model)
    writer.write(codes_file.codes)
    writer.close(codes_file.num_samples)
    return target.getvalue()


class _Found(NamedTuple):
    """What an open file holds.

    start: where its blocks begin; blocks: how many are full; num_frames: whole frames; coded: blocks that went through
    an entropy coder, with the one that is not full.
    """

    header: MimoHeader
    start: int
    blocks: int
    num_frames: int
    coded: Sequence[CodedBlock] = ()

    @property
    def promised(self) -> int:
        """Frames that should be there."""
        return max(self.header.num_frames, self.num_frames)

    @property
    def is_complete(self) -> bool:
        """Whether the file is finished and holds all of its frames."""
        return self.num_frames == self.header.num_frames


def _look(file: BinaryIO) -> _Found:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = read_header(file)
    start = file.tell()
    size -= start
    promised = header.num_frames
    if header.code_model:
        return _look_at_coded(file, header, start)
    if promised != UNKNOWN and size > header.body_bytes(promised):
        raise ValueError(f"{size - header.body_bytes(promised)} bytes follow the last frame")
    blocks, rest = divmod(size, header.block_bytes(header.block_frames))
    # without its checksum a block may be whole all the same
    found = blocks * header.block_frames + min(header.block_frames, 8 * rest // header.stride)
    num_frames = found if promised == UNKNOWN else min(found, promised)
    return _Found(header, start, min(blocks, num_frames // header.block_frames), num_frames)


def _look_at_coded(file: BinaryIO, header: MimoHeader, start: int) -> _Found:
    coded = list(read_blocks(file, header.block_frames, len(header.codebook_sizes)))
    num_frames = sum(block.frames for block in coded)
    if header.num_frames != UNKNOWN and num_frames > header.num_frames:
        raise ValueError(f"{num_frames - header.num_frames} frames follow the last one")
    return _Found(header, start, num_frames // header.block_frames, num_frames, coded)


def read_mimo(file: BinaryIO, get_model: GetModel | None = None, *, only_facts: bool = False) -> CodesFile:
    """Read an open .mimo file; of one that was cut short, its whole frames.

    get_model: gives the model by which a file's blocks are coded; only files with such blocks ask it. only_facts: leave
    such codes 0, for which no model is needed.

    Raises ValueError for anything else, and for a second whose checksum does not match.
    """
    found = _look(file)
    if not found.num_frames:
        raise ValueError("holds no whole frame")
    header = found.header
    num_samples = found.num_frames * header.frame_size
    container = f"mimo, version {header.version}" + (", without an end" if header.num_frames == UNKNOWN else "")
    if header.code_model:
        container += f", entropy-coded by {header.code_model}"
    if only_facts and header.code_model:
        for index, block in enumerate(found.coded):
            _require_intact(header, index, block)
        codes = np.zeros((len(header.codebook_sizes), found.num_frames), np.uint16)
    else:
        codes = _frames(file, found, 0, found.num_frames, get_model)
    if found.is_complete:
        num_samples -= header.missing_samples
    return CodesFile(
        codes=codes,
        num_samples=num_samples,
        sample_rate=header.sample_rate,
        frame_rate=header.sample_rate / header.frame_size,
        codebook_sizes=header.codebook_sizes,
        model_name=UNNAMED,
        model_sha256=header.model_sha256,
        container=container,
        missing_frames=found.promised - found.num_frames,
    )


def read_frames(path: StrPath, start: int, stop: int, get_model: GetModel | None = None) -> np.ndarray:
    """Read frames `start` to `stop` of a .mimo file, uint16 [n_q, stop - start]; only their seconds are decoded.

    get_model: as of `read_mimo`.

    Raises ValueError as `load_codes`, and for frames that are not there.
    """
    with open_regular(path) as file:
        try:
            found = _look(file)
            if not 0 <= start < stop <= found.num_frames:
                raise ValueError(f"frames {start} to {stop}, but it holds 0 to {found.num_frames}")
            return _frames(file, found, start, stop, get_model)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {error}") from None


def _frames(file: BinaryIO, found: _Found, start: int, stop: int, get_model: GetModel | None = None) -> np.ndarray:
    header = found.header
    if header.code_model:
        return _coded_frames(found, start, stop, model_for(header.code_model, header.codebook_sizes, get_model))
    per_block = header.block_frames
    block_size = header.block_bytes(per_block)
    codes = np.empty((len(header.codebook_sizes), stop - start), np.uint16)
    for index in range(start // per_block, blocks_needed(stop, per_block)):
        first = index * per_block
        count = min(per_block, found.num_frames - first)
        file.seek(found.start + index * block_size)
        data = file.read(block_size)
        # the last block of a file that is unfinished, or was cut short, has no checksum
        if len(data) == header.block_bytes(count) and (count == per_block or found.is_complete):
            check_block(header, index, data, count)
        skip = max(0, start - first)
        part = frames_from_bytes(header, np.frombuffer(data, np.uint8), min(count, stop - first), skip)
        codes[:, first + skip - start :][:, : part.shape[1]] = part
    return codes


def _require_intact(header: MimoHeader, index: int, block: CodedBlock) -> None:
    if not block.is_intact:
        first = index * header.block_frames
        raise ValueError(
            f"damaged: the checksum of frames {first} to {first + block.frames - 1} does not match "
            f"(from second {first * header.frame_size / header.sample_rate:.1f})"
        )


def _coded_frames(found: _Found, start: int, stop: int, model: EntropyModel) -> np.ndarray:
    header = found.header
    full = header.block_frames
    first = start // full
    wanted = found.coded[first : blocks_needed(stop, full)]
    for index, block in enumerate(wanted, first):
        _require_intact(header, index, block)
    # blocks of one length together; only the last one may be shorter
    whole = [block.data for block in wanted if block.frames == full]
    parts = [decode_blocks(model, header.codebook_sizes, whole, full)]
    parts += [decode_blocks(model, header.codebook_sizes, [b.data], b.frames) for b in wanted if b.frames < full]
    return np.concatenate(parts, axis=1)[:, start - first * full :][:, : stop - start]


def _check_appended(header: MimoHeader, codes: np.ndarray, num_frames: int, num_samples: int | None) -> None:
    """Raise ValueError for frames, and a length of the recording, that a file of `num_frames` frames cannot take."""
    if codes.dtype != np.uint16 or codes.ndim != 2:
        raise ValueError(f"codes to append: {codes.dtype} {list(codes.shape)}, expected uint16 [n_q, F]")
    if len(codes) != len(header.codebook_sizes):
        raise ValueError(f"{len(codes)} codebooks to append, but it has {len(header.codebook_sizes)}")
    check_books(codes, header.codebook_sizes)
    if num_samples is not None:
        check_num_samples(num_samples, num_frames + codes.shape[1], header.frame_size)


def append_codes(
    path: StrPath, codes: np.ndarray, num_samples: int | None = None, get_model: GetModel | None = None
) -> None:
    """Add frames to a .mimo file in place; one that was cut short goes on after its last whole frame.

    The file can be read at any moment, and holds whole frames wherever its writer is interrupted; where its blocks are
    coded, whole blocks.

    Args:
        path: the file.
        codes: uint16 [n_q, F], of the same codebooks.
        num_samples: of the whole recording then; all samples of its frames where None.
        get_model: as of `read_mimo`.

    Raises:
        ValueError: as `load_codes`, and for codes of other codebooks and a number of samples that does not fit; the
            file then is as it was.
    """
    open_regular(path).close()
    with writing(path), open(path, "r+b") as file:
        try:
            found = _look(file)
            header = found.header
            # before anything is written: what is refused must leave the file as it was
            _check_appended(header, codes, found.num_frames, num_samples)
            whole = found.blocks * header.block_frames
            tail = np.empty((len(codes), 0), np.uint16)
            if found.num_frames > whole:
                tail = _frames(file, found, whole, found.num_frames, get_model)
            model = None
            end = found.start + sum(block.size for block in found.coded[: found.blocks])
            if header.code_model:
                model = model_for(header.code_model, header.codebook_sizes, get_model)
            else:
                end = found.start + header.body_bytes(whole)
            writer = MimoWriter(file, header, after=tail, at=end, num_frames=whole, code_model=model)
            writer.write(codes)
            writer.close(num_samples)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
