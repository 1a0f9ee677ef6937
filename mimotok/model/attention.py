"""Windowed attention over padded batches and streams: the one dispatch point for every backend.

Padded batches in half precision on CUDA are packed, without their padding, for torch's varlen attention, where this
torch has it. All else is scaled_dot_product_attention. Layers that see everything go to it whole (its fused kernels
need memory linear in length). A bounded window goes in blocks of queries, one row of the kernel's batch each, beside
just the keys they may see, so that time and memory grow linearly with length too. No T x T mask is ever built.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from inspect import signature
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mimotok.config import Window
from mimotok.model.lengths import frames_needed, valid_mask
from mimotok.model.precision import autocasts, full_precision

# Queries of one block. A block's keys are as many more as the window is wide, so that fewer queries waste less; torch's
# CPU kernel works on 32 at a time.
BLOCK = 32
# A backward pass moves more than it multiplies: up to this length, training takes a clip as one block.
TRAINED_WHOLE = 256
# Of a window unlimited on one side, whose blocks see ever more keys: few and large.
HALF_OPEN_BLOCK = 128
# The same in an exported graph, which gathers every block's keys: wider.
TRACED_BLOCK = 64


class Packing(NamedTuple):
    """Where the valid frames of a padded batch are, one item after the other.

    rows: [N] in the flattened [B * T]; starts: int32 [B + 1], of each item among them; longest: of the lengths.
    """

    rows: Tensor
    starts: Tensor
    longest: int


class AttentionPlan(NamedTuple):
    """How one window is computed on one batch; all layers that share the window share its plan.

    window: (left, right) frames, -1 unlimited. mask: added to the scores, -inf where a key is hidden; None where the
    kernel needs none, or one for each block. lengths: [B] valid frames. block: queries of a block of a window limited
    on both sides. whole: a block is the whole clip, and its keys are the clip's and none around it.
    """

    window: Window
    mask: Tensor | None
    lengths: Tensor | None
    packing: Packing | None = None
    block: int = BLOCK
    whole: bool = False


def plan_attention(windows: Iterable[Window], hidden: Tensor, lengths: Tensor | None) -> dict[Window, AttentionPlan]:
    """hidden: [B, T, *], what attends; lengths: [B] valid frames, at least 1 each. Returns the plan of each window.

    Query i attends to the valid keys i - left to i + right.
    """
    if _traced(hidden):
        return {window: AttentionPlan(window, None, lengths) for window in set(windows)}
    if lengths is not None and _packs(hidden):
        packing = _packing(lengths, hidden.shape[1])
        return {window: AttentionPlan(window, None, lengths, packing) for window in set(windows)}
    whole = hidden.requires_grad and hidden.shape[1] <= TRAINED_WHOLE
    block = hidden.shape[1] if whole else BLOCK
    return {
        window: AttentionPlan(window, _mask(window, hidden, lengths, block, whole), lengths, block=block, whole=whole)
        for window in set(windows)
    }


def attention(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan) -> Tensor:
    """q, k, v: [B, T, H, D]. Returns [B, T, H, D]; outputs past an item's length are meaningless, but finite."""
    if plan.packing is not None:
        return _packed(q, k, v, plan.window, plan.packing)
    if _traced(q):
        return _attend_traced(q, k, v, plan)
    if plan.window == (-1, 0):
        # right padding is in the future of every valid query: causality already hides it
        return _kernel(q, k, v, None, is_causal=True)
    if plan.window == (-1, -1):
        return _kernel(q, k, v, plan.mask)
    if min(plan.window) >= 0:
        return _banded(q, k, v, plan)
    size = q.shape[1]
    return torch.cat([_half_open(q, k, v, plan, start) for start in range(0, size, HALF_OPEN_BLOCK)], dim=1)


def buffered_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor, window: Window) -> Tensor:
    """Attend from n queries of a stream to the frames that its buffers hold around them.

    q: [B, n, H, D]; k, v: [B, left + right + n, H, D], of which query i stands at left + i; valid: bool [B, left +
    right + n]. Returns [B, n, H, D].
    """
    left, right = window
    query = torch.arange(q.shape[1], device=q.device)[:, None]
    key = torch.arange(k.shape[1], device=q.device)
    near = (key >= query) & (key <= query + left + right)
    # each query sees itself, lest an invalid one sees nothing
    seen = ((near & valid[:, None, :]) | (key == query + left))[:, None]
    return _kernel(q, k, v, seen)


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False) -> Tensor:
    q = q.transpose(1, 2)
    k = k.transpose(1, 2)
    v = v.transpose(1, 2)
    is_additive = mask is not None and mask.dtype != torch.bool
    if mask is not None and is_additive and q.requires_grad and q.device.type == "cpu":
        return _differentiable(q, k, v, mask).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal).transpose(1, 2)


