"""Audio of any length in bounded memory: blocks in, blocks out, each worked on with the context that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mimotok.chunking import decoder_context, encoder_context, piece_frames, pieces
from mimotok.config import TokenizerConfig
from mimotok.model.mel import frame_log_mel, reflect_pad
from mimotok.tokenizer import Tokenizer


class MelStream:
    """Log-mel frames of a stream of samples, each as soon as it is final; the same frames as of the whole file."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.half = config.n_fft // 2
        self.pending: Tensor | None = None
        self.started = False

    def push(self, wav: Tensor) -> Tensor:
        """wav: [B, t]. Returns the frames that it completes, [B, n, n_mels], n possibly 0."""
        self.pending = wav if self.pending is None else torch.cat((self.pending, wav), dim=1)
        if not self.started and self.pending.shape[1] > self.half:
            self.pending = reflect_pad(self.pending, None, self.half, 0)
            self.started = True
        return self._frames(self.pending) if self.started else self._nothing(self.pending)

    def flush(self) -> Tensor:
        """Returns the last frames, [B, n, n_mels]. Raises ValueError where no sample was pushed."""
        if self.pending is None or self.pending.shape[1] == 0:
            raise ValueError("the stream ended before its first sample")
        return self._frames(reflect_pad(self.pending, None, 0 if self.started else self.half, self.half))

    def _frames(self, padded: Tensor) -> Tensor:
        count = (padded.shape[1] - self.config.n_fft) // self.config.hop_length + 1
        if count < 1:
            return self._nothing(padded)
        used = (count - 1) * self.config.hop_length + self.config.n_fft
        mel = frame_log_mel(padded[:, :used], self.config)
        self.pending = padded[:, count * self.config.hop_length :]
        return mel

    def _nothing(self, wav: Tensor) -> Tensor:
        return wav.new_zeros(wav.shape[0], 0, self.config.n_mels)


def encode_blocks(tokenizer: Tokenizer, blocks: Iterable[Tensor], *, n_q: int | None = None) -> Iterator[Tensor]:
    """blocks: wav [1, t] of any lengths, in order. Yields codes int64 [1, n_q, f]; joined, they are the whole file's.

    Memory does not grow with the length. Raises ValueError as Tokenizer.encode, or where there is no sample.
    """
    config = tokenizer.config
    n_q = config.checked_n_q(n_q)
    context = encoder_context(config)
    stride = config.frame_stride
    chunk = piece_frames(config)
    mel_stream = MelStream(config)
    held, skipped = None, 0  # mel frames from `skipped` code frames of left context on
    for mel in _mel_blocks(tokenizer, mel_stream, blocks):
        held = mel if held is None else torch.cat((held, mel), dim=1)
        while held.shape[1] >= (skipped + chunk + context.right) * stride:
            window = held[:, : (skipped + chunk + context.right) * stride]
            yield _codes(tokenizer, window, n_q)[:, :, skipped : skipped + chunk]
            kept = min(context.left, skipped + chunk)
            held = held[:, (skipped + chunk - kept) * stride :]
            skipped = kept
    if held is not None and held.shape[1] > skipped * stride:
        yield _codes(tokenizer, held, n_q)[:, :, skipped:]


def _mel_blocks(tokenizer: Tokenizer, stream: MelStream, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    for block in blocks:
        if block.numel():
            yield stream.push(tokenizer.checked_wav(block))
    yield stream.flush()


@torch.no_grad()
def _codes(tokenizer: Tokenizer, mel: Tensor, n_q: int) -> Tensor:
    latents, _ = tokenizer.encoder(mel)
    return tokenizer.encoder.quantizer.encode(latents, n_q)


def decode_blocks(tokenizer: Tokenizer, codes: Tensor, *, length: int | None = None) -> Iterator[Tensor]:
    """codes: int64 [1, n_q, F]. Yields wav float32 [1, t], in all `length` samples (F * frame_size where None).

    Memory for samples does not grow with the length. Raises ValueError as Tokenizer.decode.
    """
    frames, size = codes.shape[2], tokenizer.frame_size
    left = frames * size if length is None else length
    if not 0 < left <= frames * size:
        raise ValueError(f"length={length} samples, but {frames} frames give 1 to {frames * size}")
    for wav in _decoded(tokenizer, codes):
        yield wav[:, :left]
        left -= wav.shape[1]
        if left <= 0:
            return


@torch.no_grad()
def _decoded(tokenizer: Tokenizer, codes: Tensor) -> Iterator[Tensor]:
    def run(part: Tensor, _: Tensor | None) -> Tensor:
        return tokenizer.decoder(tokenizer.dequantize(part.mT))

    config = tokenizer.config
    yield from pieces(
        run, codes.mT, None, size=piece_frames(config), context=decoder_context(config), made=tokenizer.frame_size
    )
