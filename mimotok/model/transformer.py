"""The pre-norm Transformer that encoder, decoder and vocoder share: RoPE, block, stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from mimotok.config import TokenizerConfig, Window
from mimotok.model.attention import AttentionPlan, attention, buffered_attention, plan_attention
from mimotok.model.linear import ExactLinear, Linear, activated, dtype_of, entering
from mimotok.model.precision import ComputesFloat32, ExactLayerNorm
from mimotok.model.state import StreamState


@dataclass(frozen=True)
class StackShape:
    """Sizes of one stack; `windows` holds the effective (left, right) of each layer."""

    dim: int
    ffn_dim: int
    heads: int
    windows: Sequence[Window]
    ln_type: str
    activation_function: str
    rope_theta: float

    @classmethod
    def of_encoder(cls, config: TokenizerConfig) -> StackShape:
        """Return the shape of the encoder's stack."""
        return cls._of(
            config, config.d_model, config.encoder_ffn_dim, config.encoder_attention_heads, config.encoder_windows()
        )

    @classmethod
    def of_decoder(cls, config: TokenizerConfig) -> StackShape:
        """Return the shape of the decoder's stack."""
        return cls._of(
            config, config.d_model, config.decoder_ffn_dim, config.decoder_attention_heads, config.decoder_windows()
        )

    @classmethod
    def of_vocoder(cls, config: TokenizerConfig) -> StackShape:
        """Return the shape of the vocoder's stack."""
        dim = config.vocoder_dim
        ffn_dim = config.vocoder_intermediate_dim
        return cls._of(config, dim, ffn_dim, config.vocoder_attention_heads, config.vocoder_windows())

    @classmethod
    def _of(cls, config: TokenizerConfig, dim: int, ffn_dim: int, heads: int, windows: Sequence[Window]) -> StackShape:
        return cls(dim, ffn_dim, heads, windows, config.ln_type, config.activation_function, config.rope_theta)


class RMSNorm(nn.Module):
    """Root-mean-square norm over channels, computed in fp32 (Zhang and Sennrich, 2019); eps 1e-6, no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalize hidden over its last dimension."""
        scale = torch.rsqrt(hidden.float().square().mean(-1, keepdim=True) + 1e-6)
        return (hidden.float() * scale).to(hidden.dtype) * self.weight


class ExactRMSNorm(ComputesFloat32, RMSNorm):
    """RMSNorm in float32."""


def make_norm(ln_type: str, dim: int, *, exact: bool = False) -> nn.Module:
    """Build the norm of the configuration's `ln_type`, over the last dimension. exact: it stays in float32."""
    if ln_type == "RMSNorm":
        return ExactRMSNorm(dim) if exact else RMSNorm(dim)
    return ExactLayerNorm(dim) if exact else nn.LayerNorm(dim)


class Rope(NamedTuple):
    """cos and sin [T, 1, head_dim] of the rotary positions 0 to T - 1; the sines of the first half are negated."""

    cos: Tensor
    sin: Tensor

    def part(self, start: int, stop: int) -> Rope:
        """Return the positions from `start` to before `stop`."""
        return Rope(self.cos[start:stop], self.sin[start:stop])


class Frames(NamedTuple):
    """What a step of a stream returns: hidden [B, n, C], and which of its frames are valid, bool [B, n]."""

    hidden: Tensor
    valid: Tensor


