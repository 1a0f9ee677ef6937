"""MiMo-Audio's layouts: decoding undoes encoding, and errors name the position of bad ids."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimotok.lm import InterleavedLayout, PatchLayout, Positions, SpecialIds
from mimotok.lm.layouts import checked_delays, shift_channels, unshift_channels
from mimotok.lm.patches import PatchConfig
from tests.helpers.layout_strategies import codes_and_sizes, random_codes, spoilt_codes

SPECIAL = SpecialIds(audio=100, start=101, end=102)
SIZES = (8, 4)
LAYOUT = InterleavedLayout(SIZES, SPECIAL)


@given(codes_and_sizes(), st.integers(1, 6))
def test_patches_and_back(drawn, size) -> None:
    codes, sizes = drawn
    patches = PatchLayout(sizes, size).encode(codes)
    batch, n_q, frames = codes.shape
    assert patches.shape == (batch, -(-frames // size), n_q, size)
    assert torch.equal(PatchLayout(sizes, size).decode(patches, frames=frames), codes)
    padded = PatchLayout(sizes, size).decode(patches)
    assert torch.equal(padded[:, :, frames:], codes[:, :, -1:].expand_as(padded[:, :, frames:]))


@given(codes_and_sizes(), st.data())
def test_delays_and_back(drawn, data) -> None:
    codes, sizes = drawn
    delays = data.draw(st.none() | st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes)))
    known = checked_delays(delays, len(sizes))
    delayed = shift_channels(codes, known, sizes)
    assert known == tuple(range(len(sizes)) if delays is None else delays)
    assert delayed.shape[2] == codes.shape[2] + max(known)
    assert torch.equal(unshift_channels(delayed, known), codes)
    for channel, late in enumerate(known):
        row = delayed[:, channel]
        assert torch.equal(row[:, late : late + codes.shape[2]], codes[:, channel])
        assert (row == sizes[channel]).sum() == codes.shape[0] * max(known), "all the rest is empty"


def test_the_published_patch_takes_four_and_seven_steps() -> None:
    config = PatchConfig.published()
    codes = random_codes(config.codebook_sizes, config.patch_size, 0)
    assert shift_channels(codes, config.delays, config.codebook_sizes).shape == (2, 8, config.steps) == (2, 8, 11)


@st.composite
def segments_of(draw):
    """Text and clips in turn, in either order, and the sizes."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4).map(tuple))
    kinds = draw(st.lists(st.booleans(), min_size=1, max_size=5))
    segments: list[torch.Tensor] = []
    for is_text in kinds:
        if is_text and not (segments and segments[-1].dim() == 1):
            segments.append(torch.tensor(draw(st.lists(st.integers(0, 99), min_size=1, max_size=6))))
        else:
            segments.append(random_codes(sizes, draw(st.integers(1, 13)), draw(st.integers(0, 9)))[0])
    return segments, sizes


@pytest.mark.slow
@given(segments_of(), st.integers(1, 5))
def test_interleaving_and_back(drawn, size) -> None:
    segments, sizes = drawn
    layout = InterleavedLayout(sizes, SPECIAL, size)
    positions = layout.encode(segments)
    frames = [s.shape[1] for s in segments if s.dim() == 2]
    again = layout.decode(positions, frames=frames)
    assert len(again) == len(segments)
    assert all(torch.equal(a, b) for a, b in zip(again, segments, strict=True))
    count = sum(len(s) if s.dim() == 1 else -(-s.shape[1] // size) + 2 for s in segments)
    assert positions.text.shape == (count,)
    assert positions.patches.shape == (count, len(sizes), size)
    empty = (positions.patches == layout.empty_ids()[:, None]).flatten(1).all(1)
    assert torch.equal(empty, positions.text != SPECIAL.audio)


def test_the_sequence_as_the_module_draws_it() -> None:
    text, codes = torch.tensor([5, 6, 7]), random_codes(SIZES, 6, 0)[0]
    positions = LAYOUT.encode([text, codes, text[:1]])
    assert positions.text.tolist() == [5, 6, 7, 101, 100, 100, 102, 5]
    assert torch.equal(positions.patches[4], codes[:, :4])
    assert torch.equal(positions.patches[5], codes[:, [4, 5, 5, 5]])


@pytest.mark.slow
@given(spoilt_codes())
def test_invalid_codes_are_refused_by_position(drawn) -> None:
    codes, sizes, message = drawn
    with pytest.raises(ValueError, match=re.escape(message)):
        PatchLayout(sizes).encode(codes)
    with pytest.raises(ValueError, match=re.escape(message)):
        PatchLayout(sizes, codes.shape[2]).decode(codes[:, None])


def test_wrong_shapes_and_counts_are_refused() -> None:
    codes = random_codes(SIZES, 6, 0)
    with pytest.raises(ValueError, match="2 codebooks, but codebook_sizes names 3"):
        PatchLayout((8, 4, 4)).encode(codes)
    with pytest.raises(ValueError, match="have dtype"):
        PatchLayout(SIZES).encode(codes.float())
    with pytest.raises(ValueError, match="frames=4, but 2 patches of 4 hold 5 to 8"):
        PatchLayout(SIZES).decode(PatchLayout(SIZES).encode(codes), frames=4)
    with pytest.raises(ValueError, match="give 2, one for each"):
        checked_delays((0, 1, 2), 2)
    with pytest.raises(ValueError, match="leave no frame"):
        unshift_channels(codes, (0, 6))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "no segments"),
        ([torch.tensor([1]), torch.tensor([2])], "segments 0 and 1 are both text"),
        ([torch.tensor([], dtype=torch.int64)], "segment 0 is an empty text"),
        ([torch.tensor([1, 101])], r"segment 0, text\[1\]=101"),
        ([torch.tensor([1, -5])], r"segment 0, text\[1\]=-5"),
        ([torch.tensor([1]), torch.tensor([[0, 8], [0, 0]])], r"codes\[0, 0, 1\]=8"),
    ],
)
def test_segments_that_make_no_sequence(segments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAYOUT.encode(segments)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 101, 102], r"text\[1\] starts audio, but at text\[2\]"),
        ([101, 100], r"text\[0\] starts audio, but at text\[2\]"),
        ([1, 100], r"text\[1\]=100 belongs to audio"),
        ([102], r"text\[0\]=102 belongs to audio"),
    ],
)
def test_broken_sequences_are_refused_by_position(ids, message: str) -> None:
    text = torch.tensor(ids)
    patches = LAYOUT.empty_patches(len(ids))
    patches[text == SPECIAL.audio] = 0
    with pytest.raises(ValueError, match=message):
        LAYOUT.decode(Positions(text, patches))


def test_codes_beside_text_are_refused() -> None:
    positions = LAYOUT.encode([torch.tensor([1, 2])])
    positions.patches[1, 0, 2] = 3
    with pytest.raises(ValueError, match=r"patches\[1\] holds codes, but text\[1\]=2"):
        LAYOUT.decode(positions)
