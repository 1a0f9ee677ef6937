"""Sound through pipes: `arecord ... | mimotok encode --stream | mimotok decode --stream | aplay`.

The stream of codes is a line of JSON (`format`, `model`, `sha256`, `n_q`, `sample_rate`, `frame_rate`), then frame
after frame n_q little-endian uint16. Sound is wav, or raw 16-bit little-endian mono at the model's rate if asked for.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mimotok.io.audio import MAX_RATE, MIN_RATE, resample_blocks
from mimotok.io.json_object import parse_object
from mimotok.io.levels import level_problem
from mimotok.io.wav_stream import BLOCK_BYTES, SoundStream
from mimotok.streaming.streams import StreamDecoder, StreamEncoder
from mimotok.tokenizer import Tokenizer

FORMAT = "mimotok-stream-1"
MAX_HEADER = 1 << 12  # bytes of the line of JSON
PCM = 1
UNKNOWN_SIZE = 0xFFFFFFFF  # what programs write that do not know how much will follow


def encode_pipe(
    tokenizer: Tokenizer, source: BinaryIO, target: BinaryIO, *, n_q: int | None = None, raw: bool = False
) -> None:
    """Sound from `source` to codes in `target`, each frame written as soon as it is final.

    raw: the sound is 16-bit little-endian mono samples at the model's rate, without a header; otherwise it is a wav of
    integers (8 to 32 bits), floats, A-law or mu-law, whose sound ends where its header says, or, where that says
    nothing, with the input. Raises ValueError for everything else, rates outside 8 to 192 kHz, no sound at all, and
    models that cannot encode a stream; and, when all codes are written, for sound cut short or followed by more.
    """
    encoder = StreamEncoder(tokenizer, n_q=n_q)
    target.write(_header(tokenizer, encoder.n_q))
    target.flush()
    stream = SoundStream(source, raw_rate=tokenizer.sample_rate if raw else None)
    for wav in _sound(stream, tokenizer.sample_rate):
        if wav.shape[1]:  # a resampler may hold everything back
            _write_codes(target, encoder.push(wav))
    _write_codes(target, encoder.flush())
    stream.finish()


def decode_pipe(tokenizer: Tokenizer, source: BinaryIO, target: BinaryIO, *, force: bool = False) -> None:
    """Codes from `source` to a wav in `target`, samples written as soon as they are final.

    force: decode codes that other weights made. Raises ValueError for what is not a stream of codes, or not this
    model's.
    """
    n_q = _read_header(tokenizer, source, force)
    decoder = StreamDecoder(tokenizer)
    target.write(_wav_header(tokenizer.sample_rate))
    target.flush()
    for block in _whole(source, 2 * n_q):
        codes = np.frombuffer(block, "<u2").reshape(-1, n_q).T.astype(np.int64)
        _write_sound(target, decoder.push(torch.from_numpy(codes)[None]))
    _write_sound(target, decoder.flush())


def _header(tokenizer: Tokenizer, n_q: int) -> bytes:
    identity = tokenizer.identity
    values = {"format": FORMAT, "model": identity.name, "sha256": identity.sha256, "n_q": n_q}
    rates = {"sample_rate": tokenizer.sample_rate, "frame_rate": tokenizer.frame_rate}
    return json.dumps(values | rates).encode() + b"\n"


def _read_header(tokenizer: Tokenizer, source: BinaryIO, force: bool) -> int:
    """Read the header and return the number of codebooks. Raises ValueError for another model's stream."""
    try:
        values = parse_object(source.readline(MAX_HEADER))
    except ValueError:
        values = {}
    n_q: Any = values.get("n_q")
    name: Any = values.get("model")
    sha256: Any = values.get("sha256")
    named = isinstance(name, str) and isinstance(sha256, str)
    # True is a whole number to Python
    whole = isinstance(n_q, int) and not isinstance(n_q, bool)
    if values.get("format") != FORMAT or not named or not whole:
        raise ValueError("standard input: not a stream of codes; it should come from mimotok encode --stream")
    tokenizer.config.checked_n_q(n_q)
    identity = tokenizer.identity
    if sha256 != identity.sha256 and not force:
        raise ValueError(
            f"codes made by model {name!r} (sha256 {sha256[:12]}), not by {identity.name!r} "
            f"(sha256 {identity.sha256[:12]}); give the former (--model), or --force"
        )
    return n_q


def _sound(stream: SoundStream, sample_rate: int) -> Iterator[Tensor]:
    """Yield wav float32 [1, t] at `sample_rate`, as it comes in."""
    if stream.form is None:
        return
    rate = stream.form.sample_rate
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"standard input: {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz")
    blocks = _checked(stream.blocks())
    first = next(blocks, None)
    # a resampler would make a sample of none
    if first is None:
        return
    for block in resample_blocks(chain([first], blocks), rate, sample_rate):
        yield torch.from_numpy(block)[None]


def _checked(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        problem = level_problem(float(block.min()), float(block.max()))
        if problem is not None:
            raise ValueError(f"standard input: {problem}")
        yield block


def _whole(source: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield what comes in, in blocks of whole units of `size` bytes, without waiting for more."""
    read = getattr(source, "read1", source.read)
    held = b""
    while block := read(BLOCK_BYTES):
        held += block
        whole = len(held) // size * size
        if whole:
            yield held[:whole]
        held = held[whole:]
    if held:
        raise ValueError(f"standard input: ends within a sample or frame ({len(held)} of {size} bytes)")


def _wav_header(sample_rate: int) -> bytes:
    """Return the header of 16-bit mono sound without end."""
    body = struct.pack("<HHIIHH", PCM, 1, sample_rate, sample_rate * 2, 2, 16)
    chunks = struct.pack("<4sI", b"fmt ", len(body)) + body + struct.pack("<4sI", b"data", UNKNOWN_SIZE)
    return struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE") + chunks


def _write_codes(target: BinaryIO, codes: Tensor) -> None:
    """Write codes, [1, n_q, f]."""
    target.write(codes[0].T.cpu().numpy().astype("<u2").tobytes())
    target.flush()


def _write_sound(target: BinaryIO, wav: Tensor) -> None:
    """Write wav, [1, t]."""
    target.write((wav[0].clamp(-1, 1) * 32767).round().cpu().numpy().astype("<i2").tobytes())
    target.flush()
