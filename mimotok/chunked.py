"""Audio of any length in bounded memory: chunk by chunk, each with the context that its result depends on.

Where every window is bounded, a chunk with its whole receptive field around it gives what the whole file gives. The
released MiMo-Audio-Tokenizer has unlimited windows, and a GroupNorm over all of time in the decoder: there the
official pipeline's own scheme is reproduced, which is an approximation by nature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mimotok.config import TokenizerConfig
from mimotok.mel import frame_log_mel, reflect_pad
from mimotok.tokenizer import SEGMENT_MEL_FRAMES, Tokenizer

# MiMo-Audio's streaming decoder: left context and tokens held back, for models without a bounded receptive field.
OFFICIAL_CONTEXT = (250, 40)


class Context(NamedTuple):
    """Code frames before and after a chunk on which its result depends."""

    left: int
    right: int


def encoder_context(config: TokenizerConfig) -> Context:
    """Code frames around a chunk that its codes depend on; none for unlimited windows, whose segments stand alone."""
    if not config.encoder_is_bounded:
        return Context(0, 0)
    # the two convolutions of the stem reach one frame further on each side
    left, right = (1 + sum(window[side] for window in config.encoder_windows()) for side in (0, 1))
    return Context(-(-left // config.avg_pooler), -(-right // config.avg_pooler))


def decoder_context(config: TokenizerConfig) -> Context:
    """Code frames around a chunk that its samples depend on, or the official scheme's where that is everything."""
    if not config.decoder_is_bounded:
        return Context(*OFFICIAL_CONTEXT)
    # a sample is a sum of the frames within half a window of it
    overlap = -(-config.n_fft // (2 * config.hop_length))
    past = -(-config.decoder_kernel_size // config.decoder_stride_size) - 1
    reach = []
    for side in (0, 1):
        mel = overlap + sum(window[side] for window in config.vocoder_windows())
        hidden = -(-mel // config.decoder_stride_size) + sum(window[side] for window in config.decoder_windows())
        reach.append(-(-(hidden + (past if side == 0 else 0)) // config.avg_pooler))
    return Context(*reach)


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
    chunk = SEGMENT_MEL_FRAMES // stride
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
    chunk = SEGMENT_MEL_FRAMES // tokenizer.config.frame_stride
    context = decoder_context(tokenizer.config)
    for start in range(0, frames, chunk):
        low = max(0, start - context.left)
        high = min(frames, start + chunk + context.right)
        wav = tokenizer.decode(codes[:, :, low:high])[:, (start - low) * size :][:, : min(chunk * size, left)]
        left -= wav.shape[1]
        yield wav
        if left == 0:
            return
