"""The model: a small Llama from scratch, made an audio LM by mimotok.lm.audio_lm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from examples.training import Example
from mimotok.lm import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.audio_lm import AudioLM, Sequences
from mimotok.lm.patches import PatchConfig
from train.stages.text import ByteTokenizer

TEXT = ByteTokenizer()
SPECIAL = SpecialIds(audio=TEXT.size, start=TEXT.size + 1, end=TEXT.size + 2)


class SpeechLM(Example):
    """bos text START patches END eos; for continuation the same without the text."""

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        steps: int,
        learning_rate: float = 2e-3,
        width: int = 320,
        layers: int = 6,
    ) -> None:
        super().__init__(steps, learning_rate)
        self.save_hyperparameters()
        lm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=TEXT.size + len(SPECIAL),
                hidden_size=width,
                intermediate_size=3 * width,
                num_hidden_layers=layers,
                num_attention_heads=5,
                # the usual 0.02 suits wide models
                initializer_range=width**-0.5,
            )
        )
        self.model = AudioLM(lm, PatchConfig(tuple(codebook_sizes)), SPECIAL)

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Nats per text id and per code; `codebook_0` is the first channel's share of the latter."""
        loss, text, audio = self.model(batch)
        return {"loss": loss, "text": text, "audio": audio.mean(), "codebook_0": audio[0]}


def text_ids(text: str, speaker: str = "") -> Tensor:
    """Return what stands before speech: bos, who is to speak if that is said, and the text in lower case."""
    asked = f"{speaker}: {text.lower()}" if speaker else text.lower()
    return torch.tensor([TEXT.bos, *TEXT.encode(asked if text else "")])


def spoken(codes: Tensor, text: str, codebook_sizes: Sequence[int], speaker: str = "") -> Positions:
    """Return the training sequence of a clip, codes [n_q, F]; an empty text makes it one for continuation."""
    after = torch.tensor([TEXT.eos])
    return InterleavedLayout(tuple(codebook_sizes), SPECIAL).encode([text_ids(text, speaker), codes, after])


def speech_prompt(text: str, config: PatchConfig, speaker: str = "") -> Positions:
    """Return what asks for the text's speech: everything up to START."""
    ids = torch.cat((text_ids(text, speaker), torch.tensor([SPECIAL.start])))
    layout = InterleavedLayout(config.codebook_sizes, SPECIAL, config.patch_size)
    return Positions(ids, layout.empty_patches(len(ids)))


def continuation_prompt(codes: Tensor, config: PatchConfig) -> Positions:
    """Return what asks for more of codes [n_q, F]: everything up to the last whole patch."""
    whole = codes[:, : codes.shape[1] // config.patch_size * config.patch_size]
    sequence = spoken(whole, "", config.codebook_sizes)
    # without END and eos
    return Positions(sequence.text[:-2], sequence.patches[:-2])
