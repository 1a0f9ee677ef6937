"""torchaudio as the reference for mel and resampling: the installed one, or the Python part of its wheel."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soxr
import torch

from mimotok.model.mel import log_mel
from tests.helpers.models import TINY
from tests.helpers.torchaudio_wheel import unpack_torchaudio


@pytest.fixture(scope="module")
def torchaudio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package; none of it stays for the tests that follow, which ask whether others import it."""
    before = set(sys.modules)
    folder = tmp_path_factory.mktemp("torchaudio")
    try:
        yield importlib.import_module("torchaudio")
    except (ImportError, OSError):  # its native library may need a CUDA that is not there
        for name in set(sys.modules) - before:
            del sys.modules[name]
        # -p no:cacheprovider leaves the attribute out
        cache = getattr(request.config, "cache", None)
        wheels = tmp_path_factory.mktemp("wheels") if cache is None else cache.mkdir("torchaudio")
        try:
            unpack_torchaudio(wheels, folder)
        except OSError as error:
            pytest.skip(str(error))
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        yield importlib.import_module("torchaudio")
        sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio" and name not in before]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"hop_length": 256, "n_fft": 1024, "window_size": 1024}, {"fmin": 50.0, "fmax": 7000.0, "n_mels": 64}],
)
def test_mel(torchaudio, changes: dict) -> None:
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


def test_resampling_agrees_in_the_band(torchaudio) -> None:
    """Different filters, the same sound: a sweep below both band edges comes out alike."""
    time = np.arange(16_000) / 16_000
    wav = 0.5 * np.sin(2 * np.pi * (200 + 2_000 * time) * time).astype(np.float32)
    ours = soxr.resample(wav, 16_000, 24_000, quality="VHQ")
    theirs = torchaudio.functional.resample(torch.from_numpy(wav), 16_000, 24_000, lowpass_filter_width=64).numpy()
    assert np.abs(ours[500:-500] - theirs[500 : len(ours) - 500]).max() < 1e-2
