"""What a trained audio LM writes: the speech of texts, turn by turn, and the continuation of speech."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from examples.audio_lm.model import SPECIAL, TEXT, continuation_prompt, one_letter, prompt_of, units_of
from mimotok.lm import Positions
from mimotok.lm.audio_lm import AudioLM
from mimotok.lm.sampling import GREEDY, Sampling
from train.tools.align import Aligner, NotAlignedError

# positions of a text and its speech, after which it is cut off: a second takes about 35
LONGEST = 600


class Written(NamedTuple):
    """What the LM wrote after a prompt: codes [n_q, F], without those of the prompt, and whether it ended by itself."""

    codes: Tensor
    ended: bool


def make_generators(count: int, seed: int) -> list[torch.Generator]:
    """Return a generator for each of several texts, so that each gives what it would give alone."""
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


def continue_speech(lm: AudioLM, codes: Sequence[Tensor], limit: int, sampling: Sampling, seed: int) -> list[Written]:
    """Go on after codes [n_q, F], each of at least one patch, by up to `limit` patches."""
    prompts = [continuation_prompt(each, lm.layout) for each in codes]
    results = lm.generate(
        prompts,
        limit=limit,
        stop_id=SPECIAL.end,
        # where speech ends is not left to chance
        text_sampling=GREEDY,
        audio_sampling=sampling,
        generator=make_generators(len(prompts), seed),
    )
    return [_written(prompt, result, limit) for prompt, result in zip(prompts, results, strict=True)]


def speak(lm: AudioLM, texts: Sequence[str], speakers: Sequence[str], sampling: Sampling, seed: int) -> list[Written]:
    """Speak texts, each by its speaker. Raises ValueError for a text that is not of words of the dictionary."""
    scripts = [[TEXT.encode(unit) for unit in _units(text)] for text in texts]
    prompts = []
    for speaker in speakers:
        ids = torch.tensor(prompt_of(speaker))
        prompts.append(Positions(ids, lm.layout.empty_patches(len(ids))))
    results = lm.generate(
        prompts,
        limit=LONGEST,
        script=scripts,
        text_sampling=GREEDY,
        audio_sampling=sampling,
        generator=make_generators(len(texts), seed),
    )
    return [
        _written(prompt, result, LONGEST, asked=sum(map(len, script)))
        for prompt, result, script in zip(prompts, results, scripts, strict=True)
    ]


# its dictionary and acoustic model are read once, not for every batch of texts
_load_aligner = cache(Aligner)


def _units(text: str) -> list[str]:
    """Return the phones of a text, by the dictionary."""
    aligner = _load_aligner()
    try:
        return units_of(one_letter(aligner.pronounce(word)) for word in aligner.words(text))
    except NotAlignedError as error:
        raise ValueError(f"text={text!r}: {error}; give words of the dictionary") from error


def _written(prompt: Positions, result: Positions, limit: int, asked: int = 0) -> Written:
    """asked: text ids that were to be said on the way."""
    text = result.text[len(prompt.text) :]
    patches = result.patches[len(prompt.text) :][text == SPECIAL.audio]
    said = int((text < min(SPECIAL)).sum()) == asked
    # where the limit has cut off the speech, its end is one position more
    ended = said and int(text[-1]) == SPECIAL.end and len(text) <= limit
    return Written(patches.transpose(0, 1).flatten(1), ended)
