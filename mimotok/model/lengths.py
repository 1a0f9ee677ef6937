"""Length arithmetic: how many frames come of how many samples, and which frames of a padded batch are valid."""

from __future__ import annotations

import torch
from torch import Tensor


def ceil_div(length: Tensor, divisor: int) -> Tensor:
    """Element-wise ceil(length / divisor) of integer lengths."""
    return (length + divisor - 1) // divisor


def mel_frames(num_samples: Tensor, hop_length: int) -> Tensor:
    """Frames of a centred STFT: samples // hop + 1."""
    return num_samples // hop_length + 1


def code_frames(num_samples: int, hop_length: int, frame_stride: int) -> int:
    """Code frames of a clip of `num_samples` samples: each `frame_stride` mel frames, the last one padded."""
    return -(-(num_samples // hop_length + 1) // frame_stride)


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """mask: bool [B, size], True where a position is below its item's length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def zero_padding(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """hidden: [B, T, C], zeroed past each item's length; unchanged where `lengths` is None (nothing is padded)."""
    if lengths is None:
        return hidden
    return hidden * valid_mask(lengths, hidden.shape[1])[..., None].to(hidden.dtype)


def checked_lengths(lengths: Tensor, batch: int, size: int, unit: str) -> Tensor:
    """Valid lengths [B] of a padded batch, as int64. Raises ValueError for a wrong shape or a value outside 1..size."""
    if lengths.shape != (batch,):
        raise ValueError(f"lengths has shape {list(lengths.shape)}, but the batch holds {batch} clips: give [{batch}]")
    lengths = lengths.to(torch.int64)
    if lengths.numel() and (int(lengths.min()) < 1 or int(lengths.max()) > size):
        raise ValueError(f"lengths={lengths.tolist()}: each must lie in 1 to {size} {unit}, the padded size")
    return lengths
