"""Long input piece by piece, each with the context that its result depends on, and batches group by group: what bounds
memory, and keeps speed.

Where every window is bounded, a piece with its whole receptive field around it gives what all of the input gives. The
released MiMo-Audio-Tokenizer has unlimited windows, and a GroupNorm over all of time in the decoder: there the
official pipeline's own scheme is reproduced, which is an approximation by nature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mimotok.batching import side_by_side
from mimotok.config import TokenizerConfig

# The official pipeline cuts long audio into segments of 60 s at 100 Hz, encoded side by side without overlap.
SEGMENT_MEL_FRAMES = 6000
# MiMo-Audio's streaming decoder: left context and tokens held back, for models without a bounded receptive field.
OFFICIAL_CONTEXT = (250, 40)

# Takes [B, n, ...] and the lengths in it, if any; returns [B, t, ...].
Run = Callable[[Tensor, Tensor | None], Tensor]


class Context(NamedTuple):
    """Code frames before and after a piece on which its result depends."""

    left: int
    right: int


def encoder_context(config: TokenizerConfig) -> Context:
    """Code frames around a piece that its codes depend on; none for unlimited windows, whose segments stand alone."""
    if not config.encoder_is_bounded:
        return Context(0, 0)
    # the two convolutions of the stem reach one frame further on each side
    left, right = (1 + sum(window[side] for window in config.encoder_windows()) for side in (0, 1))
    return Context(-(-left // config.avg_pooler), -(-right // config.avg_pooler))


def decoder_context(config: TokenizerConfig) -> Context:
    """Code frames around a piece that its samples depend on, or the official scheme's where that is everything."""
    if not config.decoder_is_bounded:
        return Context(*OFFICIAL_CONTEXT)
    # a sample is a sum of the frames within half a window of it
    overlap = -(-config.n_fft // (2 * config.hop_length))
    past = -(-config.decoder_kernel_size // config.decoder_stride_size) - 1
    reach = []
    for side in (0, 1):
        mel = overlap + sum(window[side] for window in config.vocoder_windows())
        hidden = -(-mel // config.decoder_stride_size) + sum(window[side] for window in config.decoder_windows())
        reach.append(-(-(hidden + (past if side == 0 else 0)) // config.avg_pooler))
    return Context(*reach)


def piece_frames(config: TokenizerConfig) -> int:
    """Code frames of a piece: one segment of the official pipeline."""
    return SEGMENT_MEL_FRAMES // config.frame_stride


def pieces(
    run: Run,
    given: Tensor,
    lengths: Tensor | None,
    *,
    size: int,
    context: Context,
    taken: int = 1,
    made: int = 1,
) -> Iterator[Tensor]:
    """Yields what `run` makes of `given`, `size` code frames at a time.

    given: [B, n, ...]; lengths: [B] of n; taken, made: steps of the input and of the output per code frame. What is
    past an item's length is undefined.
    """
    frames = -(-given.shape[1] // taken)
    for start in range(0, frames, size):
        low, end, high = max(0, start - context.left), min(frames, start + size), start + size + context.right
        part = given[:, low * taken : high * taken]
        # an item that has ended keeps one step: nothing attends to nothing
        valid = None if lengths is None else (lengths - low * taken).clamp(1, part.shape[1])
        yield run(part, valid)[:, (start - low) * made : (end - low) * made]


def grouped(run: Run, given: Tensor, lengths: Tensor | None, *, limit: int, steps: int) -> Tensor:
    """What `run` makes of all of `given`, in groups of like length side by side: at most `limit` of n, or one item.

    given: [B, n, ...]; lengths: [B] of n; steps: of the output. What is past an item's length is undefined.
    """
    sizes = torch.full((len(given),), given.shape[1]) if lengths is None else lengths

    def made_of(rows: list[int]) -> Tensor:
        longest = int(sizes[rows].max())
        same = bool((sizes[rows] == longest).all())
        return run(given[rows, :longest], None if same else sizes[rows])

    # a group for each thread at least; the longest first, so that no thread is left with it at the end
    share = -(-int(sizes.sum()) // torch.get_num_threads())
    groups = list(_groups(sizes.tolist(), min(limit, share)))[::-1]
    parts = side_by_side(made_of, groups)
    result = parts[0].new_zeros(len(given), steps, *parts[0].shape[2:])
    for rows, part in zip(groups, parts, strict=True):
        result[rows, : part.shape[1]] = part
    return result


def _groups(sizes: list[int], limit: int) -> Iterator[list[int]]:
    """Indices of `sizes`, like with like."""
    rows: list[int] = []
    for row in sorted(range(len(sizes)), key=sizes.__getitem__):
        if rows and (len(rows) + 1) * sizes[row] > limit:
            yield rows
            rows = []
        rows.append(row)
    yield rows
