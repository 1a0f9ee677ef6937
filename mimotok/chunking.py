"""Long input in chunks, each with the context that its result depends on, so that memory is bounded.

Where every attention window is bounded, a chunk with its whole receptive field around it gives what all of the input
gives. The released MiMo-Audio-Tokenizer has unlimited windows, and a GroupNorm over all of time in the decoder: there
the official pipeline's own scheme is reproduced, which is an approximation by nature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mimotok.config import TokenizerConfig
from mimotok.model.lengths import frames_needed
from mimotok.model.receptive_field import Reach, decoder_reach, encoder_reach

# The official pipeline cuts long audio into segments of 60 s at 100 Hz, encoded in parallel without overlap.
SEGMENT_MEL_FRAMES = 6000
# MiMo-Audio's streaming decoder: left context and tokens held back, for models without a bounded receptive field.
OFFICIAL_CONTEXT = Reach(250, 40)
# Segments encoded in one go: bounds memory on hours of audio.
SEGMENTS_AT_ONCE = 4

# Takes [B, n, ...] and the valid lengths in it, if any; returns [B, t, ...].
Layer = Callable[[Tensor, Tensor | None], Tensor]


class Chunking:
    """How long input is cut for one model.

    A graph of torch.export or torch.compile holds no loop over chunks: it takes the whole input at once.

    chunk_frames: code frames of a chunk, one segment of the official pipeline. encoder_context, decoder_context: code
    frames around a chunk that its codes and its samples depend on; none for unlimited encoders, whose segments stand
    alone, and the official streaming decoder's for unlimited decoders.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.chunk_frames = SEGMENT_MEL_FRAMES // config.frame_stride
        self.encoder_context = encoder_reach(config) if config.encoder_is_bounded else Reach(0, 0)
        self.decoder_context = OFFICIAL_CONTEXT
        if config.decoder_is_bounded:
            self.decoder_context = decoder_reach(config).at_rate(config.frame_stride)

    def encode(self, encoder: Layer, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """mel: [B, T, n_mels], lengths: [B] of T. Returns latents [B, F, D], undefined past an item's length."""
        stride = self.config.frame_stride
        if torch.compiler.is_compiling() or mel.shape[1] <= self.chunk_frames * stride:
            return encoder(mel, lengths)
        if not self.config.encoder_is_bounded:
            return self._encode_segments(encoder, mel, lengths)
        chunks = self._chunks(encoder, mel, lengths, self.encoder_context, steps_in=stride, steps_out=1)
        return torch.cat(list(chunks), 1)

    def decode(self, decoder: Layer, latents: Tensor, lengths: Tensor | None) -> Tensor:
        """latents: [B, F, D], lengths: [B] of F. Returns wav [B, F * frame_size], undefined past an item's length."""
        whole = torch.compiler.is_compiling() or latents.shape[1] <= self.chunk_frames
        if whole or not self.config.decoder_is_bounded:
            return decoder(latents, lengths)
        return torch.cat(list(self.decode_chunks(decoder, latents, lengths)), 1)

    def decode_chunks(self, decoder: Layer, frames: Tensor, lengths: Tensor | None = None) -> Iterator[Tensor]:
        """frames: [B, F, ...], latents or codes. Yields wav [B, t], one chunk after another."""
        return self._chunks(
            decoder, frames, lengths, self.decoder_context, steps_in=1, steps_out=self.config.frame_size
        )

    def _chunks(
        self,
        layer: Layer,
        whole: Tensor,
        lengths: Tensor | None,
        context: Reach,
        *,
        steps_in: int,
        steps_out: int,
    ) -> Iterator[Tensor]:
        """steps_in, steps_out: steps of the input and of the output per code frame."""
        frames = frames_needed(whole.shape[1], steps_in)
        for start in range(0, frames, self.chunk_frames):
            first = max(0, start - context.left)
            end = min(frames, start + self.chunk_frames)
            part = whole[:, first * steps_in : (end + context.right) * steps_in]
            # an item that has ended keeps one step: attention needs something to attend to
            valid = None if lengths is None else (lengths - first * steps_in).clamp(1, part.shape[1])
            yield layer(part, valid)[:, (start - first) * steps_out : (end - first) * steps_out]

    def _encode_segments(self, encoder: Layer, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """Encode as the official pipeline does: unlimited attention never sees more than one segment."""
        stride = self.config.frame_stride
        batch = mel.shape[0]
        size = self.chunk_frames * stride
        count = frames_needed(mel.shape[1], size)
        if lengths is None:
            lengths = torch.full((batch,), mel.shape[1], device=mel.device)
        segments = F.pad(mel, (0, 0, 0, count * size - mel.shape[1])).view(batch * count, size, -1)
        starts = torch.arange(count, device=mel.device) * size
        valid = (lengths[:, None] - starts).clamp(0, size).flatten()
        groups = valid.nonzero().flatten().split(SEGMENTS_AT_ONCE)
        parts = [encoder(segments[group], valid[group]) for group in groups]
        latents = parts[0].new_zeros(batch * count, *parts[0].shape[1:])
        for group, part in zip(groups, parts, strict=True):
            latents[group] = part
        return latents.view(batch, count * self.chunk_frames, -1)[:, : frames_needed(mel.shape[1], stride)]
