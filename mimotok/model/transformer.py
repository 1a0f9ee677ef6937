"""The pre-norm Transformer that encoder, decoder and vocoder share: RoPE, block, stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from mimotok.config import TokenizerConfig, Window
from mimotok.model.attention import Sight, attention, sights
from mimotok.model.linear import Linear


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
        """The encoder's stack."""
        return cls._of(
            config, config.d_model, config.encoder_ffn_dim, config.encoder_attention_heads, config.encoder_windows()
        )

    @classmethod
    def of_decoder(cls, config: TokenizerConfig) -> StackShape:
        """The decoder's stack."""
        return cls._of(
            config, config.d_model, config.decoder_ffn_dim, config.decoder_attention_heads, config.decoder_windows()
        )

    @classmethod
    def of_vocoder(cls, config: TokenizerConfig) -> StackShape:
        """The vocoder's stack."""
        dim, ffn_dim = config.vocoder_dim, config.vocoder_intermediate_dim
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
        scale = torch.rsqrt(hidden.float().square().mean(-1, keepdim=True) + 1e-6)
        return (hidden.float() * scale).to(hidden.dtype) * self.weight


def make_norm(ln_type: str, dim: int) -> nn.Module:
    """The norm that the configuration's `ln_type` names, over the last dimension."""
    return RMSNorm(dim) if ln_type == "RMSNorm" else nn.LayerNorm(dim)


def rope_table(size: int, head_dim: int, theta: float, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [size, head_dim] of positions 0..size-1 (Su et al., 2021; rotate-half form), the sines of the first
    half negated; computed in fp32, given in hidden's dtype and on its device."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=hidden.device).float() / head_dim)
    angle = torch.arange(size, device=hidden.device).float()[:, None] * frequency
    cos, sin = angle.cos().to(hidden.dtype), angle.sin().to(hidden.dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """x: [..., D], each half of D rotated against the other by its position's angles."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


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

    def forward(self, hidden: Tensor, rope: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """hidden: [B, T, dim] -> [B, T, dim]."""
        q, k, v = (
            rearrange(proj(hidden), "b t (h d) -> b t h d", h=self.heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(rotate(q, rope), rotate(k, rope), v, sight)
        return self.out_proj(rearrange(out, "b t h d -> b t (h d)"))


class Block(nn.Module):
    """x + attention(norm(x)), then x + fc2(fc1(norm(x))), fc1 with the activation."""

    def __init__(self, shape: StackShape, window: Window) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape.dim, shape.heads, window)
        self.self_attn_layer_norm = make_norm(shape.ln_type, shape.dim)
        self.fc1 = Linear(shape.dim, shape.ffn_dim, activation=shape.activation_function)
        self.fc2 = Linear(shape.ffn_dim, shape.dim)
        self.final_layer_norm = make_norm(shape.ln_type, shape.dim)

    def forward(self, hidden: Tensor, rope: tuple[Tensor, Tensor], sight: Sight) -> Tensor:
        """hidden: [B, T, dim] -> [B, T, dim]."""
        return self.feed_forward(hidden + self.self_attn(self.self_attn_layer_norm(hidden), rope, sight))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """The second half: hidden + fc2(fc1(norm(hidden))); [B, T, dim] -> [B, T, dim]."""
        return hidden + self.fc2(self.fc1(self.final_layer_norm(hidden)))


class Stack(nn.ModuleList):
    """The blocks one after another; positions count from 0 in each sequence."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__(Block(shape, window) for window in shape.windows)
        self.head_dim = shape.dim // shape.heads
        self.rope_theta = shape.rope_theta

    def blocks(self) -> Iterator[Block]:
        """The blocks in order, typed."""
        return (cast(Block, block) for block in self)

    def forward(self, hidden: Tensor, lengths: Tensor | None = None, *, tap: int | None = None) -> Tensor:
        """hidden: [B, T, dim]; lengths: [B] valid frames. Returns [B, T, dim].

        tap: the output of block number `tap` (from 1) is added to the last block's (the MiMo-Audio skip).
        """
        cos, sin = rope_table(hidden.shape[1], self.head_dim, self.rope_theta, hidden)
        rope = (cos[:, None], sin[:, None])
        seen = sights((block.self_attn.window for block in self.blocks()), hidden, lengths)
        tapped = None
        for number, block in enumerate(self.blocks(), start=1):
            hidden = block(hidden, rope, seen[block.self_attn.window])
            if number == tap:
                tapped = hidden
        return hidden if tapped is None else hidden + tapped
