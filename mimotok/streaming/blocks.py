"""Sound and codes of any length in bounded memory: blocks in and blocks out, each with the context that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mimotok.streaming.mel_stream import MelStream
from mimotok.tokenizer import Tokenizer


def encode_blocks(tokenizer: Tokenizer, blocks: Iterable[Tensor], *, n_q: int | None = None) -> Iterator[Tensor]:
    """Encode blocks of one clip; joined, the codes are the whole clip's. Memory does not grow with the length.

    Args:
        tokenizer: the model.
        blocks: wav [1, t] of any lengths, in order.
        n_q: codebooks to use; the checkpoint's default where None.

    Yields:
        Codes int64 [1, n_q, f].

    Raises:
        ValueError: as `Tokenizer.encode`, and where all blocks are empty.

    Example:
        >>> blocks = torch.zeros(1, 24000).split(7000, dim=1)
        >>> codes = torch.cat(list(encode_blocks(tokenizer, blocks)), dim=2)
    """
    n_q = tokenizer.config.checked_n_q(n_q)
    context = tokenizer.chunking.encoder_context
    stride = tokenizer.config.frame_stride
    chunk = tokenizer.chunking.chunk_frames
    held: Tensor | None = None  # mel frames, of which the first `past` code frames are left context
    past = 0
    for mel in _mel_blocks(tokenizer, blocks):
        held = mel if held is None else torch.cat((held, mel), dim=1)
        while held.shape[1] >= (past + chunk + context.right) * stride:
            window = held[:, : (past + chunk + context.right) * stride]
            yield _codes(tokenizer, window, n_q)[:, :, past : past + chunk]
            kept = min(context.left, past + chunk)
            held = held[:, (past + chunk - kept) * stride :]
            past = kept
    if held is not None and held.shape[1] > past * stride:
        yield _codes(tokenizer, held, n_q)[:, :, past:]


def decode_blocks(tokenizer: Tokenizer, codes: Tensor, *, length: int | None = None) -> Iterator[Tensor]:
    """Decode codes in blocks. Memory for samples does not grow with the length.

    Args:
        tokenizer: the model.
        codes: int64 [1, n_q, F].
        length: samples in all, at most F * frame_size; that many where None.

    Yields:
        wav float32 [1, t].

    Raises:
        ValueError: as `Tokenizer.decode`.

    Example:
        >>> codes = torch.zeros(1, 2, 26, dtype=torch.int64)
        >>> sum(wav.shape[1] for wav in decode_blocks(tokenizer, codes, length=24000))
        24000
    """
    size = codes.shape[2] * tokenizer.frame_size
    left = size if length is None else length
    if not 0 < left <= size:
        raise ValueError(f"length={length} samples, but {codes.shape[2]} frames give 1 to {size}")
    for wav in _wav_chunks(tokenizer, codes):
        yield wav[:, :left]
        left -= wav.shape[1]
        if left <= 0:
            return


def _mel_blocks(tokenizer: Tokenizer, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    stream = MelStream(tokenizer.config)
    for block in blocks:
        if block.numel():
            yield stream.push(tokenizer.checked_wav(block))
    yield stream.flush()


@torch.no_grad()
def _codes(tokenizer: Tokenizer, mel: Tensor, n_q: int) -> Tensor:
    return tokenizer.encoder.quantizer.encode(tokenizer.encoder(mel), n_q)


@torch.no_grad()
def _wav_chunks(tokenizer: Tokenizer, codes: Tensor) -> Iterator[Tensor]:
    def decode(part: Tensor, _: Tensor | None) -> Tensor:
        return tokenizer.decoder(tokenizer.dequantize(part.mT))

    yield from tokenizer.chunking.decode_chunks(decode, codes.mT)
