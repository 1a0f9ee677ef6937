"""Resampling of batches, which the interfaces of others expect of a codec."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mimotok.io.audio import resample


def resample_batch(wav: Tensor, source_rate: int, sample_rate: int) -> Tensor:
    """Resample wav [B, T] by soxr, as sound files are; gradients end here. The result is on the same device."""
    if source_rate == sample_rate or not wav.numel():
        return wav
    rows = [resample(row, source_rate, sample_rate) for row in wav.detach().float().cpu().numpy()]
    return torch.from_numpy(np.stack(rows)).to(wav.device)
