"""Alignment finds the delay that was put in, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.run.alignment import align, find_delay
from tests.helpers.evaluation_speech import speech


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(delay=st.integers(-2000, 2000), gain=st.sampled_from([1.0, 0.3, -1.0]), seed=st.integers(0, 20))
def test_a_known_delay_is_found_and_removed_whatever_level_and_polarity(delay, gain, seed) -> None:
    wav = speech(1.0, seed)
    moved = gain * (np.pad(wav, (delay, 0)) if delay >= 0 else wav[-delay:])
    noisy = moved + 0.01 * np.random.default_rng(seed).standard_normal(len(moved)).astype(np.float32)
    assert find_delay(wav, noisy, 2400) == delay
    aligned = align(wav, moved, delay)
    assert aligned.shape == wav.shape
    kept = slice(max(0, -delay), None)
    np.testing.assert_allclose(aligned[kept], gain * wav[kept], atol=1e-6)


@given(original=st.integers(1, 60), returned=st.integers(1, 60), delay=st.integers(-20, 20))
def test_alignment_always_gives_the_originals_length(original, returned, delay) -> None:
    aligned = align(np.ones(original, np.float32), np.ones(returned, np.float32), delay)
    assert aligned.shape == (original,)


def test_silence_has_no_delay() -> None:
    wav = speech(1.0)
    assert find_delay(wav, np.zeros_like(wav), 2400) == 0


def test_a_delay_beyond_the_limit_is_not_found() -> None:
    wav = speech(1.0)
    assert abs(find_delay(wav, np.pad(wav, (5000, 0)), 2400)) <= 2400


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(delay=st.integers(-2000, 2000), seed=st.integers(0, 20))
def test_a_delay_is_found_without_the_waveform(delay, seed) -> None:
    """The same spectrogram with other phases, as a generative codec gives it: found to two milliseconds."""
    wav = speech(2.0, seed)
    window = torch.hann_window(512)
    spectrum = torch.stft(torch.from_numpy(wav), 512, 128, window=window, return_complex=True)
    phases = torch.polar(torch.ones(spectrum.shape), 6.3 * torch.rand(spectrum.shape[0], 1).expand(spectrum.shape))
    other = torch.istft(spectrum * phases, 512, 128, window=window, length=len(wav)).numpy()
    moved = np.pad(other, (delay, 0)) if delay >= 0 else other[-delay:]
    assert abs(find_delay(wav, moved, 2400) - delay) <= 48
