"""Random models of codes, as small as tests need them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mimotok.model.code_model import CodeModel
from train.tools.code_model import CodeNetwork, to_code_model


def make_code_model(
    sizes: Sequence[int], seed: int = 0, codes_sha256: str = "0" * 64, weights: float = 1.0
) -> CodeModel:
    """A model with random weights, `weights` times as large as a new network's."""
    torch.manual_seed(seed)
    books = [torch.randn(size, 8) for size in sizes]
    network = CodeNetwork(books, [np.full(size, 1 / size) for size in sizes], hidden=8, width=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(weights).add_(0.3 * weights * torch.randn_like(parameter))
    return to_code_model(network, codes_sha256)
