"""The two small Transformers between patches and a language model: PatchEncoder in, PatchDecoder out.

MiMo-Audio (arXiv 2512.23808, section 2.2). They share the embeddings of the codes. What they learn from, and how they
are joined to a language model, is in `mimotok.lm.audio_lm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import Window
from mimotok.lm.layouts import PATCH_SIZE, checked_delays, shift_channels, unshift_channels
from mimotok.lm.sampling import PLAIN, Generators, Sampling, sample
from mimotok.model.state import StreamState
from mimotok.model.transformer import Stack, StackShape


@dataclass(frozen=True)
class PatchConfig:
    """Sizes of both modules; small by default, `published` gives MiMo-Audio's.

    codebook_sizes: of the channels. delays: of each channel in the decoder, 0, 1, 2... where none are given.
    dim, heads, ffn_dim: of both Transformers.
    """

    codebook_sizes: tuple[int, ...]
    patch_size: int = PATCH_SIZE
    delays: tuple[int, ...] = ()
    dim: int = 128
    heads: int = 4
    ffn_dim: int = 384
    encoder_layers: int = 2
    decoder_layers: int = 3

    def __post_init__(self) -> None:
        # lists come out of JSON and of checkpoints
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        object.__setattr__(self, "delays", checked_delays(self.delays or None, len(self.codebook_sizes)))
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim={self.dim}: RoPE needs {self.heads} heads of even width")
        for name in ("patch_size", "encoder_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")

    @classmethod
    def published(cls) -> PatchConfig:
        """Return the published sizes: 8 channels, patches of 4, delays 0 to 7, 6 and 16 layers of width 1024."""
        sizes = (1024, 1024, *[128] * 6)
        return cls(sizes, dim=1024, heads=16, ffn_dim=4096, encoder_layers=6, decoder_layers=16)

    @property
    def steps(self) -> int:
        """Steps that the decoder takes over a patch: its frames and the last channel's delay (4 + 7)."""
        return self.patch_size + max(self.delays)

    def stack(self, layers: int, window: Window) -> Stack:
        """Make a Transformer of these sizes."""
        shape = StackShape(
            dim=self.dim,
            ffn_dim=self.ffn_dim,
            heads=self.heads,
            windows=[window] * layers,
            ln_type="RMSNorm",
            activation_function="silu",
            rope_theta=10000.0,
        )
        return Stack(shape)


class CodeEmbedding(nn.ModuleList):
    """One table per channel, summed over the channels. The "empty" id adds nothing, and learns nothing."""

    def __init__(self, codebook_sizes: Sequence[int], dim: int) -> None:
        super().__init__(nn.Embedding(size + 1, dim, padding_idx=size) for size in codebook_sizes)
        for table in self:
            # the sum of the channels has unit variance, as the Transformer's other inputs have
            cast(nn.Embedding, table).weight.data.mul_(len(codebook_sizes) ** -0.5)

    def forward(self, codes: Tensor) -> Tensor:
        """codes: [N, n_q, S] -> [N, S, dim]."""
        return torch.stack([table(codes[:, channel]) for channel, table in enumerate(self)]).sum(0)


class PatchEncoder(nn.Module):
    """A patch as one vector of the language model's width: every frame of it sees every other."""

    def __init__(self, config: PatchConfig, lm_dim: int, embedding: CodeEmbedding | None = None) -> None:
        """lm_dim: width of the language model. embedding: to share with a PatchDecoder."""
        super().__init__()
        self.embedding = embedding or CodeEmbedding(config.codebook_sizes, config.dim)
        self.layers = config.stack(config.encoder_layers, (-1, -1))
        self.norm = nn.RMSNorm(config.dim)
        self.projection = nn.Linear(config.patch_size * config.dim, lm_dim)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [N, n_q, size] -> [N, lm_dim]."""
        return self.projection(self.norm(self.layers(self.embedding(patches))).flatten(1))


class PatchDecoder(nn.Module):
    """Writes a patch from the language model's state before it, step by step.

    In step s channel q writes its frame s - delay[q], knowing all that was written before. Where a channel is "empty"
    follows from the delays, so the heads do not have that id.
    """

    def __init__(self, config: PatchConfig, lm_dim: int, embedding: CodeEmbedding | None = None) -> None:
        """lm_dim: width of the language model. embedding: to share with a PatchEncoder."""
        super().__init__()
        self.config = config
        self.embedding = embedding or CodeEmbedding(config.codebook_sizes, config.dim)
        self.projection = nn.Linear(lm_dim, config.dim)
        # never fewer than all steps so far; being bounded, the window lets the stack run step by step
        self.layers = config.stack(config.decoder_layers, (config.steps - 1, 0))
        self.norm = nn.RMSNorm(config.dim)
        self.heads = nn.ModuleList(nn.Linear(config.dim, size) for size in config.codebook_sizes)

    def forward(self, hidden: Tensor, patches: Tensor) -> list[Tensor]:
        """hidden: [N, lm_dim]; patches: [N, n_q, size], true. Returns logits of each channel, [N, size, entries]."""
        config = self.config
        steps = shift_channels(patches, config.delays, config.codebook_sizes)
        inputs = torch.cat((self.projection(hidden)[:, None], self.embedding(steps[:, :, :-1])), dim=1)
        states = self.norm(self.layers(inputs))
        return [head(states[:, d : d + config.patch_size]) for head, d in zip(self.heads, config.delays, strict=True)]

    def loss(self, hidden: Tensor, patches: Tensor) -> Tensor:
        """As `forward`. Returns each channel's cross-entropy in nats per code, [n_q]; 0 where there is no patch."""
        logits = self(hidden, patches)
        total = [
            F.cross_entropy(each.flatten(0, 1).float(), patches[:, channel].flatten(), reduction="sum")
            for channel, each in enumerate(logits)
        ]
        return torch.stack(total) / max(1, patches.shape[0] * patches.shape[2])

    @torch.no_grad()
    def generate(
        self,
        hidden: Tensor,
        *,
        sampling: Sampling | Sequence[Sampling] = PLAIN,
        generator: Generators = None,
    ) -> Tensor:
        """hidden: [N, lm_dim]. Returns patches int64 [N, n_q, size].

        sampling: for all, or one for each channel. generator: for all, or one for each of the N.
        """
        config = self.config
        each = checked_sampling(sampling, len(config.codebook_sizes))
        empty = torch.tensor(config.codebook_sizes, device=hidden.device)
        written = empty[None, :, None].repeat(len(hidden), 1, config.steps)
        valid = torch.ones(len(hidden), 1, dtype=torch.bool, device=hidden.device)
        state = StreamState()
        inputs = self.projection(hidden)[:, None]
        for step in range(config.steps):
            output = self.norm(self.layers.step(state, inputs, valid).hidden)[:, 0]
            for channel, delay in enumerate(config.delays):
                if 0 <= step - delay < config.patch_size:
                    logits = self.heads[channel](output)
                    written[:, channel, step] = sample(logits, each[channel], generator)
            inputs = self.embedding(written[:, :, step : step + 1])
        return unshift_channels(written, config.delays)


def checked_sampling(sampling: Sampling | Sequence[Sampling], n_q: int) -> list[Sampling]:
    """Return one `Sampling` for each channel."""
    if isinstance(sampling, Sampling):
        return [sampling] * n_q
    if len(sampling) != n_q:
        raise ValueError(f"sampling names {len(sampling)} channels, but there are {n_q}: give one, or one for each")
    return list(sampling)
