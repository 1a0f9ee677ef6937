"""Generation of flat tokens by transformers' `generate`, held to the order of the codebooks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from mimotok.lm.token_text import AudioVocabulary


class CodebookTurns(LogitsProcessor):
    """Allows only the ids of the codebook whose turn it is, so that what is generated can always be decoded.

    Audio begins after `start_id`, or right away where that is None, and ends with one of `end_ids`, which are allowed
    after whole chunks of frames only. Outside of audio all ids but those of codes are allowed.

    Args:
        vocabulary: from `add_audio_tokens`; its layout must have a chunk (1 is frame by frame).
        start_id: the id after which audio begins.
        end_ids: the ids that may end it, such as the tokenizer's end of sequence.

    Raises:
        ValueError: for a layout without a chunk: only at its end is it known where a codebook begins.

    Example:
        >>> from transformers import LogitsProcessorList
        >>> processors = LogitsProcessorList([CodebookTurns(vocabulary, end_ids=[0])])  # doctest: +SKIP
        >>> ids = lm.generate(prompt, logits_processor=processors)  # doctest: +SKIP
    """

    def __init__(
        self, vocabulary: AudioVocabulary, *, start_id: int | None = None, end_ids: Sequence[int] = ()
    ) -> None:
        layout = vocabulary.layout
        if layout.chunk is None:
            raise ValueError("chunk=None: whose turn it is follows from the clip's length; give a layout with a chunk")
        self.vocabulary = vocabulary
        self.start_id = start_id
        self.end_ids = torch.tensor(list(end_ids), dtype=torch.int64)
        self._books = layout.books(layout.chunk)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: [B, T]; scores: [B, vocabulary]. Returns scores, -inf where an id is not allowed."""
        device = scores.device
        audio = torch.isin(input_ids, self.vocabulary.ids.to(device))
        # how many ids at the end are codes, and what stands before them
        run = audio.flip(1).int().cumprod(1).sum(1)
        ends = self.end_ids.to(device)
        last = input_ids[:, -1]
        inside = ~torch.isin(last, ends)
        if self.start_id is not None:
            inside = (run > 0) | (last == self.start_id)
        period = len(self._books)
        turn = self._books.to(device)[run % period]
        may_end = (run > 0) & (run % period == 0)
        allowed = torch.ones_like(scores, dtype=torch.bool)
        allowed[:, self.vocabulary.ids.to(device)] = False
        allowed[inside] = False
        for book in range(self.vocabulary.layout.n_q):
            rows = (inside & (turn == book)).nonzero()
            allowed[rows, self.vocabulary.book_ids(book).to(device)] = True
        if len(ends):
            allowed[(inside & may_end).nonzero(), ends] = True
        return scores.masked_fill(~allowed, float("-inf"))
