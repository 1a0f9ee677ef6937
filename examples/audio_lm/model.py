"""The model: a small Llama from scratch, made an audio LM by mimotok.lm.audio_lm, and its sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from examples.training import Example
from mimotok.io.clips.phones import SILENCE, Phone, Word
from mimotok.lm import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.audio_lm import AudioLM, Sequences
from mimotok.lm.patches import PatchConfig
from train.stages.text import ByteTokenizer

TEXT = ByteTokenizer()
SPECIAL = SpecialIds(audio=TEXT.size, start=TEXT.size + 1, end=TEXT.size + 2)


# ARPAbet's own form of one letter for each phone, so that a phone is one byte of the text
ARPABET = {
    **{"AA": "a", "AE": "@", "AH": "A", "AO": "c", "AW": "W", "AY": "Y", "EH": "E", "ER": "R", "EY": "e", "IH": "I"},
    **{"IY": "i", "OW": "o", "OY": "O", "UH": "U", "UW": "u", "B": "b", "CH": "C", "D": "d", "DH": "D", "F": "f"},
    **{"G": "g", "HH": "h", "JH": "J", "K": "k", "L": "l", "M": "m", "N": "n", "NG": "G", "P": "p", "R": "r"},
    **{"S": "s", "SH": "S", "T": "t", "TH": "T", "V": "v", "W": "w", "Y": "y", "Z": "z", "ZH": "Z"},
}


class SpeechLM(Example):
    """Text and speech in turn, as `spoken` writes them; for continuation speech alone."""

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        steps: int,
        learning_rate: float = 2e-3,
        width: int = 256,
        layers: int = 4,
    ) -> None:
        super().__init__(steps, learning_rate)
        self.save_hyperparameters()
        lm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=TEXT.size + len(SPECIAL),
                hidden_size=width,
                intermediate_size=3 * width,
                num_hidden_layers=layers,
                num_attention_heads=max(1, width // 64),
                # the usual 0.02 suits wide models
                initializer_range=width**-0.5,
            )
        )
        self.model = AudioLM(lm, PatchConfig(tuple(codebook_sizes)), SPECIAL)

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Nats per text id and per code; `codebook_0` is the first channel's share of the latter."""
        loss, text, audio = self.model(batch)
        return {"loss": loss, "text": text, "audio": audio.mean(), "codebook_0": audio[0]}


class Turn(NamedTuple):
    """Phones, and the patches [start, stop) of their speech."""

    text: str
    start: int
    stop: int


def one_letter(phones: Iterable[str]) -> str:
    """Write ARPAbet phones with a letter each; silence is left out."""
    return "".join(ARPABET[phone] for phone in phones if phone != SILENCE)


class Unit(NamedTuple):
    """A phone of one letter, after a space where it begins a word, and when it begins, in seconds."""

    text: str
    start: float


def units_of(words: Iterable[str]) -> list[str]:
    """Return the phones of words that are spelt in phones: "DA", "wEDR" are " D", "A", " w", "E", "D", "R"."""
    return [f" {letter}" if place == 0 else letter for word in words for place, letter in enumerate(word)]


def pronounced(words: Iterable[Word], phones: Sequence[Phone]) -> list[Unit]:
    """Return the phones that are spoken in the time of the words."""
    units = []
    for word in words:
        heard = [phone for phone in phones if word.start <= phone.start < word.end and phone.label != SILENCE]
        letters = units_of([one_letter(phone.label for phone in heard)])
        units += [Unit(text, phone.start) for text, phone in zip(letters, heard, strict=True)]
    return units


def turns_of(units: Sequence[Unit], patches: int, patch_rate: float) -> list[Turn]:
    """Divide speech of so many patches into turns, each with the phones that begin in its first patch.

    The patches that follow, in which no phone begins, are the turn's too, and what is before all phones is the first
    turn's. patch_rate: Hz.
    """
    texts: dict[int, str] = {}
    for unit in units:
        place = min(int(unit.start * patch_rate), patches - 1)
        texts[place] = texts.get(place, "") + unit.text
    starts = [0, *list(texts)[1:]]
    stops = [*starts[1:], patches]
    return [Turn(text, start, stop) for text, start, stop in zip(texts.values(), starts, stops, strict=False)]


def prompt_of(speaker: str) -> list[int]:
    """Return the ids that stand before a text: who is to speak."""
    return [TEXT.bos, *TEXT.encode(f"{speaker}:")]


def spoken(codes: Tensor, turns: Sequence[Turn], speaker: str, layout: InterleavedLayout) -> Positions:
    """Return the training sequence of a clip, codes [n_q, F]: for each turn its text and its patches, and eos.

        bos "anna: gU" START patch END "d" START patch patch END " mc" START patch END eos

    Without turns, the sequence is one for continuation: bos START patch ... END eos.
    """
    if not turns:
        return layout.encode([torch.tensor([TEXT.bos]), codes, torch.tensor([TEXT.eos])])
    # what is left after the last whole patch belongs to the last turn
    stops = [turn.stop * layout.size for turn in turns[:-1]] + [codes.shape[1]]
    segments: list[Tensor] = []
    for turn, stop in zip(turns, stops, strict=True):
        text = TEXT.encode(turn.text) if segments else [*prompt_of(speaker), *TEXT.encode(turn.text)]
        segments += [torch.tensor(text), codes[:, turn.start * layout.size : stop]]
    return layout.encode([*segments, torch.tensor([TEXT.eos])])


def continuation_prompt(codes: Tensor, layout: InterleavedLayout) -> Positions:
    """Return what asks for more of codes [n_q, F]: everything up to the last whole patch."""
    whole = codes[:, : codes.shape[1] // layout.size * layout.size]
    sequence = spoken(whole, [], "", layout)
    # without END and eos
    return Positions(sequence.text[:-2], sequence.patches[:-2])
