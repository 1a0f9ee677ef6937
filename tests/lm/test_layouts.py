"""Flat and coarse-first vocabularies and parallel channels: decoding undoes encoding."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimotok.lm import Duplex, DuplexLayout, FlatLayout, InterleavedLayout, PatchLayout, SpecialIds
from tests.helpers.layout_strategies import codes_and_sizes, random_codes, spoilt_codes

chunks = st.none() | st.integers(1, 20)


@given(codes_and_sizes(), chunks)
def test_flat_and_back(drawn, chunk) -> None:
    codes, sizes = drawn
    layout = FlatLayout(sizes, chunk)
    ids = layout.encode(codes)
    assert ids.shape == (codes.shape[0], codes.shape[1] * codes.shape[2])
    assert 0 <= int(ids.min()) <= int(ids.max()) < layout.vocabulary == sum(sizes)
    assert torch.equal(layout.decode(ids), codes)


def test_the_orders() -> None:
    codes = torch.tensor([[[0, 1, 2], [3, 4, 5]]])
    assert FlatLayout((10, 10)).encode(codes).tolist() == [[0, 13, 1, 14, 2, 15]]
    assert FlatLayout((10, 10), None).encode(codes).tolist() == [[0, 1, 2, 13, 14, 15]]
    assert FlatLayout((10, 10), 2).encode(codes).tolist() == [[0, 1, 13, 14, 2, 15]]


@pytest.mark.slow
@given(codes_and_sizes(), chunks, st.data())
def test_ids_of_another_codebook_are_refused_by_position(drawn, chunk, data) -> None:
    codes, sizes = drawn
    layout = FlatLayout(sizes, chunk)
    ids = layout.encode(codes)
    item, at = (data.draw(st.integers(0, n - 1)) for n in ids.shape)
    book = next(q for q in range(len(sizes)) if ids[item, at] < sum(sizes[: q + 1]))
    low, high = sum(sizes[:book]), sum(sizes[: book + 1])
    ids[item, at] = data.draw(st.sampled_from([low - 1, high]))
    message = f"ids[{item}, {at}]={int(ids[item, at])}, but this position belongs to codebook {book}"
    with pytest.raises(ValueError, match=re.escape(message) + f".* {low} to {high - 1}"):
        layout.decode(ids)


def test_ids_that_make_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 2"):
        FlatLayout((3, 3)).decode(torch.zeros(1, 5, dtype=torch.int64))


@given(codes_and_sizes(), st.integers(0, 5), st.integers(0, 99))
def test_streams_and_back(drawn, acoustic_delay, pad_id) -> None:
    speaker, sizes = drawn
    other = random_codes(sizes, speaker.shape[2], 3, speaker.shape[0])
    text = torch.randint(0, 100, (speaker.shape[0], speaker.shape[2]))
    layout = DuplexLayout(sizes, pad_id, acoustic_delay)
    columns = layout.encode(Duplex(text, speaker, other))
    assert columns.shape[1] == 1 + 2 * len(sizes)
    again = layout.decode(columns)
    assert all(torch.equal(a, b) for a, b in zip(again, (text, speaker, other), strict=True))
    frames = speaker.shape[2]
    late = acoustic_delay if len(sizes) > 1 else 0
    assert torch.equal(columns[:, 1, :frames], speaker[:, 0]), "the first codebook is not delayed"
    assert torch.equal(columns[:, -1, late : late + frames], other[:, -1])
    assert (columns[:, 0, frames:] == pad_id).all()


@pytest.mark.slow
@given(spoilt_codes())
def test_invalid_codes_are_refused_by_position(drawn) -> None:
    codes, sizes, message = drawn
    with pytest.raises(ValueError, match=re.escape(message)):
        FlatLayout(sizes).encode(codes)
    text, fine = torch.zeros_like(codes[:, 0]), torch.zeros_like(codes)
    for duplex in (Duplex(text, codes, fine), Duplex(text, fine, codes)):
        with pytest.raises(ValueError, match=re.escape(message)):
            DuplexLayout(sizes).encode(duplex)
        rows = torch.cat((duplex.text[:, None], duplex.speaker, duplex.other), dim=1)
        with pytest.raises(ValueError, match=re.escape(message)):
            DuplexLayout(sizes, acoustic_delay=0).decode(rows)


def test_streams_that_do_not_fit_each_other() -> None:
    codes = random_codes((4, 4), 5, 0)
    text = torch.zeros_like(codes[:, 0])
    with pytest.raises(ValueError, match="have shapes"):
        DuplexLayout((4, 4)).encode(Duplex(text[:, 1:], codes, codes))
    spoilt = text.clone()
    spoilt[1, 2] = -1
    with pytest.raises(ValueError, match=r"text\[1, 2\]=-1"):
        DuplexLayout((4, 4)).encode(Duplex(spoilt, codes, codes))
    with pytest.raises(ValueError, match="acoustic_delay=-1"):
        DuplexLayout((4, 4), acoustic_delay=-1)
    with pytest.raises(ValueError, match=r"give \[batch, 5, frames\]"):
        DuplexLayout((4, 4)).decode(codes)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint8, torch.int16, torch.int32])
def test_integers_of_any_dtype_are_as_int64(dtype: torch.dtype) -> None:
    sizes = (4, 4)
    codes = random_codes(sizes, 6, 0)
    text = torch.zeros_like(codes[:, 0])
    given = codes.to(dtype)
    for found, expected in (
        (FlatLayout(sizes).encode(given), FlatLayout(sizes).encode(codes)),
        (PatchLayout(sizes).encode(given), PatchLayout(sizes).encode(codes)),
        (PatchLayout(sizes, 2).decode(PatchLayout(sizes, 2).encode(codes).to(dtype)), codes),
        (
            DuplexLayout(sizes).encode(Duplex(text, given, given)),
            DuplexLayout(sizes).encode(Duplex(text, codes, codes)),
        ),
    ):
        assert found.dtype == torch.int64
        assert torch.equal(found, expected)


@pytest.mark.parametrize("number", [0, -1])
def test_chunks_and_patches_of_no_frames_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"chunk={number}"):
        FlatLayout((4, 4), number)
    with pytest.raises(ValueError, match=f"size={number}"):
        PatchLayout((4, 4), number)
    with pytest.raises(ValueError, match=f"size={number}"):
        InterleavedLayout((4, 4), SpecialIds(5, 6, 7), number)


@pytest.mark.parametrize("shape", [(1, 3, 2, 3), (1, 3, 1, 4), (3, 2, 4)])
def test_patches_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \[batch, patches, 2, 4\]"):
        PatchLayout((4, 4), 4).decode(torch.zeros(shape, dtype=torch.int64))
