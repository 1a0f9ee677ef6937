"""Semantic distillation: the first codebook's vectors must tell what a frozen speech encoder hears.

As in SpeechTokenizer (Zhang et al., 2024) and Mimi (Defossez et al., 2024), a linear layer on the first codebook's
vectors is held against the encoder's features by cosine. It takes neither text nor labels, so all speech teaches
meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.model.lengths import valid_mask
from train.losses.speech import Teacher, prepare


@dataclass(frozen=True)
class SemanticConfig(Teacher):
    """layer: of the speech encoder, counted from 1, whose features are wanted."""

    layer: int = 4


class SemanticReader(nn.Linear):
    """A linear layer that says from single frames what a frozen speech encoder hears in them."""

    def __init__(self, width: int, frame_size: int, config: SemanticConfig) -> None:
        """width: of the frames; frame_size: samples of each. Raises as `train.losses.speech.load_speech_encoder`."""
        super().__init__(width, config.load("cpu").width)
        self.frame_size = frame_size
        self.config = config

    def loss(self, frames: Tensor, lengths: Tensor, wav: Tensor, samples: Tensor) -> Tensor:
        """Return 1 - cosine between what is said and what the encoder hears, the mean over valid frames.

        frames: [B, F, D], lengths: [B] frames; wav: [B, T], samples: [B]. Only the share of clips that the
        config names is heard.
        """
        count = self.config.count(len(wav))
        lengths = lengths[:count]
        wanted = self._hear(wav[:count], samples[:count], frames.shape[1])
        said = self(frames[:count]).float()
        mask = valid_mask(lengths, said.shape[1])
        return ((1 - F.cosine_similarity(said, wanted, dim=-1)) * mask).sum() / mask.sum()

    @torch.no_grad()
    def _hear(self, wav: Tensor, samples: Tensor, frames: int) -> Tensor:
        """Return the encoder's features at the codec's frame rate, [B, frames, D], each frame at mean 0, variance 1."""
        encoder = self.config.load(wav.device)
        # whole frames, so that the features of each are those of its own samples
        wav = F.pad(wav, (0, frames * self.frame_size - wav.shape[1]))
        wav_16k, samples_16k = prepare(wav, samples, self.config.sample_rate)
        (features,), _ = encoder.features(wav_16k, samples_16k, [self.config.layer])
        pooled = F.adaptive_avg_pool1d(features.float().mT, frames).mT
        return F.layer_norm(pooled, pooled.shape[-1:])
