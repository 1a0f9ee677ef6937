"""The model: a small Llama from scratch, made an audio LM by mimotok.lm.audio_lm, and its sequences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from examples.training import Example
from mimotok.io.clips.alignments import SILENCE, Phone, Word
from mimotok.lm import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.audio_lm import AudioLM, Sequences
from mimotok.lm.patches import PatchConfig
from train.stages.text import ByteTokenizer

TEXT = ByteTokenizer()
SPECIAL = SpecialIds(audio=TEXT.size, start=TEXT.size + 1, end=TEXT.size + 2)


# phones of the words that are spoken in one turn, so that most turns last two patches or more
TURN_PHONES = 4
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
    """Words in phones, and the patches [start, stop) of their speech."""

    text: str
    start: int
    stop: int


def one_letter(phones: Iterable[str]) -> str:
    """Write ARPAbet phones with a letter each; silence is left out."""
    return "".join(ARPABET[phone] for phone in phones if phone != SILENCE)


def pronounced(words: Iterable[Word], phones: Sequence[Phone]) -> list[Word]:
    """Replace the letters of words by the phones that are spoken in their time, one letter each."""
    heard = ((word, [phone.label for phone in phones if word.start <= phone.start < word.end]) for word in words)
    return [word._replace(text=one_letter(labels)) for word, labels in heard if labels]


def group_words(words: Sequence[str]) -> list[list[int]]:
    """Return the places of the words of each turn, which has at least TURN_PHONES phones where enough are left."""
    groups: list[list[int]] = []
    count = TURN_PHONES
    for place, word in enumerate(words):
        if count >= TURN_PHONES:
            groups.append([])
            count = 0
        groups[-1].append(place)
        count += len(word)
    return groups


def turns_of(words: Sequence[Word], patches: int, patch_rate: float) -> list[Turn]:
    """Divide speech of so many patches into turns, at the beginnings of words; pauses belong to the word before.

    The patch in which a turn begins is the turn's own: what is left of the word before is known from its text, while
    of a word that begins before its text nothing would be known. Words that would have no patch share those of the
    turn after them. patch_rate: Hz.
    """
    turns: list[Turn] = []
    text = ""
    start = 0
    groups = group_words([word.text for word in words])
    for number, group in enumerate(groups):
        text = " ".join([text, *(words[place].text for place in group)]).strip()
        stop = patches
        if number + 1 < len(groups):
            stop = min(int(words[groups[number + 1][0]].start * patch_rate), patches)
        if stop > start:
            turns.append(Turn(text, start, stop))
            text = ""
            start = stop
    if text and turns:
        turns[-1] = turns[-1]._replace(text=f"{turns[-1].text} {text}")
    return turns


def texts_of(turns: Sequence[str], speaker: str) -> Iterator[Tensor]:
    """Yield the ids that stand before the speech of each turn: its text, and at first bos and who is to speak."""
    yield torch.tensor([TEXT.bos, *TEXT.encode(f"{speaker}: {turns[0]}")])
    for text in turns[1:]:
        yield torch.tensor(TEXT.encode(f" {text}"))


def spoken(codes: Tensor, turns: Sequence[Turn], speaker: str, layout: InterleavedLayout) -> Positions:
    """Return the training sequence of a clip, codes [n_q, F]: for each turn its text and its patches, and eos.

        bos "anna: gUd" START patch patch END " mcrnIG" START patch patch patch END eos

    Without turns, the sequence is one for continuation: bos START patch ... END eos.
    """
    if not turns:
        return layout.encode([torch.tensor([TEXT.bos]), codes, torch.tensor([TEXT.eos])])
    # what is left after the last whole patch belongs to the last turn
    stops = [turn.stop * layout.size for turn in turns[:-1]] + [codes.shape[1]]
    segments: list[Tensor] = []
    for text, turn, stop in zip(texts_of([turn.text for turn in turns], speaker), turns, stops, strict=True):
        segments += [text, codes[:, turn.start * layout.size : stop]]
    return layout.encode([*segments, torch.tensor([TEXT.eos])])


def continuation_prompt(codes: Tensor, layout: InterleavedLayout) -> Positions:
    """Return what asks for more of codes [n_q, F]: everything up to the last whole patch."""
    whole = codes[:, : codes.shape[1] // layout.size * layout.size]
    sequence = spoken(whole, [], "", layout)
    # without END and eos
    return Positions(sequence.text[:-2], sequence.patches[:-2])
