"""What tuning gave a model, given to the same model after more training.

Ilharco et al., 2023, "Editing models with task arithmetic" (arXiv 2212.04089): the difference that tuning makes in the
weights may be added to other weights that stem from the same ones. Here the adversarial stage tuned decoder and vocoder
of a joint stage's model, and the joint stage has gone on since: the sum needs little adversarial training, if any.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mimotok.tokenizer import Tokenizer
from train.tools.export import checked_dtype


def transfer(
    tuned: str | Path, before: str | Path, after: str | Path, out: str | Path, *, dtype: str = "float16"
) -> None:
    """Write the model `after + (tuned - before)`; its codes are those of `after`.

    Args:
        tuned: folder or hub id of the model that tuning gave, with the encoder and codebooks of `before`.
        before: folder or hub id of the model that was tuned.
        after: folder or hub id of the model that `before` became by more training.
        out: folder to write.
        dtype: of the stored weights.

    Raises:
        ValueError: where the three differ in configuration, or tuning changed encoder or codebooks; and for an unknown
            dtype.
    """
    stored = checked_dtype(dtype)
    result = Tokenizer.from_pretrained(after)
    base = Tokenizer.from_pretrained(before)
    changed = Tokenizer.from_pretrained(tuned)
    for folder, model in ((before, base), (after, result)):
        if model.config != changed.config:
            raise ValueError(f"{tuned} and {folder} have different configurations: weights of one do not fit the other")
    weights = base.state_dict()
    gained = changed.state_dict()
    for name, weight in result.state_dict().items():
        if not name.startswith("encoder."):
            weight.add_(gained[name] - weights[name])
        elif not torch.equal(gained[name], weights[name]):
            raise ValueError(
                f"{tuned} and {before} differ in {name}: give a model that was tuned with its codes unchanged"
            )
    result.save_pretrained(out, dtype=stored)
