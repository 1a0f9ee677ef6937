"""Any causal language model as one that reads and writes audio: patches in, patches out (MiMo-Audio, section 2.2).

    lm = AutoModelForCausalLM.from_pretrained(...)     # or any model with the methods that `AudioLM` names
    lm.resize_token_embeddings(len(tokenizer) + 3)
    model = AudioLM(lm, PatchConfig.published(), SpecialIds(n, n + 1, n + 2))

The sequences are those of `mimotok.lm.interleaving`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.lm.interleaving import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.patches import CodeEmbedding, PatchConfig, PatchDecoder, PatchEncoder
from mimotok.lm.sampling import PLAIN, Sampling, sample
from mimotok.model.lengths import checked_lengths, valid_mask


class Sequences(NamedTuple):
    """A padded batch of `Positions`. text: [B, T]; patches: [B, T, n_q, size]; lengths: [B] positions."""

    text: Tensor
    patches: Tensor
    lengths: Tensor


class AudioLosses(NamedTuple):
    """Cross-entropies in nats. text: per next text id, scalar; audio: per code of the next patch and channel, [n_q]."""

    text: Tensor
    audio: Tensor


def pad_sequences(positions: Sequence[Positions], codebook_sizes: Sequence[int]) -> Sequences:
    """Pad sequences to one length with text id 0 and empty patches, which are masked out of the model."""
    lengths = torch.tensor([len(each.text) for each in positions])
    size = int(lengths.max())
    frames = positions[0].patches.shape[2]
    text = torch.zeros(len(positions), size, dtype=torch.int64)
    patches = torch.tensor(codebook_sizes)[:, None].repeat(len(positions), size, 1, frames)
    for row, each in enumerate(positions):
        text[row, : len(each.text)] = each.text
        patches[row, : len(each.text)] = each.patches
    return Sequences(text, patches, lengths)


class AudioLM(nn.Module):
    """A causal LM with a PatchEncoder before it and a PatchDecoder after it.

    lm: a Hugging Face causal LM, or what has its `base_model` (called with inputs_embeds, past_key_values, use_cache;
    gives last_hidden_state and past_key_values), `get_input_embeddings()` and `get_output_embeddings()`.
    special: text ids that the LM must have embeddings for.
    """

    def __init__(self, lm: Any, config: PatchConfig, special: SpecialIds) -> None:
        super().__init__()
        vocabulary, dim = lm.get_input_embeddings().weight.shape
        if not 0 <= min(special) <= max(special) < vocabulary or len(set(special)) != len(special):
            raise ValueError(f"{special}, but the LM has {vocabulary} ids: give three of them, enlarging it if need be")
        self.lm = lm
        self.config = config
        self.special = special
        self.layout = InterleavedLayout(config.codebook_sizes, special, config.patch_size)
        embedding = CodeEmbedding(config.codebook_sizes, config.dim)
        self.patch_encoder = PatchEncoder(config, dim, embedding)
        self.patch_decoder = PatchDecoder(config, dim, embedding)

    def forward(self, sequences: Sequences) -> AudioLosses:
        """Compute the losses of predicting each position from those before it."""
        text, patches, lengths = sequences
        lengths = checked_lengths(lengths, text.shape[0], text.shape[1], "positions")
        # the padding is on the right, where causal attention hides it without a mask
        hidden = self.lm.base_model(inputs_embeds=self.embed(text, patches), use_cache=False).last_hidden_state[:, :-1]
        following = text[:, 1:]
        valid = valid_mask(lengths - 1, text.shape[1] - 1)
        logits = self.lm.get_output_embeddings()(hidden[valid])
        text_loss = F.cross_entropy(logits.float(), following[valid])
        audio = valid & (following == self.special.audio)
        return AudioLosses(text_loss, self.patch_decoder.loss(self._for_patches(hidden[audio]), patches[:, 1:][audio]))

    def embed(self, text: Tensor, patches: Tensor) -> Tensor:
        """text: [B, T], patches: [B, T, n_q, size] -> what the LM is given, [B, T, dim]."""
        embedded = self.lm.get_input_embeddings()(text)
        audio = text == self.special.audio
        encoded = torch.zeros_like(embedded)
        encoded[audio] = self.patch_encoder(patches[audio]).to(embedded.dtype)
        return embedded + encoded

    def _for_patches(self, hidden: Tensor) -> Tensor:
        # an LM that was loaded in half precision, with patch modules in full
        return hidden.to(self.patch_decoder.projection.weight.dtype)

    @torch.no_grad()
    def generate(
        self,
        prompt: Positions,
        *,
        limit: int,
        stop_id: int | None = None,
        text_sampling: Sampling = PLAIN,
        audio_sampling: Sampling | Sequence[Sampling] = PLAIN,
        generator: torch.Generator | None = None,
    ) -> Positions:
        """Continue a prompt by up to `limit` positions, up to and with the first `stop_id`; the prompt is returned too.

        Text and audio alternate as `InterleavedLayout.decode` wants it: audio that the limit cuts off is ended
        by one more position. Raises ValueError for a prompt or a limit of 0 positions.
        """
        if limit < 1 or not len(prompt.text):
            raise ValueError(f"limit={limit}, and a prompt of {len(prompt.text)} positions: give at least 1 of each")
        text = [prompt.text]
        patches = [prompt.patches]
        empty = self.layout.empty_patches(1, prompt.text.device)[0]
        last = int(prompt.text[-1])
        cache = None
        embeds = self.embed(prompt.text[None], prompt.patches[None])
        for remaining in range(limit, 0, -1):
            output = self.lm.base_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
            hidden = output.last_hidden_state[:, -1]
            cache = output.past_key_values
            logits = self.lm.get_output_embeddings()(hidden).float() + self._grammar(last, remaining, hidden.device)
            new_text = sample(logits, text_sampling, generator)
            new_patch = empty[None]
            last = int(new_text)
            if last == self.special.audio:
                state = self._for_patches(hidden)
                new_patch = self.patch_decoder.generate(state, sampling=audio_sampling, generator=generator)
            text.append(new_text)
            patches.append(new_patch)
            if last == stop_id:
                break
            embeds = self.embed(new_text[None], new_patch[None])
        if last == self.special.audio:
            text.append(torch.full_like(text[0][:1], self.special.end))
            patches.append(empty[None])
        return Positions(torch.cat(text), torch.cat(patches))

    def _grammar(self, last: int, remaining: int, device: torch.device) -> Tensor:
        """What is added to the logits, [ids]: -inf for a text id that may not follow `last`."""
        audio, start, end = self.special
        mask = torch.zeros(self.lm.get_output_embeddings().weight.shape[0], device=device)
        if last in (start, audio):
            mask.fill_(float("-inf"))
            mask[audio] = 0.0
            mask[end] = 0.0 if last == audio else float("-inf")
        else:
            mask[[audio, end]] = float("-inf")
            # an audio that begins with the last position could not hold a patch
            mask[start] = float("-inf") if remaining == 1 else 0.0
        return mask
