"""Flat and coarse-first vocabularies and parallel streams: each undoes its inverse."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimotok.lm.layouts import Streams, flatten, from_streams, to_streams, unflatten
from tests.helpers.layout_strategies import codes_and_sizes, random_codes, spoilt_codes

chunks = st.none() | st.integers(1, 20)


@given(codes_and_sizes(), chunks)
def test_flat_and_back(drawn, chunk):
    codes, sizes = drawn
    ids = flatten(codes, sizes, chunk=chunk)
    assert ids.shape == (codes.shape[0], codes.shape[1] * codes.shape[2])
    assert 0 <= int(ids.min()) <= int(ids.max()) < sum(sizes)
    assert torch.equal(unflatten(ids, sizes, chunk=chunk), codes)


def test_the_orders():
    codes = torch.tensor([[[0, 1, 2], [3, 4, 5]]])
    assert flatten(codes, (10, 10)).tolist() == [[0, 13, 1, 14, 2, 15]]
    assert flatten(codes, (10, 10), chunk=None).tolist() == [[0, 1, 2, 13, 14, 15]]
    assert flatten(codes, (10, 10), chunk=2).tolist() == [[0, 1, 13, 14, 2, 15]]


@given(codes_and_sizes(), chunks, st.data())
def test_ids_of_another_codebook_are_refused_by_position(drawn, chunk, data):
    codes, sizes = drawn
    ids = flatten(codes, sizes, chunk=chunk)
    item, at = (data.draw(st.integers(0, n - 1)) for n in ids.shape)
    book = next(q for q in range(len(sizes)) if ids[item, at] < sum(sizes[: q + 1]))
    low, high = sum(sizes[:book]), sum(sizes[: book + 1])
    ids[item, at] = data.draw(st.sampled_from([low - 1, high]))
    told = f"ids[{item}, {at}]={int(ids[item, at])}, but this position belongs to codebook {book}"
    with pytest.raises(ValueError, match=re.escape(told) + f".* {low} to {high - 1}"):
        unflatten(ids, sizes, chunk=chunk)


def test_ids_that_make_no_frames_are_refused():
    with pytest.raises(ValueError, match="a multiple of 2"):
        unflatten(torch.zeros(1, 5, dtype=torch.int64), (3, 3))


@given(codes_and_sizes(), st.integers(0, 5), st.integers(0, 99))
def test_streams_and_back(drawn, acoustic_delay, pad_id):
    speaker, sizes = drawn
    other = random_codes(sizes, speaker.shape[2], 3, speaker.shape[0])
    text = torch.randint(0, 100, (speaker.shape[0], speaker.shape[2]))
    columns = to_streams(Streams(text, speaker, other), sizes, pad_id=pad_id, acoustic_delay=acoustic_delay)
    assert columns.shape[1] == 1 + 2 * len(sizes)
    again = from_streams(columns, sizes, acoustic_delay=acoustic_delay)
    assert all(torch.equal(a, b) for a, b in zip(again, (text, speaker, other), strict=True))
    frames = speaker.shape[2]
    late = acoustic_delay if len(sizes) > 1 else 0
    assert torch.equal(columns[:, 1, :frames], speaker[:, 0]), "the first codebook is not delayed"
    assert torch.equal(columns[:, -1, late : late + frames], other[:, -1])
    assert (columns[:, 0, frames:] == pad_id).all()


@given(spoilt_codes())
def test_invalid_codes_are_refused_by_position(drawn):
    codes, sizes, told = drawn
    with pytest.raises(ValueError, match=re.escape(told)):
        flatten(codes, sizes)
    text, fine = torch.zeros_like(codes[:, 0]), torch.zeros_like(codes)
    for streams in (Streams(text, codes, fine), Streams(text, fine, codes)):
        with pytest.raises(ValueError, match=re.escape(told)):
            to_streams(streams, sizes, pad_id=0)
        rows = torch.cat((streams.text[:, None], streams.speaker, streams.other), dim=1)
        with pytest.raises(ValueError, match=re.escape(told)):
            from_streams(rows, sizes, acoustic_delay=0)


def test_streams_that_do_not_fit_each_other():
    codes = random_codes((4, 4), 5, 0)
    text = torch.zeros_like(codes[:, 0])
    with pytest.raises(ValueError, match="have shapes"):
        to_streams(Streams(text[:, 1:], codes, codes), (4, 4), pad_id=0)
    spoilt = text.clone()
    spoilt[1, 2] = -1
    with pytest.raises(ValueError, match=r"text\[1, 2\]=-1"):
        to_streams(Streams(spoilt, codes, codes), (4, 4), pad_id=0)
    with pytest.raises(ValueError, match="acoustic_delay=-1"):
        to_streams(Streams(text, codes, codes), (4, 4), pad_id=0, acoustic_delay=-1)
    with pytest.raises(ValueError, match=r"give \[batch, 5, frames\]"):
        from_streams(codes, (4, 4))
