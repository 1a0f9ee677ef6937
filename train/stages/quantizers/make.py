"""The choice of what trains a model's quantizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mimotok.model.quantizer import ResidualQuantizer
from train.stages.quantizer import TrainingQuantizer
from train.stages.quantizers.fsq import FsqTraining


def make_training(
    source: nn.Module, chosen: Callable[[nn.Module], nn.Module] | None, *, kind: str, **settings: Any
) -> Any:
    """Build a `QuantizerTraining`.

    Args:
        source: the model's quantizer.
        chosen: what a config or a caller names, called with `source`; None for that of the kind.
        kind: of the model's quantizer.
        settings: of `TrainingQuantizer`.

    Raises:
        ValueError: where the kind has no training of its own and none is chosen, and as what is chosen.
    """
    if chosen is not None:
        return chosen(source)
    if isinstance(source, ResidualQuantizer):
        return TrainingQuantizer(source, **settings)
    if kind == "fsq":
        return FsqTraining(source)
    raise ValueError(f"quantizer={kind!r}: give quantizer_training, the class that trains it (docs/extend.md)")
