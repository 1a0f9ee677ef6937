"""Windowed attention over padded batches: the one dispatch point for every backend.

All of it is torch's scaled_dot_product_attention. Unlimited layers go to it whole (its fused kernels need memory
linear in length); every other window goes in blocks of queries that see just the keys they may, so that a window's
memory and time grow linearly with length too, and no T x T mask is ever made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mimotok.config import Window
from mimotok.lengths import valid_mask

# Queries of one block: wide enough to keep the kernels busy, narrow enough that a block sees few keys in vain.
MIN_BLOCK = 128
# The same in an exported graph, which gathers every block's keys: narrower.
TRACED_BLOCK = 64


def attention(q: Tensor, k: Tensor, v: Tensor, window: Window, lengths: Tensor | None = None) -> Tensor:
    """q, k, v: [B, H, T, D]; window: (left, right) frames, -1 unlimited; lengths: [B] valid frames.

    Returns [B, H, T, D]. Query i sees the valid keys i - left .. i + right, and always itself, so that the
    outputs past an item's length, though meaningless, stay finite.
    """
    left, right = window
    if isinstance(q.shape[2], torch.SymInt):
        return _attend_traced(q, k, v, window, lengths)
    if window == (-1, 0):
        # right padding is in the future of every valid query: causality already hides it
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if window == (-1, -1) and lengths is None:
        return F.scaled_dot_product_attention(q, k, v)
    block = max(MIN_BLOCK, left + right)
    size = q.shape[2]
    if size <= 2 * block:
        return _attend_block(q, k, v, 0, size, window, lengths)
    blocks = [
        _attend_block(q, k, v, start, min(start + block, size), window, lengths) for start in range(0, size, block)
    ]
    return torch.cat(blocks, dim=2)


def _attend_block(
    q: Tensor, k: Tensor, v: Tensor, start: int, stop: int, window: Window, lengths: Tensor | None
) -> Tensor:
    size = k.shape[2]
    low = 0 if window[0] < 0 else max(0, start - window[0])
    high = size if window[1] < 0 else min(size, stop + window[1])
    mask = _block_mask(start, stop, low, high, window, q.device)
    if lengths is not None:
        valid = valid_mask(lengths, size)[:, None, None, low:high]
        itself = _block_mask(start, stop, low, high, (0, 0), q.device)
        mask = (mask & valid) | itself
    return F.scaled_dot_product_attention(q[:, :, start:stop], k[:, :, low:high], v[:, :, low:high], attn_mask=mask)


def _attend_traced(q: Tensor, k: Tensor, v: Tensor, window: Window, lengths: Tensor | None) -> Tensor:
    """For torch.export, where the length is a symbol: no Python loop over blocks, all of them in one product.

    Linear in length where both sides of the window are limited, dense where one is not.
    """
    left, right = window
    size = q.shape[2]
    if min(window) < 0:
        return _attend_block(q, k, v, 0, size, window, lengths)
    block = max(TRACED_BLOCK, left + right)
    count = (size + block - 1) // block
    position = torch.arange(count, device=q.device)[:, None] * block + torch.arange(block, device=q.device)
    seen = torch.arange(count, device=q.device)[:, None] * block + torch.arange(-left, block + right, device=q.device)
    offset = seen[:, None, :] - position[:, :, None]
    mask = (offset >= -left) & (offset <= right) & ((seen >= 0) & (seen < size))[:, None, :]
    if lengths is not None:
        mask = mask & (seen < lengths[:, None, None])[:, None, :, None, :]
    inside = seen.clamp(0, size - 1)
    queries = F.pad(q, (0, 0, 0, count * block - size)).unflatten(2, (count, block))
    scores = queries @ k[:, :, inside].transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~(mask | (offset == 0)), float("-inf")).softmax(-1)
    return (weights @ v[:, :, inside]).flatten(2, 3)[:, :, :size]


def _block_mask(start: int, stop: int, low: int, high: int, window: Window, device: torch.device) -> Tensor:
    offset = torch.arange(low, high, device=device) - torch.arange(start, stop, device=device)[:, None]
    mask = torch.ones_like(offset, dtype=torch.bool)
    if window[0] >= 0:
        mask &= offset >= -window[0]
    if window[1] >= 0:
        mask &= offset <= window[1]
    return mask
