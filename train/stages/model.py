"""The model that a stage starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mimotok.config import TokenizerConfig
from mimotok.fields import closest
from mimotok.io.terminal.streams import shortened
from mimotok.tokenizer import Tokenizer

# Shipped configs name their models from here: train/configs/models/tiny.json.
HOME = Path(__file__).parents[2]


def build_tokenizer(source: str | dict[str, Any]) -> Tokenizer:
    """Load a checkpoint folder or hub id, or build a new model from a config.json or its keys (see `with_base`).

    A path of train/configs is found from any directory. Raises ValueError where there is no model, and for a
    config.json with a key that is not known.
    """
    if isinstance(source, str) and Path(source).suffix != ".json":
        return Tokenizer.from_pretrained(source)
    if isinstance(source, str):
        config = TokenizerConfig.load(shipped(source), strict=True)
        tokenizer = Tokenizer(config, name=Path(source).stem)
    else:
        tokenizer = Tokenizer(TokenizerConfig.from_official(with_base(source)))
    initialise(tokenizer)
    return tokenizer


def with_base(values: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a config.json: those of the file that `base` names, changed by the others.

    Raises ValueError for a base that is no config.json, and for a key that is not known.
    """
    base = values.get("base")
    if base is None:
        return values
    if not isinstance(base, str) or Path(base).suffix != ".json":
        raise ValueError(f"model base={base}: the sizes of a trained model are fixed; give a config.json to change")
    known = TokenizerConfig.official_keys()
    changes = {key: value for key, value in values.items() if key != "base"}
    for key in changes:
        if key not in known:
            meant = closest(key, known)
            remedy = f"did you mean {meant}?" if meant else f"known are {', '.join(sorted(known))}"
            raise ValueError(f"model.{shortened(key)}: unknown key: {remedy}")
    return TokenizerConfig.load(shipped(base), strict=True).to_official() | changes


def shipped(path: str) -> str:
    """Return a path, or where it lies beside this package if it is not found from the current directory."""
    beside = HOME / path
    return str(beside) if not Path(path).exists() and beside.is_file() else path


def load_exported(module: nn.Module, path: str, setting: str, *, optional: Sequence[str] = ()) -> list[str]:
    """Load weights that `python -m train export` wrote beside a model into `module`, which needs all of them.

    optional: children that the file may have and the module not. Returns those of which this is so. Raises ValueError,
    which names the setting that gave the path, where the weights do not fit.
    """
    children = dict(module.named_children())
    try:
        weights = load_file(shipped(path))
        held = {name.partition(".")[0] for name in weights}
        unused = [name for name in optional if name in held and name not in children]
        module.load_state_dict(
            {name: weight for name, weight in weights.items() if name.partition(".")[0] not in unused}
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        what = f"the {setting.removesuffix('_weights')}s"
        problem = " ".join(str(error).split())
        raise ValueError(f"{setting}={path}: does not fit {what} ({problem:.300})") from None
    return unused


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
