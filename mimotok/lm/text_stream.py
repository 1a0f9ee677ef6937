"""Text beside audio: one text id per code frame, put where the words (Moshi) or the sentences (FLM-Audio) are said.

Word by word (Defossez et al., 2024, section 3.4.4):       pad  EPAD w w pad pad EPAD w pad ...
Sentence by sentence (Yao et al., 2025, arXiv 2509.02521): pad  w w w w w w wait wait wait pad ...

The second needs no times of words, and leaves sentences whole. For text that trails its audio (as in recognition), give
the sentence's end as its start.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FRAME_RATE = 25.0


class Span(NamedTuple):
    """The text ids of a word or a sentence, and when it is said, in seconds."""

    ids: tuple[int, ...]
    start: float
    end: float


def align_words(
    words: Sequence[Span], frames: int, *, pad_id: int, epad_id: int, frame_rate: float = FRAME_RATE
) -> Tensor:
    """Write words in order of time into a text stream [frames]; where frames are free, `epad_id` announces a word.

    A word that would begin within the one before follows it at once. Raises ValueError for a text id that is `pad_id`,
    `epad_id` or negative, and where the text does not fit.
    """
    stream = torch.full((frames,), pad_id)
    for first, word in _placed(words, frames, frame_rate, (pad_id, epad_id)):
        if first and stream[first - 1] == pad_id:
            stream[first - 1] = epad_id
        stream[first : first + len(word.ids)] = torch.tensor(word.ids)
    return stream


def read_words(stream: Tensor, *, pad_id: int, epad_id: int, frame_rate: float = FRAME_RATE) -> list[Span]:
    """stream: [F] -> its words, which end where their text ends; words without a frame between come as one."""
    words = _runs(stream, (pad_id, epad_id))
    return [Span(ids, first / frame_rate, (first + len(ids)) / frame_rate) for first, ids in words]


def align_sentences(
    sentences: Sequence[Span], frames: int, *, pad_id: int, wait_id: int, frame_rate: float = FRAME_RATE
) -> Tensor:
    """Write sentences in order of time into a text stream [frames]: the text at once, then `wait_id` until its end.

    A sentence that would begin within the text of the one before follows it at once; one that begins while the one
    before waits cuts the waiting short. Errors as in `align_words`.
    """
    stream = torch.full((frames,), pad_id)
    for first, sentence in _placed(sentences, frames, frame_rate, (pad_id, wait_id)):
        stop = first + len(sentence.ids)
        stream[first:] = pad_id
        stream[first:stop] = torch.tensor(sentence.ids)
        stream[stop : max(stop, round(sentence.end * frame_rate))] = wait_id
    return stream


def read_sentences(stream: Tensor, *, pad_id: int, wait_id: int, frame_rate: float = FRAME_RATE) -> list[Span]:
    """stream: [F] -> its sentences, which end where they stop waiting; texts without a frame between are one."""
    kinds = stream.tolist()
    sentences = []
    for first, ids in _runs(stream, (pad_id, wait_id)):
        stop = first + len(ids)
        while stop < len(kinds) and kinds[stop] == wait_id:
            stop += 1
        sentences.append(Span(ids, first / frame_rate, stop / frame_rate))
    return sentences


def _placed(spans: Sequence[Span], frames: int, frame_rate: float, special: Collection[int]) -> list[tuple[int, Span]]:
    """Yield each span with the frame of its first text id."""
    placed = []
    free = 0
    last = float("-inf")
    for number, span in enumerate(spans):
        for at, text_id in enumerate(span.ids):
            if text_id < 0 or text_id in special:
                raise ValueError(f"spans[{number}].ids[{at}]={text_id}: negative, or one of the special ids {special}")
        if not span.ids or span.start < last or span.end < span.start:
            raise ValueError(f"spans[{number}]={span}: give at least one id, and spans in order of time")
        first = max(round(span.start * frame_rate), free)
        free = first + len(span.ids)
        last = span.start
        if free > frames:
            raise ValueError(f"spans[{number}]: its text ends at frame {free}, but the stream has {frames} frames")
        placed.append((first, span))
    return placed


def _runs(stream: Tensor, special: Collection[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Yield the runs of text ids: the frame of the first one, and the ids."""
    runs: list[tuple[int, list[int]]] = []
    inside = False
    for frame, text_id in enumerate(stream.tolist()):
        if text_id in special:
            inside = False
        elif inside:
            runs[-1][1].append(text_id)
        else:
            runs.append((frame, [text_id]))
            inside = True
    return [(first, tuple(ids)) for first, ids in runs]
