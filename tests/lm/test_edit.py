"""Codes edited by time against the sound that they decode to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.lm.edit import CodedClip, concatenate, join
from tests.helpers.layout_strategies import random_codes
from tests.helpers.models import STREAMABLE, make_tokenizer

TOKENIZER = make_tokenizer(STREAMABLE)
SIZE = TOKENIZER.frame_size
FRAMES = 40
CODES = random_codes(TOKENIZER.codebook_sizes, FRAMES, 0)[0]
WHOLE = TOKENIZER.decode(CODES[None])
CONTEXT = max(TOKENIZER.chunking.decoder_context)
places = st.integers(0, FRAMES * SIZE - 1)


@settings(max_examples=15, deadline=None)
@given(one=places, other=places, start=st.integers(0, 2 * SIZE))
def test_a_cut_with_context_is_that_part_of_the_whole(one: int, other: int, start: int) -> None:
    clip = CodedClip(CODES, SIZE, start)
    first, last = sorted((one, other))
    stop = min(last + 1, clip.num_samples or 0)
    first = min(first, stop - 1)
    part = clip.cut(first, stop, context=CONTEXT)
    torch.testing.assert_close(part.decode(TOKENIZER.decode), WHOLE[:, start + first : start + stop], atol=1e-5, rtol=0)
    again = part.cut(0, stop - first, context=CONTEXT)
    assert (again.start, again.num_samples) == (part.start, part.num_samples)


def test_without_context_a_cut_differs_at_its_border_only() -> None:
    clip = CodedClip(CODES, SIZE)
    bare = clip.cut(20 * SIZE, 40 * SIZE).decode(TOKENIZER.decode)
    left = TOKENIZER.chunking.decoder_context.left * SIZE
    difference = (bare - WHOLE[:, 20 * SIZE :]).abs()
    assert difference[:, :SIZE].max() > 1e-3
    torch.testing.assert_close(bare[:, left:], WHOLE[:, 20 * SIZE + left :], atol=1e-5, rtol=0)


@settings(max_examples=10, deadline=None)
@given(at=st.integers(1, FRAMES * SIZE - 1), fade=st.sampled_from([0, 1, 480, 5000]))
def test_parts_with_context_join_to_the_whole(at: int, fade: int) -> None:
    """Cross-faded or not: both sides of the seam are the same sound."""
    clip = CodedClip(CODES, SIZE)
    parts = [clip.cut(0, at, context=CONTEXT), clip.cut(at, FRAMES * SIZE, context=CONTEXT)]
    torch.testing.assert_close(join(parts, TOKENIZER.decode, fade=fade), WHOLE, atol=1e-5, rtol=0)


def test_a_cross_fade_has_no_step_and_moves_nothing() -> None:
    """Between two constant sounds: no sample differs by more from the next than a raised cosine's does."""

    def decode(codes: torch.Tensor) -> torch.Tensor:
        return codes[:, 0].float().repeat_interleave(SIZE, dim=1)

    low = CodedClip(torch.zeros(1, 9, dtype=torch.int64), SIZE).cut(100, 3 * SIZE, context=2)
    high = CodedClip(torch.ones(1, 9, dtype=torch.int64), SIZE).cut(3 * SIZE + 17, 5 * SIZE, context=2)
    for fade, most in ((0, 1.0), (400, 4 / 400)):
        wav = join([low, high], decode, fade=fade)
        seam = 3 * SIZE - 100
        assert wav.shape[1] == low.num_samples + high.num_samples
        assert wav.diff().abs().max() <= most
        assert not wav[:, : seam - 200].any()
        assert bool((wav[:, seam + 200 :] == 1).all())


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 2000), st.integers(0, 3)), min_size=1, max_size=4))
def test_concatenation_tells_where_each_clip_begins(sizes: list[tuple[int, int, int]]) -> None:
    """Sound is the number of its clip: at the given places it is the right one, and it is late by a frame at most."""
    clips = []
    for number, (count, start, context) in enumerate(sizes, 1):
        frames = -(-(start + count) // 960)
        whole = CodedClip(torch.full((2, frames), number), 960, start, count)
        clips.append(whole.cut(0, count, context=context))
    clip, starts = concatenate(clips)
    sound = clip.codes[0].repeat_interleave(960)[clip.start : clip.stop]
    late = 0
    for number, (begin, (count, _, _)) in enumerate(zip(starts, sizes, strict=True), 1):
        assert set(sound[begin : begin + count].tolist()) == {number}
        late += count
    assert len(sound) == starts[-1] + sizes[-1][0]
    assert late <= len(sound) < late + 2 * 960 * len(sizes)


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 2500), count=st.integers(1, 2500), left=st.integers(0, 3000), right=st.integers(0, 3000))
def test_padding_is_exact(start: int, count: int, left: int, right: int) -> None:
    codes = torch.full((2, 6), 1)
    clip = CodedClip(codes, 960, start, count)
    padded = clip.pad(left, right, torch.tensor([2, 2]))
    assert padded.num_samples == left + count + right
    sound = padded.codes[0].repeat_interleave(960)[padded.start : padded.stop]
    assert set(sound[left : left + count].tolist()) == {1}
    assert padded.start < 960
    assert padded.codes.shape[1] * 960 - padded.stop < 960


def test_a_clip_of_n_samples_decodes_to_up_to_a_frame_more() -> None:
    for count in (1, 239, 240, 719, 720, 959, 960, 205_200):
        assert 1 <= TOKENIZER.num_frames(count) * SIZE - count <= SIZE


def test_bad_edits_are_reported_in_one_line() -> None:
    clip = CodedClip(CODES, SIZE, num_samples=1000)
    for message, call in {
        r"cut\(5, 5": lambda: clip.cut(5, 5),
        r"the clip has 1000 samples": lambda: clip.cut(0, 1001),
        r"pad\(-1, 0\)": lambda: clip.pad(-1, 0, CODES[:, 0]),
        r"fill \[1\]": lambda: clip.pad(0, 0, CODES[:1, 0]),
        r"give at least one": lambda: concatenate([]),
        r"all of one kind": lambda: join([clip, CodedClip(CODES[:1], SIZE)], TOKENIZER.decode),
        r"fade=-1": lambda: join([clip], TOKENIZER.decode, fade=-1),
        r"40 frames hold": lambda: CodedClip(CODES, SIZE, num_samples=SIZE * 41),
        r"give \[n_q, frames\]": lambda: CodedClip(CODES[None], SIZE),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
