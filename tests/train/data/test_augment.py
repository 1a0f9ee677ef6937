"""Augmentation: seeded, peak-safe, of the planned length, and honest about bandwidth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.speech_corpus import RATE, speech, take
from train.data.augment import AugmentConfig, augment


def changed(config: AugmentConfig, rate: int = RATE, speed: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return augment(speech(2.0, rate, 0), rate, sample_rate=RATE, speed=speed, config=config, rng=rng)


def level(wav: np.ndarray, low: float, high: float) -> float:
    """Level of a band in dB, by a window that keeps the edges of the clip out of it."""
    power = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2
    frequencies = np.fft.rfftfreq(len(wav), 1 / RATE)
    return 10 * np.log10(power[(frequencies > low) & (frequencies < high)].mean() / len(wav) + 1e-20)


OFF: dict[str, Any] = {"speed_prob": 0.0, "bandwidth_prob": 0.0, "noise_prob": 0.0, "gain_db": (0.0, 0.0)}


@given(st.integers(0, 999), st.floats(0.8, 1.25), st.sampled_from([8000, 16000, 22050, 24000]))
@settings(deadline=None, max_examples=30)
def test_augmentation_is_seeded_peak_safe_and_of_the_planned_length(seed, speed, rate) -> None:
    config = AugmentConfig(gain_db=(-20.0, 40.0))
    wav = changed(config, rate, speed, seed)
    assert np.array_equal(wav, changed(config, rate, speed, seed))
    assert wav.dtype == np.float32
    assert np.abs(wav).max() <= 1
    assert abs(len(wav) - 2.0 / speed * RATE) <= 2


def test_band_limits_empty_the_band_above_and_keep_the_one_below() -> None:
    plain = changed(AugmentConfig(**OFF))
    limited = changed(AugmentConfig(**{**OFF, "bandwidth_prob": 1.0, "bandwidths": (4000.0,)}))
    assert level(limited, 0, 3500) == pytest.approx(level(plain, 0, 3500), abs=0.1)
    assert level(limited, 4300, 12000) < level(plain, 4300, 12000) - 80


def test_speed_moves_the_band_edge_of_narrow_band_speech() -> None:
    faster = changed(AugmentConfig(**OFF), rate=16000, speed=1.1)
    assert level(faster, 7000, 8200) > level(faster, 9000, 12000) + 80


@pytest.mark.parametrize("bad", [{"speed": (1.1, 0.9)}, {"speed": (0.0, 1.0)}, {"noise_prob": 1.5}])
def test_augment_configs_check_themselves(bad) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AugmentConfig(**bad)


@pytest.mark.slow
def test_narrow_band_clips_stay_empty_above_their_band_until_noise_fills_it(module) -> None:
    """The cache must not put a quantization floor where a resampled file has none."""

    def top_band(**changes) -> float:
        data = module(source_weights={"narrow": 1.0, "*": 0.0}, augment=AugmentConfig(**{**OFF, **changes}))
        batches = take(data.train_dataloader(), 8)
        clips = [wav[: int(n)].numpy() for b in batches for wav, n in zip(b.wav, b.lengths, strict=True)]
        return max(level(clip, 9500, 11500) for clip in clips)

    assert top_band() < -130
    # the window takes 4 dB
    assert top_band(noise_prob=1.0, noise_db=(-70.0, -70.0)) == pytest.approx(-74, abs=1)


def test_the_gain_is_in_decibels_of_the_level() -> None:
    wav = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    config = AugmentConfig(**{**OFF, "gain_db": (-6.0206, -6.0206)})
    quieter = augment(wav, RATE, sample_rate=RATE, speed=1.0, config=config, rng=np.random.default_rng(0))
    np.testing.assert_allclose(quieter, 0.5 * wav, rtol=1e-3)
