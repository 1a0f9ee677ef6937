"""Blocks of codes through a range coder, which needs as many bits for a code as it is unlikely.

A model says how likely codes are, in whole numbers, so that every machine decodes what another one encoded. The range
coder is that of the library constriction; docs/formats.md says what it does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from mimotok.io.codes.bits import byte_count

TOTAL = 1 << 22  # that the frequencies of a codebook's entries add up to
DIGEST_BYTES = 4  # of the model's digest, in the header of a file
_TOGETHER = 64  # blocks that are coded at once
_CHECK_BYTES = 1
# A code takes at most so many bits: entries come at least once in TOTAL, and the coder needs a little more.
_MOST_BITS = 24
_READ_BYTES = 4096
_WORD = 4  # bytes
_STATE = 8  # bytes


class Prediction(Protocol):
    """Predicts blocks of equal length at once, frame after frame and in a frame book after book."""

    def frequencies(self) -> np.ndarray:
        """Return those of the next code's entries, int64 [blocks, entries]: 1 at least, and TOTAL in all."""

    def push(self, codes: np.ndarray) -> None:
        """Tell the codes, [blocks]."""


class EntropyModel(Protocol):
    """Says how likely codes are (mimotok.model.code_model has it). digest: hex; sizes: of its codebooks."""

    digest: str
    sizes: tuple[int, ...]

    def begin(self, blocks: int, n_q: int) -> Prediction:
        """Begin to predict blocks of codes, of which nothing is known."""


# what gives the model of a file, which is read when a file needs it
GetModel = Callable[[], EntropyModel]


def coder() -> Any:
    """Import the range coder. Raises ImportError naming the extra."""
    try:
        import constriction
    except ImportError as error:
        raise ImportError("entropy coding needs: pip install 'mimotok[entropy]'") from error
    return constriction.stream


def model_for(digest: str, sizes: Sequence[int], get_model: GetModel | None) -> EntropyModel:
    """Return the model of a file with this digest. Raises ValueError where it is another one or nobody gives it."""
    if get_model is None:
        raise ValueError(
            f"its codes were coded by the model of codes {digest}, and none was given; "
            "mimotok decode finds the one beside the model's weights"
        )
    model = get_model()
    if not model.digest.startswith(digest):
        raise ValueError(
            f"its codes were coded by the model of codes {digest}, not by {model.digest[: len(digest)]}; "
            "give the weights beside which the former lies (--model)"
        )
    check_sizes(model, sizes)
    return model


def check_sizes(model: EntropyModel, sizes: Sequence[int]) -> None:
    """Raise ValueError where a model is not for codebooks of these sizes."""
    count = min(len(sizes), len(model.sizes))
    if tuple(sizes[:count]) != model.sizes[:count]:
        raise ValueError(f"codebooks {list(sizes)} are not those of the model of codes, {list(model.sizes)}")


def normalized(weights: np.ndarray) -> np.ndarray:
    """Turn weights, int64 [blocks, entries] of which one is above 0, into frequencies: 1 at least, TOTAL in all."""
    frequencies = weights * (TOTAL - weights.shape[1]) // weights.sum(1, keepdims=True) + 1
    rows = np.arange(len(weights))
    frequencies[rows, frequencies.argmax(1)] += TOTAL - frequencies.sum(1)
    return frequencies


# --- codes and the coder's bytes


def encode_blocks(model: EntropyModel, sizes: Sequence[int], codes: np.ndarray, frames: int) -> list[bytes]:
    """Code blocks of `frames` frames each. codes: [n_q, F], F a multiple of `frames`."""
    stream = coder()
    family = stream.model.Categorical(perfect=False)
    blocks = codes.reshape(len(codes), -1, frames).transpose(1, 2, 0).astype(np.int32)
    done: list[bytes] = []
    for start in range(0, len(blocks), _TOGETHER):
        group = blocks[start : start + _TOGETHER]
        encoders = [stream.queue.RangeEncoder() for _ in group]
        prediction = _Tables(model, sizes, len(group))
        for frame in range(frames):
            for book in range(len(sizes)):
                column = group[:, frame, book]
                tables = prediction.of(book)
                if tables is not None:
                    for encoder, code, table in zip(encoders, column, tables, strict=True):
                        encoder.encode(code[None], family, table[None])
                prediction.push(book, column)
        done += [_coded(encoder).ljust(_least_bytes(frames, len(sizes)), b"\0") for encoder in encoders]
    return done


def decode_blocks(model: EntropyModel, sizes: Sequence[int], blocks: Sequence[bytes], frames: int) -> np.ndarray:
    """Invert `encode_blocks`: uint16 [n_q, F]. Raises ValueError for bytes that are of no codes."""
    stream = coder()
    family = stream.model.Categorical(perfect=False)
    codes = np.zeros((len(blocks), frames, len(sizes)), np.int32)
    for start in range(0, len(blocks), _TOGETHER):
        part = blocks[start : start + _TOGETHER]
        decoders = [stream.queue.RangeDecoder(_words(block)) for block in part]
        prediction = _Tables(model, sizes, len(part))
        for frame in range(frames):
            for book in range(len(sizes)):
                column = codes[start : start + len(part), frame, book]
                tables = prediction.of(book)
                if tables is not None:
                    for index, (decoder, table) in enumerate(zip(decoders, tables, strict=True)):
                        column[index] = _next(decoder, family, table)
                prediction.push(book, column)
    return codes.transpose(2, 0, 1).reshape(len(sizes), -1).astype(np.uint16)


