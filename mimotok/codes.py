"""The one check of what codes may hold: shape, dtype and entries. Errors name the first wrong position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mimotok.tensors import check_tensor


def check_form(codes: Tensor) -> None:
    """Raise ValueError unless codes are integers, of any dtype, in a shape [B, n_q, F] without a 0."""
    check_tensor(codes, "codes")
    if codes.dim() != 3 or 0 in codes.shape:
        raise ValueError(f"codes have shape {list(codes.shape)}: give [batch, n_q, frames], none of them 0")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes have dtype {codes.dtype}: give integers")


def check_entries(codes: Tensor, codebook_sizes: Sequence[int]) -> None:
    """Raise ValueError naming the first of the codes [B, n_q, F] that its codebook does not have."""
    if codes.shape[1] != len(codebook_sizes):
        raise ValueError(f"codes have {codes.shape[1]} codebooks, but codebook_sizes names {len(codebook_sizes)}")
    if torch.compiler.is_compiling():  # what a graph computes cannot raise
        return
    # torch does not compare unsigned integers of 16 bits and more
    codes = codes.long()
    sizes = torch.tensor(codebook_sizes, device=codes.device)
    wrong = (codes < 0) | (codes >= sizes[:, None])
    if bool(wrong.any()):
        item, book, frame = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"codes[{item}, {book}, {frame}]={int(codes[item, book, frame])}, "
            f"but codebook {book} has {codebook_sizes[book]} entries"
        )


def check_codes(codes: Tensor, codebook_sizes: Sequence[int]) -> None:
    """Check form and entries of codes that use exactly these codebooks."""
    check_form(codes)
    check_entries(codes, codebook_sizes)
