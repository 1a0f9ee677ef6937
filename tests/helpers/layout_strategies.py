"""Random codes of random shapes, for the tests of token layouts."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple)


def random_codes(codebook_sizes: tuple[int, ...], frames: int, seed: int, batch: int = 2) -> Tensor:
    """codes: int64 [batch, n_q, frames]."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, size, (batch, frames), generator=generator) for size in codebook_sizes]
    return torch.stack(rows, dim=1)


@st.composite
def codes_and_sizes(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...]]:
    """codes [1 to 3, n_q, 1 to 17] and their codebook sizes."""
    books = draw(sizes)
    return random_codes(books, draw(st.integers(1, 17)), draw(st.integers(0, 99)), draw(st.integers(1, 3))), books


@st.composite
def spoilt_codes(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...], str]:
    """Codes of which one is out of range, their sizes, and how the error must begin."""
    codes, books = draw(codes_and_sizes())
    item, book, frame = (draw(st.integers(0, n - 1)) for n in codes.shape)
    value = draw(st.sampled_from([-1, books[book], books[book] + 7]))
    codes[item, book, frame] = value
    message = f"codes[{item}, {book}, {frame}]={value}, but codebook {book} has {books[book]} entries"
    return codes, books, message
