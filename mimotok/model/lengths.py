"""Length arithmetic: how many frames hold how many samples, and which frames of a padded batch are valid."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from mimotok.tensors import check_tensor

Count = TypeVar("Count", int, Tensor)


def frames_needed(length: Count, size: int) -> Count:
    """Return ceil(length / size): how many frames of `size` hold `length` steps.

    Both may be symbols of a traced graph.
    """
    return (length + size - 1) // size


def mel_frames(num_samples: Count, hop_length: int) -> Count:
    """Return the frames of a centred STFT: samples // hop + 1."""
    return num_samples // hop_length + 1


def code_frames(num_samples: Count, hop_length: int, frame_stride: int) -> Count:
    """Return the code frames of `num_samples` samples: each holds `frame_stride` mel frames, the last one is padded."""
    return frames_needed(mel_frames(num_samples, hop_length), frame_stride)


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """Return a mask, bool [B, size], that is True where a position is below its item's length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def zero_invalid(hidden: Tensor, mask: Tensor) -> Tensor:
    """hidden: [B, T, C], mask: bool [B, T]. Returns hidden with zeros where the mask is False."""
    # not a product: that of 0 and what was never set, which may be NaN, is NaN
    return hidden.masked_fill(~mask[..., None], 0)


def zero_padding(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """hidden: [B, T, C]. Returns it with zeros past each item's length; None means that nothing is padded."""
    if lengths is None:
        return hidden
    return zero_invalid(hidden, valid_mask(lengths, hidden.shape[1]))


def checked_lengths(lengths: Tensor, padded: Tensor, unit: str) -> Tensor:
    """Return the valid lengths [B] of a padded batch [B, n, ...] as int64, on its device.

    Raises ValueError for what is no tensor, a wrong shape, another dtype than whole numbers, or a value outside 1..n.
    """
    check_tensor(lengths, "lengths")
    batch, size = padded.shape[:2]
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths has dtype {lengths.dtype}: give whole numbers of {unit}, not shares")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths has shape {list(lengths.shape)}, but the batch holds {batch} clips: give [{batch}]")
    lengths = lengths.to(padded.device, torch.int64)
    if torch.compiler.is_compiling():  # what a graph computes cannot raise
        return lengths
    if lengths.numel() and (int(lengths.min()) < 1 or int(lengths.max()) > size):
        raise ValueError(f"lengths={lengths.tolist()}: each must lie in 1 to {size} {unit}, the padded size")
    return lengths
