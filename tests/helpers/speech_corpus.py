"""What the tests of the training data share: synthetic clips and comparisons of batches."""

from itertools import islice

import numpy as np
import torch

from train.data.batches import Batch

RATE = 24000
BAD = {"missing.wav": "missing", "corrupt.wav": "corrupt", "silent.wav": "silent", "short.wav": "short"}


def speech(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Noise, full to the Nyquist frequency, float32 [T]."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)).astype(np.float32)


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.wav, b.wav)
        assert torch.equal(a.lengths, b.lengths)
        assert (a.text, a.ids) == (b.text, b.ids)


def take(loader, count: int) -> list[Batch]:
    return list(islice(loader, count))
