"""Bits of codes under the model of codes that a codec has itself: nothing is trained, and nothing is coded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from eval.codecs.base import OwnModel
from mimotok.io.codes.entropy import TOTAL, EntropyModel, check_sizes

TOGETHER = 256  # blocks that are predicted side by side


def predicted_bits(own: OwnModel, codes: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Count the bits that an ideal coder with this model needs, in all, for each codebook.

    Args:
        own: the model. Codebooks that it does not know take as many bits as they have numbers.
        codes: of each clip, int [n_q, F]. Each block of a clip is predicted by itself, as it is in a file.
        sizes: entries of each codebook.

    Returns:
        [n_q].

    Raises:
        ValueError: where the model is not for codebooks of these sizes.
    """
    check_sizes(own.model, sizes)
    by_length = defaultdict(list)
    for clip in codes:
        for start in range(0, clip.shape[1], own.frames):
            block = clip[:, start : start + own.frames]
            by_length[block.shape[1]].append(block)
    bits = np.zeros(len(sizes))
    for blocks in by_length.values():
        for start in range(0, len(blocks), TOGETHER):
            bits += _bits_of_blocks(own.model, np.stack(blocks[start : start + TOGETHER]), sizes)
    return bits


def _bits_of_blocks(model: EntropyModel, blocks: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Count the bits of blocks of equal length, [N, n_q, F]."""
    known = min(len(sizes), len(model.sizes))
    bits = np.array([np.log2(size) * blocks[:, book].size for book, size in enumerate(sizes)])
    bits[:known] = 0
    prediction = model.begin(len(blocks), known)
    rows = np.arange(len(blocks))
    for frame in range(blocks.shape[2]):
        for book in range(known):
            code = blocks[:, book, frame]
            bits[book] -= np.log2(prediction.frequencies()[rows, code] / TOTAL).sum()
            prediction.push(code)
    return bits
