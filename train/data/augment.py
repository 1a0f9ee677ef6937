"""Changes to a clip between the disk and the model; its transcript still fits afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mimotok.io.audio import resample

PEAK = 0.99


def _check_range(name: str, low_high: tuple[float, float]) -> None:
    if len(low_high) != 2 or low_high[0] > low_high[1]:
        raise ValueError(f"{name}={low_high}, but it is a (low, high) pair")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of clips. Ranges are uniform; a `*_prob` is the share of clips that get the change.

    Args:
        gain_db: lowest and highest gain in dB, lowered where the peak would pass 0.99.
        speed: lowest and highest factor. Tempo, pitch and formants move together, as with a smaller or larger speaker,
            and so does the band edge of narrow-band speech (16 kHz at 1.1: 8.8 kHz).
        speed_prob: share of clips whose speed changes.
        bandwidths: band limits in Hz to choose from, with soxr's transition, as in real resampled recordings.
        bandwidth_prob: share of clips whose band is limited.
        noise_db: lowest and highest level of a white noise floor, dBFS (RMS); 16-bit quantization is at -101.
        noise_prob: share of clips that get a noise floor.
    """

    gain_db: tuple[float, float] = (-12.0, 6.0)
    speed: tuple[float, float] = (0.9, 1.1)
    speed_prob: float = 0.5
    bandwidths: tuple[float, ...] = (4000.0, 5500.0, 7000.0, 8000.0, 10000.0)
    bandwidth_prob: float = 0.3
    noise_db: tuple[float, float] = (-100.0, -60.0)
    noise_prob: float = 0.5

    def __post_init__(self) -> None:
        for name in ("gain_db", "speed", "noise_db"):
            _check_range(name, getattr(self, name))
        if self.speed[0] <= 0 or min(self.bandwidths, default=1.0) <= 0:
            raise ValueError(f"speed={self.speed} and bandwidths={self.bandwidths} must be positive")
        for name in ("speed_prob", "bandwidth_prob", "noise_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}, but it is a probability")


def draw_speed(config: AugmentConfig | None, rng: np.random.Generator) -> float:
    """Draw a speed factor. The plan does so, because a clip's length depends on it."""
    if config is None or rng.random() >= config.speed_prob:
        return 1.0
    return float(rng.uniform(*config.speed))


def augment(
    wav: np.ndarray,
    rate: int,
    *,
    sample_rate: int,
    speed: float,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Change a clip at random.

    Args:
        wav: float32 [T] at `rate` Hz.
        rate: Hz.
        sample_rate: Hz of the result.
        speed: factor from `draw_speed`.
        config: the ranges.
        rng: source of randomness.

    Returns:
        float32 [T * sample_rate / rate / speed].
    """
    source = rate * speed  # playing faster is calling the samples faster
    if config.bandwidths and rng.random() < config.bandwidth_prob:
        limit = 2 * rng.choice(config.bandwidths)
        if limit < min(source, sample_rate):
            wav = resample(wav, source, limit)
            source = limit
    wav = resample(wav, source, sample_rate)
    gain = 10 ** (rng.uniform(*config.gain_db) / 20)
    wav = wav * np.float32(min(gain, PEAK / max(np.abs(wav).max(initial=0.0), 1e-9)))
    if rng.random() < config.noise_prob:
        level = np.float32(10 ** (rng.uniform(*config.noise_db) / 20))
        wav = np.clip(wav + level * rng.standard_normal(len(wav), dtype=np.float32), -1, 1)
    return wav
