"""A causal LM of transformers behind an audio prefix: [audio] tokens, the audio aligned on the right.

Aligned so, the first token sits in one column for the whole batch, and the padding on the left is masked.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.lm.kv_cache import cache_name
from train.stages.text_decoder.base import take


class Joined(NamedTuple):
    """Audio and tokens: embeds [B, P + N, H], mask bool [B, P + N], position [B, P + N] from each clip's own start."""

    embeds: Tensor
    mask: Tensor
    position: Tensor


def join(audio: Tensor, lengths: Tensor, tokens: Tensor) -> Joined:
    """Join audio and the tokens that follow it without a gap, in the dtype of the tokens.

    Args:
        audio: [B, P, H].
        lengths: [B], valid positions of the audio.
        tokens: [B, N, H], embeddings.
    """
    size = audio.shape[1]
    position = torch.arange(size + tokens.shape[1], device=audio.device) - (size - lengths)[:, None]
    mask = position >= 0
    position = position.clamp(min=0)
    audio = take(audio, position[:, :size])
    return Joined(torch.cat([audio.to(tokens.dtype), tokens], dim=1), mask, position)


def causal_logits(lm: Any, joined: Joined, keep: int, cache: Any = None) -> Tensor:
    """Return the LM's logits at the last `keep` positions, [B, keep, V].

    Args:
        lm: a causal LM of transformers.
        joined: what it reads.
        keep: positions.
        cache: keys and values of what it has read before, to which these are added.
    """
    known = inspect.signature(lm.forward).parameters
    optional = {"position_ids": joined.position, "logits_to_keep": keep, cache_name(lm): cache}
    out = lm(
        inputs_embeds=joined.embeds,
        attention_mask=joined.mask.long(),
        use_cache=cache is not None,
        # models that count positions by the mask take none
        **{name: value for name, value in optional.items() if name in known},
    )
    return out.logits[:, -keep:]


class CausalModel(nn.Module):
    """A causal LM. See `train.stages.text_decoder.language_model.LanguageModel`."""

    bos = None

    def __init__(self, lm: Any) -> None:
        """Wrap a causal LM of transformers. Raises ValueError where it does not read embeddings."""
        super().__init__()
        if "inputs_embeds" not in inspect.signature(lm.forward).parameters:
            raise ValueError(f"a {type(lm).__name__} does not read embeddings")
        self.lm = lm
        self.width: int = lm.get_input_embeddings().embedding_dim

    def room(self, lengths: Tensor) -> Tensor | None:
        """Return the positions that audio leaves. See LanguageModel."""
        positions = getattr(self.lm.config, "max_position_embeddings", None)
        return None if positions is None else positions - lengths

    def logits(self, audio: Tensor, lengths: Tensor, ids: Tensor) -> Tensor:
        """Return logits after each id. See LanguageModel."""
        joined = join(audio, lengths, self.lm.get_input_embeddings()(ids))
        return causal_logits(self.lm, joined, ids.shape[1])

    def start_writing(self, audio: Tensor, lengths: Tensor, start: Tensor) -> CausalWriting:
        """Begin transcripts. See LanguageModel."""
        return CausalWriting(self.lm, audio, lengths, start)


class CausalWriting:
    """Transcripts that a causal LM writes. See `train.stages.text_decoder.base.Writing`."""

    def __init__(self, lm: Any, audio: Tensor, lengths: Tensor, start: Tensor) -> None:
        """Join audio [B, P, H], valid up to lengths [B], and the ids before each transcript, start [B, N]."""
        from transformers import DynamicCache

        self.lm = lm
        self.cache = DynamicCache(config=lm.config)
        self.joined = join(audio, lengths, lm.get_input_embeddings()(start))

    def begin(self) -> Tensor:
        """Read audio and start. See Writing."""
        return causal_logits(self.lm, self.joined, 1, self.cache)[:, -1]

    def follow(self, tokens: Tensor) -> Tensor:
        """Read the last tokens. See Writing."""
        embeds = self.lm.get_input_embeddings()(tokens[:, None])
        mask = F.pad(self.joined.mask, (0, 1), value=True)
        self.joined = Joined(embeds, mask, self.joined.position[:, -1:] + 1)
        return causal_logits(self.lm, self.joined, 1, self.cache)[:, -1]
