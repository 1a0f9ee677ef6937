"""The decoder of a Whisper: its cross-attention reads the audio, padded frames masked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mimotok.lm.kv_cache import cache_name
from mimotok.model.lengths import valid_mask


class WhisperModel(nn.Module):
    """The decoder of a Whisper. See `train.stages.text_decoder.language_model.LanguageModel`."""

    def __init__(self, lm: Any) -> None:
        """Wrap a WhisperForCausalLM that uses torch's SDPA."""
        super().__init__()
        self.lm = lm
        self.width: int = lm.config.d_model
        self.bos: int | None = lm.config.decoder_start_token_id
        self._mask: Tensor | None = None
        for layer in lm.model.decoder.layers:
            # transformers has no argument for this mask
            layer.encoder_attn.register_forward_pre_hook(self._mask_padding, with_kwargs=True)

    def room(self, lengths: Tensor) -> Tensor:
        """Return all positions: the audio takes none. See LanguageModel."""
        return torch.full_like(lengths, self.lm.config.max_target_positions)

    def logits(self, audio: Tensor, lengths: Tensor, ids: Tensor) -> Tensor:
        """Return logits after each id. See LanguageModel."""
        return self.read(with_positions(audio.to(self.lm.dtype)), lengths, ids)

    def start_writing(self, audio: Tensor, lengths: Tensor, start: Tensor) -> WhisperWriting:
        """Begin transcripts. See LanguageModel."""
        return WhisperWriting(self, with_positions(audio.to(self.lm.dtype)), lengths, start)

    def read(self, audio: Tensor, lengths: Tensor, ids: Tensor, cache: Any = None) -> Tensor:
        """Return logits after each id, [B, N, V].

        Args:
            audio: [B, P, H], with positions.
            lengths: [B], valid positions of the audio.
            ids: [B, N].
            cache: keys and values of the ids before, to which these are added.
        """
        decoder = self.lm.model.decoder
        self._mask = valid_mask(lengths, audio.shape[1])[:, None, None]
        past = {cache_name(decoder): cache}
        out = decoder(input_ids=ids, encoder_hidden_states=audio, use_cache=cache is not None, **past)
        return self.lm.proj_out(out.last_hidden_state)

    def _mask_padding(
        self,
        module: nn.Module,  # noqa: ARG002
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "attention_mask": self._mask}


class WhisperWriting:
    """Transcripts that a Whisper writes. See `train.stages.text_decoder.base.Writing`."""

    def __init__(self, model: WhisperModel, audio: Tensor, lengths: Tensor, start: Tensor) -> None:
        """Hold audio [B, P, H] with positions, valid up to lengths [B], and the ids before each transcript [B, N]."""
        from transformers import DynamicCache, EncoderDecoderCache

        self.model = model
        self.audio = audio
        self.lengths = lengths
        self.start = start
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def begin(self) -> Tensor:
        """Read audio and start. See Writing."""
        return self.model.read(self.audio, self.lengths, self.start, self.cache)[:, -1]

    def follow(self, tokens: Tensor) -> Tensor:
        """Read the last tokens. See Writing."""
        return self.model.read(self.audio, self.lengths, tokens[:, None], self.cache)[:, -1]


def with_positions(audio: Tensor) -> Tensor:
    """Add sinusoids of the positions to audio [B, P, H], as Whisper's own encoder does.

    Cross-attention alone cannot tell first from last.
    """
    half = audio.shape[2] // 2
    rates = torch.exp(torch.arange(half, device=audio.device) * (-math.log(10000) / max(1, half - 1)))
    angles = torch.arange(audio.shape[1], device=audio.device)[:, None] * rates
    return audio + torch.cat([angles.sin(), angles.cos()], dim=1).to(audio.dtype)
