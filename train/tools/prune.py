"""A narrower model from a wide one: feed-forward units that the others of their layer can replace are removed.

Units are removed one at a time, always the one whose loss costs the layer's output least. The weights of the others,
and the bias, are refitted each time by least squares ("optimal brain surgeon"; Hassibi and Stork, 1993. On rows of
Transformers: Kurtic et al., 2023, "ZipLM"). Training then continues with the narrower model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimotok.io.files import require_writable
from mimotok.model.transformer import Block
from mimotok.tokenizer import Tokenizer
from mimotok.weights import WEIGHTS_NAME
from train.tools.export import checked_dtype
from train.tools.hear import speech

# Of the mean square of the units: what keeps the inverse of their second moments finite.
DAMPING = 1e-4


def prune(
    source: str | Path,
    out: str | Path,
    manifest: str,
    *,
    root: str = ".",
    allow_outside: bool = False,
    widths: Mapping[str, int | None],
    seconds: float = 300.0,
    dtype: str = "float16",
) -> None:
    """Write a model with narrower feed-forward layers. The codebooks stay the same; the codes do not.

    Args:
        source: folder or hub id.
        out: folder to write.
        manifest: of speech.
        root: folder of its relative paths.
        allow_outside: its audio may lie elsewhere than below `root` or its own folder.
        widths: of encoder_ffn_dim, decoder_ffn_dim and vocoder_intermediate_dim; one that is None or left out is kept.
        seconds: speech to use, of the training clips.
        dtype: of the stored weights.

    Raises:
        ValueError: for a width that is not narrower, for no clips, and for an unknown dtype.
    """
    stored = checked_dtype(dtype)
    require_writable(Path(out) / WEIGHTS_NAME, create_folders=True)
    wide = Tokenizer.from_pretrained(source)
    narrower: dict[str, Any] = {name: width for name, width in widths.items() if width is not None}
    for name, width in narrower.items():
        if not 0 < width < getattr(wide.config, name):
            raise ValueError(f"{name}={width}: give 1 to {getattr(wide.config, name) - 1}, or leave it out")
    narrow = Tokenizer(dataclasses.replace(wide.config, **narrower))
    pairs = zip(_blocks(wide), _blocks(narrow), strict=True)
    changed = {block: new.fc1.out_features for block, new in pairs if new.fc1.out_features < block.fc1.out_features}
    moments = second_moments(
        wide, list(changed), speech(manifest, root, seconds, wide.sample_rate, allow_outside=allow_outside)
    )
    for block, width in changed.items():
        remove_units(block, width, moments[block])
    narrow.load_state_dict(wide.state_dict())
    narrow.save_pretrained(out, dtype=stored)


def _blocks(tokenizer: Tokenizer) -> list[Block]:
    return [block for stack in tokenizer.stacks() for block in stack.blocks()]


@torch.no_grad()
def second_moments(tokenizer: Tokenizer, blocks: list[Block], clips: Iterator[Tensor]) -> dict[Block, Tensor]:
    """Compute the second moments of the units of each block, with a constant 1 after them, over all frames of `clips`.

    Returns:
        float64 [U + 1, U + 1] of each block.
    """
    moments: dict[Block, Tensor] = {}
    for block in blocks:
        width = block.fc1.out_features + 1
        moments[block] = torch.zeros(width, width, dtype=torch.float64)

        def listen(_: nn.Module, given: tuple[Tensor], block: Block = block) -> None:
            units = given[0].flatten(0, -2).double()
            units = torch.cat((units, units.new_ones(len(units), 1)), 1)
            moments[block] += units.T @ units

        block.fc2.register_forward_pre_hook(listen)
    for wav in clips:
        tokenizer.reconstruct(wav)
    return moments


@torch.no_grad()
def remove_units(block: Block, width: int, moments: Tensor) -> None:
    """Leave `width` units in the block.

    Args:
        block: the block, which is changed.
        width: units to leave.
        moments: of the block, from `second_moments`.
    """
    units = block.fc1.out_features
    rows = torch.cat((block.fc2.weight.T, block.fc2.bias[None])).double()
    size = moments.diagonal().mean()
    inverse = torch.linalg.inv(moments + DAMPING * size * torch.eye(units + 1, dtype=moments.dtype))
    kept = torch.ones(units, dtype=torch.bool)
    for _ in range(units - width):
        cost = rows[:units].square().sum(1) / inverse.diagonal()[:units]
        unit = int(cost.masked_fill(~kept, torch.inf).argmin())
        column = inverse[:, unit] / inverse[unit, unit]
        rows = rows - column[:, None] * rows[unit]
        inverse = inverse - column[:, None] * inverse[unit]
        kept[unit] = False
    block.fc1.weight = nn.Parameter(block.fc1.weight[kept])
    block.fc1.bias = nn.Parameter(block.fc1.bias[kept])
    block.fc2.weight = nn.Parameter(rows[:units][kept].T.float().contiguous())
    block.fc2.bias = nn.Parameter(rows[units].float())