def rope_table(size: int, head_dim: int, theta: float, hidden: Tensor) -> Rope:
    """Return the rotary angles of positions 0 to size - 1 (Su et al., 2021; rotate-half form).

    They are computed in float32, and given in hidden's dtype and on its device.
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=hidden.device).float() / head_dim)
    angle = torch.arange(size, device=hidden.device).float()[:, None, None] * frequency
    cos = angle.cos().to(hidden.dtype)
    sin = angle.sin().to(hidden.dtype)
    return Rope(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """x: [B, T, H, D]. Returns it with each half of D rotated against the other by its position's angles."""
    if x.requires_grad and not torch.compiler.is_compiling():
        return _Rotated.apply(x, rope.cos, rope.sin)
    return _rotated(x, rope.cos, rope.sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


class _Rotated(torch.autograd.Function):
    """`_rotated` in x's own dtype, whose way back is the rotation back: autograd would undo each operation in it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return _rotated(x, cos, sin).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        _, cos, sin = inputs
        ctx.save_for_backward(cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, -sin).to(gradient.dtype), None, None


class SelfAttention(nn.Module):
    """Multi-head attention with rotary positions; as in Whisper, the key projection has no bias."""

    def __init__(self, dim: int, heads: int, window: Window) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim)
        self.q_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, hidden: Tensor, rope: Rope, plan: AttentionPlan) -> Tensor:
        """hidden: [B, T, dim]. Returns [B, T, dim]."""
        q, k, v = self._heads(hidden)
        return self._joined(attention(rotate(q, rope), rotate(k, rope), v, plan))

    def step(self, state: StreamState, hidden: Tensor, valid: Tensor, rope: Rope) -> Tensor:
        """hidden: [B, n, dim], valid: [B, n]. Returns the output of `right` frames ago, [B, n, dim].

        Only now is all there that those frames attend to. Keys are kept unrotated, so that positions count from the
        buffer's first frame and never grow; rope: of at least left + right + n positions.
        """
        left, right = self.window
        span = left + right
        q, k, v = self._heads(hidden)
        q = state.delay("queries", right, q)
        k = state.extend("keys", span, k)
        v = state.extend("values", span, v)
        known = state.extend("valid", span, valid)
        q = rotate(q, rope.part(left, left + q.shape[1]))
        k = rotate(k, rope.part(0, k.shape[1]))
        return self._joined(buffered_attention(q, k, v, known, self.window))

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            rearrange(proj(hidden), "b t (h d) -> b t h d", h=self.heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def _joined(self, out: Tensor) -> Tensor:
        return self.out_proj(rearrange(out, "b t h d -> b t (h d)"))


class Block(nn.Module):
    """x + attention(norm(x)), then x + fc2(activation(fc1(norm(x)))).

    exact: the norms stay in float32, and so does the sum x where it comes in as float32. exact_hidden: so does fc1.
    """

    def __init__(self, shape: StackShape, window: Window, *, exact: bool = False, exact_hidden: bool = False) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape.dim, shape.heads, window)
        self.self_attn_layer_norm = make_norm(shape.ln_type, shape.dim, exact=exact)
        self.activation = shape.activation_function
        self.fc1 = (ExactLinear if exact_hidden else Linear)(shape.dim, shape.ffn_dim)
        self.fc2 = Linear(shape.ffn_dim, shape.dim)
        self.final_layer_norm = make_norm(shape.ln_type, shape.dim, exact=exact)

    def forward(self, hidden: Tensor, rope: Rope, plan: AttentionPlan) -> Tensor:
        """hidden: [B, T, dim]. Returns [B, T, dim]."""
        return self._feed_forward(hidden + self.self_attn(self._normed(hidden), rope, plan))

    def step(self, state: StreamState, hidden: Tensor, valid: Tensor, rope: Rope) -> Tensor:
        """hidden: [B, n, dim], valid: [B, n]. Returns the output of `right` frames ago, [B, n, dim]."""
        attended = self.self_attn.step(state, self._normed(hidden), valid, rope)
        return self._feed_forward(state.delay("residual", self.self_attn.window[1], hidden) + attended)

    def _normed(self, hidden: Tensor) -> Tensor:
        return entering(self.self_attn_layer_norm(hidden), self.self_attn)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        normed = entering(self.final_layer_norm(hidden), self.fc1)
        active = activated(self.fc1, normed, self.activation)
        return hidden + self.fc2(entering(active, self.fc2))


class Stack(nn.ModuleList):
    """The blocks one after another; positions count from 0 in each sequence.

    skip: the number of the block (from 1) whose output is added to the last block's (MiMo-Audio, section 2.1); None
    for none. exact: the norms stay in float32 whatever the dtype is, for input in float32, and so do the hidden layers
    of the feed-forward up to `skip`, whose errors the output has twice.
    """

    def __init__(self, shape: StackShape, *, skip: int | None = None, exact: bool = False) -> None:
        super().__init__(
            Block(shape, window, exact=exact, exact_hidden=exact and number <= (skip or 0))
            for number, window in enumerate(shape.windows, start=1)
        )
        self.head_dim = shape.dim // shape.heads
        self.rope_theta = shape.rope_theta
        self.skip = skip

    def blocks(self) -> Iterator[Block]:
        """Iterate over the blocks in order, typed."""
        return (cast(Block, block) for block in self)

    def forward(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """hidden: [B, T, dim]; lengths: [B] valid frames. Returns [B, T, dim]."""
        # what attends is in the dtype of the weights, whatever runs between the blocks
        attending = hidden.to(dtype_of(self))
        rope = rope_table(hidden.shape[1], self.head_dim, self.rope_theta, attending)
        plans = plan_attention((block.self_attn.window for block in self.blocks()), attending, lengths)
        skipped = None
        for number, block in enumerate(self.blocks(), start=1):
            hidden = block(hidden, rope, plans[block.self_attn.window])
            if number == self.skip:
                skipped = hidden
        return hidden if skipped is None else hidden + skipped

    def step(self, state: StreamState, hidden: Tensor, valid: Tensor) -> Frames:
        """hidden: [B, n, dim], valid: [B, n]. Returns the frames of the sum of all right windows ago."""
        longest = max((sum(block.self_attn.window) for block in self.blocks()), default=0)
        rope = rope_table(longest + hidden.shape[1], self.head_dim, self.rope_theta, hidden.to(dtype_of(self)))
        skipped = None
        for number, block in enumerate(self.blocks(), start=1):
            own = state.scope(str(number))
            hidden = block.step(own, hidden, valid, rope)
            right = block.self_attn.window[1]
            valid = own.delay("passed", right, valid)
            if skipped is not None:
                skipped = own.delay("skipped", right, skipped)
            if number == self.skip:
                skipped = hidden
        return Frames(hidden if skipped is None else hidden + skipped, valid)
