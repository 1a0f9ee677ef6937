"""Other layouts of codes for audio LMs: one flat vocabulary, coarse codebooks first, and parallel streams.

MusicGen's delay over whole sequences is `mimotok.lm.interleaving.delay`. All functions are pure, take and give int64,
and refuse invalid ids by position with ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from mimotok.codes import check_codes
from mimotok.lm.interleaving import shift_channels, unshift_channels


def flatten(codes: Tensor, codebook_sizes: Sequence[int], *, chunk: int | None = 1) -> Tensor:
    """codes: [B, n_q, F] -> ids [B, n_q * F] of one vocabulary, where codebook q begins at the sum of those before.

    chunk: frames whose codes stay together, one codebook after another. 1 is frame by frame; None is the whole clip,
    all frames of codebook 0, then of 1... (coarse first, as in AudioLM: Borsos et al., 2022); the last chunk may be
    shorter.
    """
    check_codes(codes, codebook_sizes)
    ids = codes + _offsets(codebook_sizes, codes.device)[:, None]
    return torch.cat([part.flatten(1) for part in ids.split(chunk or codes.shape[2], dim=2)], dim=1)


def unflatten(ids: Tensor, codebook_sizes: Sequence[int], *, chunk: int | None = 1) -> Tensor:
    """ids: [B, n_q * F] -> codes [B, n_q, F], the inverse of `flatten`."""
    n_q = len(codebook_sizes)
    if ids.dim() != 2 or ids.shape[1] == 0 or ids.shape[1] % n_q:
        raise ValueError(f"ids have shape {list(ids.shape)}: give [batch, a multiple of {n_q} codebooks]")
    frames = ids.shape[1] // n_q
    chunk = min(chunk or frames, frames)
    _check_books(ids, codebook_sizes, _books(frames, n_q, chunk, ids.device))
    parts = [part.unflatten(1, (n_q, -1)) for part in ids.split(n_q * chunk, dim=1)]
    return torch.cat(parts, dim=2) - _offsets(codebook_sizes, ids.device)[:, None]


def _offsets(codebook_sizes: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(codebook_sizes)][:-1], device=device)


def _books(frames: int, n_q: int, chunk: int, device: torch.device) -> Tensor:
    """Which codebook each flat position belongs to, [n_q * frames]."""
    rows = torch.arange(n_q, device=device)[:, None].expand(n_q, frames)
    return torch.cat([part.flatten() for part in rows.split(chunk, dim=1)])


def _check_books(ids: Tensor, codebook_sizes: Sequence[int], books: Tensor) -> None:
    low = _offsets(codebook_sizes, ids.device)[books]
    high = low + torch.tensor(codebook_sizes, device=ids.device)[books]
    wrong = (ids < low) | (ids >= high)
    if bool(wrong.any()):
        item, at = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"ids[{item}, {at}]={int(ids[item, at])}, but this position belongs to codebook {int(books[at])}, "
            f"whose ids are {int(low[at])} to {int(high[at]) - 1}"
        )


class Streams(NamedTuple):
    """What two people say at once. text: [B, F] of the first; speaker, other: codes [B, n_q, F] of each."""

    text: Tensor
    speaker: Tensor
    other: Tensor


def to_streams(streams: Streams, codebook_sizes: Sequence[int], *, pad_id: int, acoustic_delay: int = 1) -> Tensor:
    """One column per frame, [B, 1 + 2 n_q, F + acoustic_delay]: text, speaker's and other's codebooks (Moshi, 2024).

    The codebooks after the first come `acoustic_delay` frames later; around them channels are "empty", and the text
    is `pad_id` at the end. `mimotok.lm.text_stream` makes the text.
    """
    text, speaker, other = streams
    for codes in (speaker, other):
        check_codes(codes, codebook_sizes)
    if speaker.shape != other.shape or text.shape != (speaker.shape[0], speaker.shape[2]):
        shapes = [list(part.shape) for part in streams]
        raise ValueError(f"text, speaker, other have shapes {shapes}: give [B, F], [B, n_q, F], [B, n_q, F]")
    _check_text(text)
    fill = [pad_id, *codebook_sizes, *codebook_sizes]
    rows = torch.cat((text[:, None], speaker, other), dim=1)
    return shift_channels(rows, _stream_delays(len(codebook_sizes), acoustic_delay), fill)


def from_streams(columns: Tensor, codebook_sizes: Sequence[int], *, acoustic_delay: int = 1) -> Streams:
    """columns: [B, 1 + 2 n_q, F + acoustic_delay] -> streams, the inverse of `to_streams`."""
    n_q = len(codebook_sizes)
    if columns.dim() != 3 or columns.shape[1] != 1 + 2 * n_q:
        raise ValueError(f"columns have shape {list(columns.shape)}: give [batch, {1 + 2 * n_q}, frames]")
    rows = unshift_channels(columns, _stream_delays(n_q, acoustic_delay))
    streams = Streams(rows[:, 0], rows[:, 1 : 1 + n_q], rows[:, 1 + n_q :])
    _check_text(streams.text)
    for codes in streams[1:]:
        check_codes(codes, codebook_sizes)
    return streams


def _stream_delays(n_q: int, acoustic_delay: int) -> list[int]:
    if acoustic_delay < 0:
        raise ValueError(f"acoustic_delay={acoustic_delay}: give 0 or more frames")
    one = [0] + [acoustic_delay] * (n_q - 1)
    # without further codebooks nothing is late, and no column is added
    return [0, *one, *one]


def _check_text(text: Tensor) -> None:
    if bool((text < 0).any()):
        item, frame = (int(i) for i in (text < 0).nonzero()[0])
        raise ValueError(f"text[{item}, {frame}]={int(text[item, frame])}: ids are 0 or more")
