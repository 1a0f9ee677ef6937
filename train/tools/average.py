"""The mean of two finished models, which is often better than both.

Wortsman et al., 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903) average a model and its fine-tuned
self. Here the two are the results of the joint and the adversarial stage, or of two runs from one start.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mimotok.tokenizer import Tokenizer
from train.tools.export import checked_dtype


def average(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    *,
    share: float = 0.5,
    new_codes: bool = False,
    dtype: str = "float16",
) -> None:
    """Write a model whose weights are (1 - share) x first + share x second.

    Args:
        first: folder or hub id.
        second: folder or hub id.
        out: folder to write.
        share: of the second.
        new_codes: whether encoders and codebooks may differ, as those of two runs from one start do; the mean then has
            codes of its own.
        dtype: of the stored weights.

    Raises:
        ValueError: where the two differ in configuration or, without `new_codes`, in encoder or codebooks, so that
            codes of either stay valid; for a share outside 0 to 1; and for an unknown dtype.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share:g}: give 0 (the first) to 1 (the second)")
    stored = checked_dtype(dtype)
    mine = Tokenizer.from_pretrained(first)
    other = Tokenizer.from_pretrained(second)
    if mine.config != other.config:
        raise ValueError(f"{first} and {second} have different configurations: no mean of them is a model")
    weights = other.state_dict()
    for name, weight in mine.state_dict().items():
        if not new_codes and name.startswith("encoder.") and not torch.equal(weight, weights[name]):
            raise ValueError(
                f"{first} and {second} differ in {name}: the mean needs --new-codes, and has codes of its own"
            )
        weight.lerp_(weights[name], share)
    mine.save_pretrained(out, dtype=stored)