def _differentiable(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend by plain products: the backward pass of torch's CPU kernel takes twice the time of these and theirs.

    q, k, v: [B, H, T, D]. All of it is in v's dtype, in which torch's softmax rounds nothing but its result: autocast
    would take each step to float32 and back.
    """
    with full_precision(q):
        # laid out by heads: of a view, the product would copy the transpose, which takes ten times as long
        q = (q * q.shape[-1] ** -0.5).to(v.dtype).contiguous()
        k = k.to(v.dtype).contiguous()
        # in place, since nothing on the way back needs the bare product
        scores = (q @ k.transpose(-1, -2)).add_(mask)
        return scores.softmax(-1) @ v.contiguous()


def _packs(hidden: Tensor) -> bool:
    """Return whether torch's varlen kernel can serve.

    It needs CUDA, half precision, and a torch whose kernel knows windows.
    """
    fits = hidden.is_cuda and hidden.dtype in (torch.float16, torch.bfloat16) and not torch.is_grad_enabled()
    return fits and _knows_windows()


@cache
def _knows_windows() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in signature(varlen_attn).parameters


def _packing(lengths: Tensor, size: int) -> Packing:
    rows = valid_mask(lengths, size).flatten().nonzero().flatten()
    return Packing(rows, F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), int(lengths.max()))


def _packed(q: Tensor, k: Tensor, v: Tensor, window: Window, packing: Packing) -> Tensor:
    from torch.nn.attention import varlen

    rows, starts, longest = packing
    q_rows, k_rows, v_rows = (x.flatten(0, 1)[rows] for x in (q, k, v))
    out = varlen.varlen_attn(q_rows, k_rows, v_rows, starts, starts, longest, longest, window_size=window)
    return torch.zeros_like(q).flatten(0, 1).index_copy(0, rows, cast(Tensor, out)).view(q.shape)


def _banded(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan) -> Tensor:
    (left, right) = plan.window
    (batch, size, heads, dim) = q.shape
    block = plan.block
    if plan.whole:
        return _kernel(q, k, v, plan.mask)
    count = frames_needed(size, block)
    rest = count * block - size
    q = F.pad(q, (0, 0, 0, 0, 0, rest)).reshape(batch * count, block, heads, dim)
    k, v = (
        F.pad(x, (0, 0, 0, 0, left, rest + right)).unfold(1, left + block + right, block).flatten(0, 1).movedim(3, 1)
        for x in (k, v)
    )
    return _kernel(q, k, v, plan.mask).reshape(batch, count * block, heads, dim)[:, :size]


def _half_open(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, start: int) -> Tensor:
    (left, right) = plan.window
    size = k.shape[1]
    stop = min(start + HALF_OPEN_BLOCK, size)
    low = 0 if left < 0 else max(0, start - left)
    high = size if right < 0 else min(size, stop + right)
    offset = torch.arange(low, high, device=q.device) - torch.arange(start, stop, device=q.device)[:, None]
    seen = (offset >= -left) if left >= 0 else (offset <= right)
    if plan.lengths is not None:
        seen = (seen & valid_mask(plan.lengths, size)[:, None, None, low:high]) | (offset == 0)
    return _kernel(q[:, start:stop], k[:, low:high], v[:, low:high], _additive(seen, q.dtype))


def _mask(window: Window, hidden: Tensor, lengths: Tensor | None, block: int, whole: bool) -> Tensor | None:
    if window == (-1, -1):
        if lengths is None:
            return None
        return _additive(valid_mask(lengths, hidden.shape[1])[:, None, None, :], hidden.dtype)
    if min(window) < 0:
        return None
    return _banded_mask(window, hidden, lengths, block, whole)


def _banded_mask(window: Window, hidden: Tensor, lengths: Tensor | None, block: int, whole: bool) -> Tensor:
    """Return [B * blocks, 1, block, left + block + right], or [B, 1, T, T] where the block is the whole clip.

    Each query sees itself, lest a padded one sees nothing.
    """
    (left, right) = window
    (batch, size) = hidden.shape[:2]
    device = hidden.device
    start = torch.arange(0, size, block, device=device)[:, None]
    key = torch.arange(size, device=device) if whole else torch.arange(-left, block + right, device=device)
    offset = key - torch.arange(block, device=device)[:, None]
    limit = size if lengths is None else lengths[:, None, None]
    valid = (start + key >= 0) & (start + key < limit)
    seen = ((offset >= -left) & (offset <= right) & valid[..., None, :]) | (offset == 0)
    # in the dtype of the products, since a sum of two dtypes takes twice the time
    dtype = torch.get_autocast_dtype(device.type) if whole and autocasts(hidden) else hidden.dtype
    return _additive(seen, dtype).expand(batch, -1, -1, -1).flatten(0, 1)[:, None]


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


def _traced(x: Tensor) -> bool:
    """Return whether x, [B, T, *], is traced into an exported graph, where the length is a symbol."""
    return isinstance(x.shape[1], torch.SymInt)


def _attend_traced(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend in all blocks by one product, without a Python loop, for a traced graph.

    Linear in length where both sides of the window are limited, dense where one is not.
    """
    (left, right) = plan.window
    (batch, size, heads, dim) = q.shape
    bounded = min(plan.window) >= 0
    block = size
    count = 1
    reach = torch.arange(size, device=q.device)
    if bounded:
        block = max(TRACED_BLOCK, left + right)
        # one more than needed: torch.export makes a graph for one block or one for several, and two are never one
        count = frames_needed(size, block) + 1
        reach = torch.arange(-left, block + right, device=q.device)
    start = torch.arange(count, device=q.device)[:, None] * block
    key = start + reach
    offset = reach - torch.arange(block, device=q.device)[:, None]
    seen = ((key >= 0) & (key < size))[:, None, :]
    if left >= 0:
        seen = seen & (offset >= -left)
    if right >= 0:
        seen = seen & (offset <= right)
    if plan.lengths is not None:
        seen = seen & (key < plan.lengths[:, None, None])[:, :, None, :]
    inside = key.clamp(0, size - 1)
    queries = F.pad(q, (0, 0, 0, 0, 0, count * block - size)).reshape(batch, count, block, heads, dim).transpose(2, 3)
    keys, values = (x[:, inside].transpose(2, 3) for x in (k, v))
    scores = queries @ keys.transpose(-1, -2) * dim**-0.5
    hidden = ~(seen | (offset == 0))
    weights = scores.masked_fill(hidden[..., None, :, :], float("-inf")).softmax(-1)
    return (weights @ values).transpose(2, 3).reshape(batch, count * block, heads, dim)[:, :size]
