"""The pre-norm Transformer that encoder, decoder and vocoder share: RoPE, block, stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mimotok.attention import attention
from mimotok.config import TokenizerConfig, Window

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


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


def rope_table(size: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [size, head_dim] of positions 0..size-1, fp32 (Su et al., 2021; rotate-half form)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angle = torch.arange(size, device=device).float()[:, None] * frequency
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """x: [B, H, T, D], each half of D rotated against the other by its position's angles."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class SelfAttention(nn.Module):
    """Multi-head attention with rotary positions; as in Whisper, the key projection has no bias."""

    def __init__(self, dim: int, heads: int, window: Window) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, rope: tuple[Tensor, Tensor], lengths: Tensor | None) -> Tensor:
        """hidden: [B, T, dim] -> [B, T, dim]."""
        q, k, v = (
            rearrange(proj(hidden), "b t (h d) -> b h t d", h=self.heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(rotate(q, rope), rotate(k, rope), v, self.window, lengths)
        return self.out_proj(rearrange(out, "b h t d -> b t (h d)"))


class Block(nn.Module):
    """x + attention(norm(x)), then x + fc2(act(fc1(norm(x))))."""

    def __init__(self, shape: StackShape, window: Window) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape.dim, shape.heads, window)
        self.self_attn_layer_norm = make_norm(shape.ln_type, shape.dim)
        self.fc1 = nn.Linear(shape.dim, shape.ffn_dim)
        self.fc2 = nn.Linear(shape.ffn_dim, shape.dim)
        self.final_layer_norm = make_norm(shape.ln_type, shape.dim)
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[shape.activation_function]

    def forward(self, hidden: Tensor, rope: tuple[Tensor, Tensor], lengths: Tensor | None) -> Tensor:
        """hidden: [B, T, dim] -> [B, T, dim]."""
        return self.feed_forward(hidden + self.self_attn(self.self_attn_layer_norm(hidden), rope, lengths))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """The second half: hidden + fc2(act(fc1(norm(hidden)))); [B, T, dim] -> [B, T, dim]."""
        return hidden + self.fc2(self.activation(self.fc1(self.final_layer_norm(hidden))))


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
        cos, sin = rope_table(hidden.shape[1], self.head_dim, self.rope_theta, hidden.device)
        rope = (cos.to(hidden.dtype), sin.to(hidden.dtype))
        tapped = None
        for number, block in enumerate(self.blocks(), start=1):
            hidden = block(hidden, rope, lengths)
            if number == tap:
                tapped = hidden
        return hidden if tapped is None else hidden + tapped
