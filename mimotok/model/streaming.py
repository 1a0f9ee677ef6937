"""The model's layers on streams: each takes the next frames and gives as many, a fixed number of frames later.

A batch holds B streams in step. Every frame is flagged: `there` is False for what stands before a stream's first frame,
and for what is pushed after its last one to bring out what is still inside. Flagged frames are seen by nobody. All
buffers have a constant size, and start as zeros, which is a stream that nothing has entered: cost and precision do not
depend on how long a stream has been running, and a row whose buffers are zeroed is ready for a new stream.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mimotok.config import Window
from mimotok.model.encoder import Encoder
from mimotok.model.transformer import Block, Stack, rope_table, rotate

# Everything that the next frames depend on, by name: can be copied, saved and restored.
State = dict[str, Tensor]


def extend(state: State, name: str, size: int, new: Tensor) -> Tensor:
    """new: [B, n, *]. Returns the last `size` frames and the new ones, [B, size + n, *]; keeps the last `size`."""
    if name not in state:
        state[name] = new.new_zeros(new.shape[0], size, *new.shape[2:])
    joined = torch.cat((state[name], new), dim=1)
    state[name] = joined[:, joined.shape[1] - size :].clone()
    return joined


def delay(state: State, name: str, frames: int, new: Tensor) -> Tensor:
    """new: [B, n, *] -> the frames of `frames` ago, [B, n, *]."""
    return extend(state, name, frames, new)[:, : new.shape[1]]


def silence(hidden: Tensor, there: Tensor) -> Tensor:
    """hidden: [B, n, C], zeroed where there is no frame."""
    return hidden * there[..., None].to(hidden.dtype)


def look_ahead(windows: Iterable[Window]) -> int:
    """Frames by which a stack's output lags behind its input."""
    return sum(window[1] for window in windows)


def stream_stack(
    state: State, name: str, stack: Stack, hidden: Tensor, there: Tensor, tap: int | None = None
) -> tuple[Tensor, Tensor]:
    """hidden: [B, n, dim], there: [B, n]. Returns the stack's output of `look_ahead` frames ago, and its flags.

    tap: as in Stack.forward; the tapped frames wait for those of the last block.
    """
    tapped = None
    for number, block in enumerate(stack.blocks(), start=1):
        here = f"{name}.{number}"
        hidden = _stream_block(state, here, block, hidden, there, (stack.head_dim, stack.rope_theta))
        right = block.self_attn.window[1]
        there = delay(state, f"{here}.there", right, there)
        if tapped is not None:
            tapped = delay(state, f"{here}.tapped", right, tapped)
        if number == tap:
            tapped = hidden
    return (hidden if tapped is None else hidden + tapped), there


def _stream_block(
    state: State, name: str, block: Block, hidden: Tensor, there: Tensor, rope: tuple[int, float]
) -> Tensor:
    attention, (left, right) = block.self_attn, block.self_attn.window
    count, span = hidden.shape[1], left + right
    normed = block.self_attn_layer_norm(hidden)
    k = extend(state, f"{name}.keys", span, attention.k_proj(normed))
    v = extend(state, f"{name}.values", span, attention.v_proj(normed))
    known = extend(state, f"{name}.known", span, there)
    # outputs are those of `right` frames ago: only now is all that they see there
    hidden = delay(state, f"{name}.pending", right, hidden)
    q = attention.q_proj(delay(state, f"{name}.queries", right, normed))
    q, k, v = (rearrange(x, "b t (h d) -> b h t d", h=attention.heads) for x in (q, k, v))
    # keys are kept unrotated: positions count from the buffer's first frame, and never grow
    cos, sin = rope_table(span + count, *rope, hidden)
    q = rotate(q, (cos[left : left + count], sin[left : left + count]))
    out = F.scaled_dot_product_attention(q, rotate(k, (cos, sin)), v, attn_mask=_mask(known, left, right))
    return block.feed_forward(hidden + attention.out_proj(rearrange(out, "b h t d -> b t (h d)")))


def _mask(known: Tensor, left: int, right: int) -> Tensor:
    """known: flags [B, left + right + n]. Returns bool [B, 1, n, left + right + n]; each frame sees itself."""
    size = known.shape[1]
    query = torch.arange(size - left - right, device=known.device)[:, None]
    key = torch.arange(size, device=known.device)
    near = (key >= query) & (key <= query + left + right)
    return ((near & known[:, None, :]) | (key == query + left))[:, None]


def stem_delay(stride: int) -> int:
    """Output frames by which the stem lags behind: its two convolutions of width 3 reach past a frame's own input."""
    return -(-3 // stride) - 1


def stream_stem(state: State, encoder: Encoder, mel: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """mel: [B, n, n_mels], n a multiple of the stride. Returns the stem's [B, n / stride, D] of `stem_delay` ago."""
    stride, count = encoder.stride, mel.shape[1] // encoder.stride
    past = stem_delay(stride) * stride + 2
    mel = extend(state, "stem", past, silence(mel, there)).transpose(1, 2)
    known = extend(state, "stem.known", past, there)
    hidden = F.gelu(F.conv1d(mel, encoder.conv1.weight, encoder.conv1.bias))
    hidden = silence(hidden.transpose(1, 2), known[:, 1:-1]).transpose(1, 2)
    hidden = F.gelu(F.conv1d(hidden, encoder.conv2.weight, encoder.conv2.bias, stride=stride))
    return hidden.transpose(1, 2), known[:, 2::stride][:, :count]


class OverlapAdd:
    """The inverse STFT's overlap-add on a stream, with the crop of "same" padding."""

    def __init__(self, n_fft: int, hop_length: int) -> None:
        crop = (n_fft - hop_length) // 2
        # a frame's samples are final once the last frame that overlaps them is there
        self.delay = -(-crop // hop_length)
        self.offset = crop - (self.delay - 1) * hop_length
        self.blocks = -(-n_fft // hop_length)
        self.padding = self.blocks * hop_length - n_fft

    def push(self, state: State, frames: Tensor, weights: Tensor) -> Tensor:
        """frames, weights: windowed frames and squared windows [B, n, n_fft], zero where there is no frame.

        Returns the samples [B, n, hop] of the frames of `delay` ago.
        """
        envelope = self._sum(state, "istft.envelope", weights).clamp(min=1e-11)
        blocks = extend(state, "istft.blocks", 1, self._sum(state, "istft.frames", frames) / envelope)
        return torch.cat((blocks[:, :-1, self.offset :], blocks[:, 1:, : self.offset]), dim=2)

    def _sum(self, state: State, name: str, frames: Tensor) -> Tensor:
        """frames: [B, n, n_fft] -> the finished blocks of their sum, [B, n, hop]."""
        count, last = frames.shape[1], self.blocks - 1
        parts = rearrange(F.pad(frames, (0, self.padding)), "b n (k h) -> b n k h", k=self.blocks)
        joined = extend(state, name, last, parts)
        return torch.stack([joined[:, last - k : last - k + count, k] for k in range(self.blocks)]).sum(0)
