"""Text beside audio: what is put into a stream is read out of it, to the frame."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimotok.lm.text_stream import Span, align_sentences, align_words, read_sentences, read_words

PAD, EPAD, WAIT = 0, 1, 2
FRAMES = 400
texts = st.lists(st.integers(3, 50), min_size=1, max_size=5).map(tuple)


@st.composite
def spans(draw, least_gap):
    """Spans on whole frames, with `least_gap` frames or more between one's end and the next one's start."""
    drawn, frame = [], 0
    for ids in draw(st.lists(texts, max_size=8)):
        first = frame + draw(st.integers(least_gap, 9))
        last = first + len(ids) + draw(st.integers(0, 9))
        drawn.append(Span(ids, first / 25, last / 25))
        frame = last
    return drawn


@given(spans(least_gap=1))
def test_words_come_back_when_they_were_said(words) -> None:
    stream = align_words(words, FRAMES, pad_id=PAD, epad_id=EPAD)
    again = read_words(stream, pad_id=PAD, epad_id=EPAD)
    assert [(w.ids, w.start) for w in again] == [(w.ids, w.start) for w in words]
    assert int((stream == EPAD).sum()) == len(words)
    for word in words:
        assert stream[round(word.start * 25) - 1] == EPAD


@given(spans(least_gap=1))
def test_sentences_come_back_with_start_and_end(sentences) -> None:
    stream = align_sentences(sentences, FRAMES, pad_id=PAD, wait_id=WAIT)
    assert read_sentences(stream, pad_id=PAD, wait_id=WAIT) == sentences


@pytest.mark.slow
@given(st.lists(st.tuples(texts, st.floats(0, 2), st.floats(0, 3)), max_size=8), st.floats(10, 50))
def test_no_text_is_lost_or_early_at_any_times(drawn, frame_rate) -> None:
    starts = torch.tensor([gap for _, gap, _ in drawn]).cumsum(0).tolist()
    words = [Span(ids, start, start + length) for (ids, _, length), start in zip(drawn, starts, strict=True)]
    said = [i for ids, _, _ in drawn for i in ids]
    for stream in (
        align_words(words, 1200, pad_id=PAD, epad_id=EPAD, frame_rate=frame_rate),
        align_sentences(words, 1200, pad_id=PAD, wait_id=WAIT, frame_rate=frame_rate),
    ):
        where = (stream >= 3).nonzero()[:, 0]
        assert stream[where].tolist() == said
        begins = torch.tensor([0, *(len(ids) for ids, _, _ in drawn)]).cumsum(0)[:-1]
        for word, at in zip(words, begins.tolist(), strict=True):
            assert int(where[at]) >= round(word.start * frame_rate)


def test_the_streams_as_the_module_draws_them() -> None:
    words = [Span((5, 6), 0.04, 0.2), Span((7,), 0.24, 0.3)]
    assert align_words(words, 8, pad_id=PAD, epad_id=EPAD).tolist() == [1, 5, 6, 0, 0, 1, 7, 0]
    assert align_sentences(words, 9, pad_id=PAD, wait_id=WAIT).tolist() == [0, 5, 6, 2, 2, 0, 7, 2, 0]


def test_a_sentence_that_begins_early_cuts_the_waiting_short() -> None:
    sentences = [Span((5,), 0.0, 0.32), Span((6,), 0.12, 0.2)]
    assert align_sentences(sentences, 8, pad_id=PAD, wait_id=WAIT).tolist() == [5, 2, 2, 6, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([Span((5,), 0, 1), Span((6, EPAD), 2, 3)], r"spans\[1\].ids\[1\]=1"),
        ([Span((-4,), 0, 1)], r"spans\[0\].ids\[0\]=-4"),
        ([Span((5,), 0.1, 0.2), Span((5,), 0, 1)], r"spans\[1\].* in order of time"),
        ([Span((), 1, 2)], "at least one id"),
        ([Span((5, 5), 0.36, 2)], r"spans\[0\]: its text ends at frame 11, but the stream has 10"),
    ],
)
def test_spans_that_cannot_be_placed(words, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_words(words, 10, pad_id=PAD, epad_id=EPAD)
