"""The model that a stage starts from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mimotok.config import TokenizerConfig
from mimotok.tokenizer import Tokenizer


def build_tokenizer(source: str) -> Tokenizer:
    """Load a checkpoint folder or hub id, or build a new model from a config.json."""
    if Path(source).suffix != ".json":
        return Tokenizer.from_pretrained(source)
    tokenizer = Tokenizer(TokenizerConfig.load(source), name=Path(source).stem)
    initialise(tokenizer)
    return tokenizer


@torch.no_grad()
def initialise(tokenizer: Tokenizer) -> None:
    """Draw projections from a truncated normal of 0.02, zero biases, and scale residual branches by depth (GPT-2)."""
    for module in tokenizer.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for stack in tokenizer.stacks():
        for block in stack.blocks():
            for branch in (block.self_attn.out_proj, block.fc2):
                branch.weight.mul_((2 * len(stack)) ** -0.5)
