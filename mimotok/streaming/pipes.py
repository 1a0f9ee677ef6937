"""Sound through pipes: `arecord ... | mimotok encode --stream | mimotok decode --stream | aplay`.

The stream of codes is a .mimo file without an end, each of whose frames begins with a byte (docs/formats.md). Sound is
wav, or raw 16-bit little-endian mono at the model's rate if asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from mimotok.code_models import code_model_of, get_model_of
from mimotok.io.audio import MAX_RATE, MIN_RATE, resample_blocks
from mimotok.io.codes.entropy import GetModel
from mimotok.io.codes.mimo import coded_header
from mimotok.io.codes.mimo_layout import UNKNOWN, MimoHeader
from mimotok.io.codes.mimo_stream import MimoWriter, read_header, stream_frames
from mimotok.io.sound.levels import level_problem
from mimotok.io.sound.wav_stream import BLOCK_BYTES, SoundStream
from mimotok.streaming.streams import StreamDecoder, StreamEncoder
from mimotok.tokenizer import Tokenizer

PCM = 1
UNKNOWN_SIZE = 0xFFFFFFFF  # what programs write that do not know how much will follow


def encode_pipe(
    tokenizer: Tokenizer,
    source: BinaryIO,
    target: BinaryIO,
    *,
    n_q: int | None = None,
    raw: bool = False,
    entropy: bool = False,
) -> None:
    """Encode sound from `source` to codes in `target`, each frame written as soon as it is final.

    raw: the sound is 16-bit little-endian mono samples at the model's rate, without a header; otherwise it is a wav of
    integers (8 to 32 bits), floats, A-law or mu-law, whose sound ends where its header says, or, where that says
    nothing, with the input. entropy: fewer bits, by the model of codes beside the weights, and a second at a time in
    place of each frame. Raises ValueError for everything else, rates outside 8 to 192 kHz, no sound at all, and
    models that cannot encode a stream; and, when all codes are written, for sound cut short or followed by more.
    """
    encoder = StreamEncoder(tokenizer, n_q=n_q)
    header = MimoHeader(
        tokenizer.codebook_sizes[: encoder.n_q],
        tokenizer.sample_rate,
        tokenizer.config.frame_size,
        tokenizer.identity.sha256,
        whole_bytes=True,
    )
    code_model = None
    if entropy:
        code_model = code_model_of(tokenizer)
        header = coded_header(header, code_model)
    stream = SoundStream(source, raw_rate=tokenizer.sample_rate if raw else None)
    sound = _sound(stream, tokenizer.sample_rate)
    begun = next(sound, None)
    if begun is None:
        raise ValueError("the stream ended before its first sample")
    # only now: input that is refused leaves no half of a file
    writer = MimoWriter(target, header, code_model=code_model)
    target.flush()
    for wav in chain([begun], sound):
        if wav.shape[1]:  # a resampler may hold everything back
            _write_codes(writer, target, encoder.push(wav))
    _write_codes(writer, target, encoder.flush())
    writer.finish()
    target.flush()
    stream.finish()


def decode_pipe(tokenizer: Tokenizer, source: BinaryIO, target: BinaryIO, *, force: bool = False) -> None:
    """Decode codes from `source` to a wav in `target`, samples written as soon as they are final.

    Codes come as `encode_pipe` writes them, or as a whole .mimo file. force: decode codes that other weights made.
    Raises ValueError for what is neither, or not this model's; and, when the sound of all frames before is written,
    for damage and for a stream that ends within a frame.
    """
    header = _header_of(tokenizer, source, force)
    decoder = StreamDecoder(tokenizer)
    target.write(_wav_header(tokenizer.sample_rate))
    target.flush()
    left = None
    if header.num_frames != UNKNOWN:
        left = header.num_frames * header.frame_size - header.missing_samples
    for wav in _decoded(decoder, source, header, get_model_of(tokenizer)):
        whole = wav if left is None else wav[:, :left]
        _write_sound(target, whole)
        left = None if left is None else left - whole.shape[1]


def _decoded(decoder: StreamDecoder, source: BinaryIO, header: MimoHeader, get_model: GetModel) -> Iterator[Tensor]:
    problem: ValueError | None = None
    is_empty = True
    try:
        for codes in stream_frames(source, header, BLOCK_BYTES, get_model):
            yield decoder.push(torch.from_numpy(codes.astype(np.int64))[None])
            is_empty = False
    except ValueError as error:
        problem = error
    # the sound of all whole frames comes before the error
    if problem is None or not is_empty:
        yield decoder.flush()
    if problem is not None:
        raise ValueError(f"standard input: {problem}")


def _header_of(tokenizer: Tokenizer, source: BinaryIO, force: bool) -> MimoHeader:
    """Read the header of a stream of codes. Raises ValueError for another model's stream."""
    try:
        header = read_header(source)
    except ValueError as error:
        raise ValueError(
            f"standard input: not a stream of codes ({error}); it should come from mimotok encode --stream, or be .mimo"
        ) from None
    sizes = header.codebook_sizes
    tokenizer.config.checked_n_q(len(sizes))
    ours = (tokenizer.sample_rate, tokenizer.config.frame_size, tokenizer.codebook_sizes[: len(sizes)])
    if (header.sample_rate, header.frame_size, sizes) != ours:
        raise ValueError(
            f"standard input: codes at {header.sample_rate} Hz, {header.frame_size} samples a frame, codebooks {sizes} "
            f"do not fit the model's {ours[0]} Hz, {ours[1]} samples, {ours[2]}"
        )
    identity = tokenizer.identity
    if not identity.sha256.startswith(header.model_sha256) and not force:
        raise ValueError(
            f"codes made by a model with sha256 {header.model_sha256[:12]}, not by {identity.name!r} "
            f"(sha256 {identity.sha256[:12]}); give the former (--model), or --force"
        )
    return header


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


def _wav_header(sample_rate: int) -> bytes:
    """Return the header of 16-bit mono sound without end."""
    # by hand: the standard `wave` writes the size that it has counted, and seeks back to mend it
    body = struct.pack("<HHIIHH", PCM, 1, sample_rate, sample_rate * 2, 2, 16)
    chunks = struct.pack("<4sI", b"fmt ", len(body)) + body + struct.pack("<4sI", b"data", UNKNOWN_SIZE)
    return struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE") + chunks


def _write_codes(writer: MimoWriter, target: BinaryIO, codes: Tensor) -> None:
    """Write codes, [1, n_q, f]."""
    writer.write(codes[0].cpu().numpy())
    target.flush()


def _write_sound(target: BinaryIO, wav: Tensor) -> None:
    """Write wav, [1, t]."""
    target.write((wav[0].clamp(-1, 1) * 32767).round().cpu().numpy().astype("<i2").tobytes())
    target.flush()
