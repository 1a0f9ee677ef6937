"""What a trained audio LM writes: the speech of texts, turn by turn, and the continuation of speech."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from examples.audio_lm.model import SPECIAL, continuation_prompt, group_words, one_letter, texts_of
from mimotok.lm import Positions
from mimotok.lm.audio_lm import AudioLM
from mimotok.lm.sampling import GREEDY, Sampling
from train.tools.align import Aligner, NotAlignedError

# patches of a turn, after which it is cut off: words of a few phones and a pause take no longer than 2.4 s
LONGEST_TURN = 15


class Written(NamedTuple):
    """What the LM wrote after a prompt: codes [n_q, F], without those of the prompt, and whether it ended by itself."""

    codes: Tensor
    ended: bool


def make_generators(count: int, seed: int) -> list[torch.Generator]:
    """Return a generator for each of several texts, so that each gives what it would give alone."""
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


def write(
    lm: AudioLM, prompts: Sequence[Positions], limit: int, sampling: Sampling, generators: Sequence[torch.Generator]
) -> list[Positions]:
    """Continue prompts that stand in speech, up to and with the end of that speech, or by `limit` patches."""
    return lm.generate(
        list(prompts),
        limit=limit,
        stop_id=SPECIAL.end,
        # where speech ends is not left to chance
        text_sampling=GREEDY,
        audio_sampling=sampling,
        generator=list(generators),
    )


def continue_speech(lm: AudioLM, codes: Sequence[Tensor], limit: int, sampling: Sampling, seed: int) -> list[Written]:
    """Go on after codes [n_q, F], each of at least one patch, by up to `limit` patches."""
    prompts = [continuation_prompt(each, lm.layout) for each in codes]
    results = write(lm, prompts, limit, sampling, make_generators(len(prompts), seed))
    return [_written(prompt, result, limit) for prompt, result in zip(prompts, results, strict=True)]


def speak(lm: AudioLM, texts: Sequence[str], speakers: Sequence[str], sampling: Sampling, seed: int) -> list[Written]:
    """Speak texts, each by its speaker. Raises ValueError for a text that is not of words of the dictionary."""
    turns = [_turns(text) for text in texts]
    asked = [list(texts_of(each, speaker)) for each, speaker in zip(turns, speakers, strict=True)]
    generators = make_generators(len(texts), seed)
    spoken = [Positions(torch.zeros(0, dtype=torch.int64), lm.layout.empty_patches(0)) for _ in texts]
    ended = [True] * len(texts)
    codes: list[list[Tensor]] = [[] for _ in texts]
    for number in range(max(map(len, asked))):
        rows = [row for row, ids in enumerate(asked) if number < len(ids)]
        prompts = [_with_text(lm, spoken[row], asked[row][number]) for row in rows]
        results = write(lm, prompts, LONGEST_TURN, sampling, [generators[row] for row in rows])
        for row, prompt, result in zip(rows, prompts, results, strict=True):
            turn = _written(prompt, result, LONGEST_TURN)
            spoken[row] = result
            codes[row].append(turn.codes)
            ended[row] &= turn.ended
    return [Written(torch.cat(each, dim=1), end) for each, end in zip(codes, ended, strict=True)]


# its dictionary and acoustic model are read once, not for every batch of texts
_load_aligner = cache(Aligner)


def _turns(text: str) -> list[str]:
    """Return the phones of each turn of a text, by the dictionary."""
    aligner = _load_aligner()
    try:
        words = [one_letter(aligner.pronounce(word)) for word in aligner.words(text)]
    except NotAlignedError as error:
        raise ValueError(f"text={text!r}: {error}; give words of the dictionary") from error
    return [" ".join(words[place] for place in group) for group in group_words(words)]


def _with_text(lm: AudioLM, before: Positions, ids: Tensor) -> Positions:
    """Append a turn's text and the beginning of its speech."""
    text = torch.cat((before.text, ids, torch.tensor([SPECIAL.start])))
    return Positions(text, torch.cat((before.patches, lm.layout.empty_patches(len(ids) + 1))))


def _written(prompt: Positions, result: Positions, limit: int) -> Written:
    codes = result.patches[len(prompt.text) : -1].transpose(0, 1).flatten(1)
    # where the limit has cut off the speech, its end is one position more
    return Written(codes, ended=len(result.text) <= len(prompt.text) + limit)
