"""torchaudio as the reference for mel and resampling, where it can be imported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soxr
import torch

from mimotok.model.mel import log_mel
from tests.helpers.models import TINY

try:
    import torchaudio
except (ImportError, OSError):  # its native library may need a CUDA that is not there
    pytest.skip("torchaudio cannot be imported here", allow_module_level=True)


@pytest.mark.parametrize(
    "changes",
    [{}, {"hop_length": 256, "n_fft": 1024, "window_size": 1024}, {"fmin": 50.0, "fmax": 7000.0, "n_mels": 64}],
)
def test_mel(changes: dict) -> None:
    config = replace(TINY, **changes)
    transform = torchaudio.transforms.MelSpectrogram(
        config.sample_rate,
        config.n_fft,
        config.window_size,
        config.hop_length,
        config.fmin,
        config.fmax,
        n_mels=config.n_mels,
        power=1.0,
    )
    wav = 0.3 * torch.randn(2, 12_345)
    wanted = transform(wav).clamp(min=config.mel_floor).log().transpose(1, 2)
    torch.testing.assert_close(log_mel(wav, None, config)[0], wanted, atol=1e-4, rtol=1e-4)


def test_resampling_agrees_in_the_band() -> None:
    """Different filters, the same sound: a sweep below both band edges comes out alike."""
    time = np.arange(16_000) / 16_000
    wav = 0.5 * np.sin(2 * np.pi * (200 + 2_000 * time) * time).astype(np.float32)
    ours = soxr.resample(wav, 16_000, 24_000, quality="VHQ")
    theirs = torchaudio.functional.resample(torch.from_numpy(wav), 16_000, 24_000, lowpass_filter_width=64).numpy()
    assert np.abs(ours[500:-500] - theirs[500 : len(ours) - 500]).max() < 1e-2