def _next(decoder: Any, family: Any, table: np.ndarray) -> int:
    try:
        return int(decoder.decode(family, table[None])[0])
    except (AssertionError, ValueError):  # what the library raises has changed between versions
        raise ValueError("damaged: bytes that no codes give") from None


class _Tables:
    """Frequencies as the coder takes them: those of the model, and equal ones for books that it does not know."""

    def __init__(self, model: EntropyModel, sizes: Sequence[int], blocks: int) -> None:
        self._known = min(len(sizes), len(model.sizes))
        self._prediction = model.begin(blocks, self._known)
        self._blocks = blocks
        self._sizes = sizes

    def of(self, book: int) -> Sequence[np.ndarray] | None:
        """Return them for the next code, float64 [entries] of each block; None where there is one entry only."""
        if book >= self._known:
            equal = normalized(np.ones((1, self._sizes[book]), np.int64)).astype(np.float64)
            tables: Sequence[np.ndarray] = [equal[0]] * self._blocks
        else:
            # asked for in any case: the model counts on it
            tables = list(self._prediction.frequencies().astype(np.float64))
        return tables if self._sizes[book] > 1 else None

    def push(self, book: int, codes: np.ndarray) -> None:
        if book < self._known:
            self._prediction.push(codes)


def _coded(encoder: Any) -> bytes:
    """Return the fewest bytes from which a decoder reads what an encoder was given, where zeros follow them."""
    words = encoder.get_compressed()
    count, (low, size) = encoder.pos()
    high = low + size - 1
    if high >> 8 * _STATE:  # a carry is open, which the library's own ending settles
        return bytes(words.astype(">u4").tobytes().rstrip(b"\0"))
    # any number of the interval does: one that ends in as many zero bytes as possible
    spare = next(bits for bits in range(8 * _STATE, -1, -8) if high >> bits << bits >= low)
    last = (high >> spare << spare).to_bytes(_STATE, "big")
    return bytes((words[:count].astype(">u4").tobytes() + last).rstrip(b"\0"))


def _words(data: bytes) -> np.ndarray:
    padded = data + bytes(-len(data) % _WORD + _STATE)
    return np.frombuffer(padded, ">u4").astype(np.uint32)


# --- blocks in a file


class CodedBlock(NamedTuple):
    """A block of a file.

    data: the coder's bytes; frames: how many it has; size: its bytes in the file; is_intact: whether its checksum
    matches.
    """

    data: bytes
    frames: int
    size: int
    is_intact: bool


def _least_bytes(frames: int, n_q: int) -> int:
    # a bit a code, so that a small file does not become a large array
    return byte_count(frames * n_q)


def block_to_bytes(index: int, data: bytes, frames: int | None = None) -> bytes:
    """Return block number `index`: its length, the coder's bytes and their checksum.

    frames: how many it has, where that is less than a full block's.
    """
    start = _number_to_bytes(2 * len(data) + (frames is not None))
    if frames is not None:
        start += _number_to_bytes(frames)
    return start + data + _check(index, start + data)


def _check(index: int, data: bytes) -> bytes:
    return bytes([zlib.crc32(index.to_bytes(4, "little") + data) >> 24])


def _number_to_bytes(value: int) -> bytes:
    """Write 7 bits a byte, the lowest first; the highest bit says that more follow."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


class _CutError(Exception):
    """The bytes end within a number."""


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Return a number, and where it ends. Raises _CutError, and ValueError for one that is too large."""
    value = 0
    for shift in range(0, 28, 7):
        if place >= len(data):
            raise _CutError
        byte = data[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
    raise ValueError("damaged: a block of impossible length")


def first_block(data: bytes, index: int, full: int, n_q: int) -> CodedBlock | None:
    """Return the block that begins here, number `index`; None where the bytes end before it does.

    full: frames of a full block. Raises ValueError for one of impossible length.
    """
    try:
        value, place = _number(data, 0)
        frames = full
        if value & 1:
            frames, place = _number(data, place)
    except _CutError:
        return None
    length = value >> 1
    if value & 1 and not 1 <= frames < full:
        raise ValueError(f"damaged: a block of {frames} frames, expected 1 to {full - 1}")
    if not _least_bytes(frames, n_q) <= length <= _most_bytes(frames, n_q):
        raise ValueError(f"damaged: {length} bytes for the codes of {frames} frames")
    stop = place + length
    if len(data) < stop + _CHECK_BYTES:
        return None
    check = data[stop : stop + _CHECK_BYTES]
    return CodedBlock(data[place:stop], frames, stop + _CHECK_BYTES, check == _check(index, data[:stop]))


def _most_bytes(frames: int, n_q: int) -> int:
    return frames * n_q * _MOST_BITS // 8 + _STATE


def read_blocks(source: BinaryIO, full: int, n_q: int, *, whole: bool = False) -> Iterator[CodedBlock]:
    """Yield the blocks of a file or a stream from where it is, each as soon as it is there.

    Args:
        source: what is read, to its end.
        full: frames of a block.
        n_q: codebooks.
        whole: whether a block that was cut short is an error; otherwise it is left out.

    Raises:
        ValueError: after the blocks before it, for a block of impossible length, for one that was cut short where
            `whole`, and where more follows one that is not full.
    """
    read = getattr(source, "read1", source.read)
    held = b""
    index = 0
    while True:
        block = first_block(held, index, full, n_q) if held else None
        if block is None:
            data = read(_READ_BYTES)
            if not data and held and whole:
                raise ValueError(f"ends within a second, after {index} whole ones")
            if not data:
                return
            held += data
            continue
        yield block
        held = held[block.size :]
        index += 1
        if block.frames < full and (held or read(1)):
            raise ValueError("damaged: more follows a block that is not full")
