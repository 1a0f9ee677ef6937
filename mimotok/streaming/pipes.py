"""Live sound through pipes: `arecord ... | mimotok encode --stream | mimotok decode --stream | aplay`.

The stream of codes is a line of JSON (`format`, `model`, `sha256`, `n_q`, `sample_rate`, `frame_rate`), then frame
after frame n_q little-endian uint16. Sound is wav, or raw 16-bit little-endian mono at the model's rate.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor

from mimotok.io.audio import MAX_RATE, MIN_RATE, RESAMPLER
from mimotok.io.json_object import parse_object
from mimotok.streaming.streams import StreamDecoder, StreamEncoder
from mimotok.tokenizer import Tokenizer

FORMAT = "mimotok-stream-1"
BLOCK_BYTES = 1 << 16
MAX_HEADER = 1 << 12  # bytes of the line of JSON, and of a wav's chunks before its data
PCM = 1
UNKNOWN_SIZE = 0xFFFFFFFF  # what programs write that do not know how much will follow


class PcmFormat(NamedTuple):
    """16-bit samples: Hz and channels."""

    sample_rate: int
    channels: int


def encode_live(tokenizer: Tokenizer, source: BinaryIO, target: BinaryIO, *, n_q: int | None = None) -> None:
    """Sound from `source` to codes in `target`, each frame written as soon as it is final.

    Raises ValueError for a wav that is not 16-bit PCM, rates outside 8 to 192 kHz, no sound at all, and models that
    cannot encode a stream.
    """
    encoder = StreamEncoder(tokenizer, n_q=n_q)
    target.write(_header(tokenizer, encoder.n_q))
    target.flush()
    for wav in _sound(source, tokenizer.sample_rate):
        if wav.shape[1]:  # a resampler may hold everything back
            _write_codes(target, encoder.push(wav))
    _write_codes(target, encoder.flush())


def decode_live(tokenizer: Tokenizer, source: BinaryIO, target: BinaryIO, *, force: bool = False) -> None:
    """Codes from `source` to a wav in `target`, samples written as soon as they are final.

    force: decode codes that other weights made. Raises ValueError for what is not a stream of codes, or not this
    model's.
    """
    n_q = _read_header(tokenizer, source, force)
    decoder = StreamDecoder(tokenizer)
    target.write(_wav_header(PcmFormat(tokenizer.sample_rate, 1)))
    target.flush()
    for block in _whole(source, b"", 2 * n_q):
        codes = np.frombuffer(block, "<u2").reshape(-1, n_q).T.astype(np.int64)
        _write_sound(target, decoder.push(torch.from_numpy(codes)[None]))
    _write_sound(target, decoder.flush())


def _header(tokenizer: Tokenizer, n_q: int) -> bytes:
    values = {"format": FORMAT, "model": tokenizer.name, "sha256": tokenizer.weights_sha256, "n_q": n_q}
    rates = {"sample_rate": tokenizer.sample_rate, "frame_rate": tokenizer.frame_rate}
    return json.dumps(values | rates).encode() + b"\n"


def _read_header(tokenizer: Tokenizer, source: BinaryIO, force: bool) -> int:
    """The number of codebooks, once the stream is known to be this model's."""
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
    if sha256 != tokenizer.weights_sha256 and not force:
        raise ValueError(
            f"codes made by model {name!r} (sha256 {sha256[:12]}), not by {tokenizer.name!r} "
            f"(sha256 {tokenizer.weights_sha256[:12]}); give the former (--model), or --force"
        )
    return n_q


def _sound(source: BinaryIO, sample_rate: int) -> Iterator[Tensor]:
    """wav float32 [1, t] at `sample_rate`, as it comes in."""
    start = source.read(12)
    if start[:4] == b"RIFF" and start[8:12] == b"WAVE":
        form = _read_wav_header(source)
        start = b""
    else:
        form = PcmFormat(sample_rate, 1)
    same = form.sample_rate == sample_rate
    resampler = soxr.ResampleStream(form.sample_rate, sample_rate, 1, dtype="float32", quality=RESAMPLER)
    for block in _whole(source, start, 2 * form.channels):
        samples = np.frombuffer(block, "<i2").reshape(-1, form.channels).mean(1, dtype=np.float32) / 32768
        yield torch.from_numpy(samples if same else resampler.resample_chunk(samples))[None]
    if not same:
        yield torch.from_numpy(resampler.resample_chunk(np.zeros(0, np.float32), last=True))[None]


def _whole(source: BinaryIO, held: bytes, size: int) -> Iterator[bytes]:
    """What comes in, in blocks of whole units of `size` bytes; waits for no more than there is."""
    read = getattr(source, "read1", source.read)
    while block := read(BLOCK_BYTES):
        held += block
        whole = len(held) // size * size
        if whole:
            yield held[:whole]
        held = held[whole:]
    if held:
        raise ValueError(f"standard input: ends within a sample or frame ({len(held)} of {size} bytes)")


def _read_wav_header(source: BinaryIO) -> PcmFormat:
    """Reads chunks up to the data; its size is not looked at, since a live stream has none."""
    form: PcmFormat | None = None
    while True:
        chunk = source.read(8)
        if len(chunk) < 8:
            raise ValueError("standard input: a wav without data")
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        if size > MAX_HEADER:
            raise ValueError(f"standard input: a wav with {size} bytes of {name!r} before its data; send plain wav")
        body = source.read(size + size % 2)
        if name == b"fmt " and len(body) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if kind != PCM or bits != 16 or channels < 1:
                raise ValueError(f"standard input: wav format {kind}, {bits} bits; send 16-bit PCM (arecord -f S16_LE)")
            form = PcmFormat(rate, channels)
    if form is None:
        raise ValueError("standard input: a wav that does not tell its format")
    if not MIN_RATE <= form.sample_rate <= MAX_RATE:
        raise ValueError(f"standard input: {form.sample_rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz")
    return form


def _wav_header(form: PcmFormat) -> bytes:
    size = 2 * form.channels
    body = struct.pack("<HHIIHH", PCM, form.channels, form.sample_rate, form.sample_rate * size, size, 16)
    chunks = struct.pack("<4sI", b"fmt ", len(body)) + body + struct.pack("<4sI", b"data", UNKNOWN_SIZE)
    return struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE") + chunks


def _write_codes(target: BinaryIO, codes: Tensor) -> None:
    """codes: [1, n_q, f]."""
    target.write(codes[0].T.cpu().numpy().astype("<u2").tobytes())
    target.flush()


def _write_sound(target: BinaryIO, wav: Tensor) -> None:
    """wav: [1, t]."""
    target.write((wav[0].clamp(-1, 1) * 32767).round().cpu().numpy().astype("<i2").tobytes())
    target.flush()
