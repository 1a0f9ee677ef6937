"""How far the encoder and the decoder see: the frames before and after a stretch that its result depends on.

Each stage adds its own reach, from the output back to the input. A frame count at one rate becomes a count at a rate
`s` times lower by ceil(frames / s), and nested ceilings collapse: ceil((ceil(m / s) + h) / p) = ceil((m + h s) / (s
p)). So reaches are summed at the finest rate and divided once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mimotok.config import TokenizerConfig, Window
from mimotok.model.lengths import frames_needed


class Reach(NamedTuple):
    """Frames before (left) and after (right) a stretch of frames that its result depends on."""

    left: int
    right: int

    def plus(self, other: Reach) -> Reach:
        """Return the reach of two stages, one after the other."""
        return Reach(self.left + other.left, self.right + other.right)

    def at_rate(self, divisor: int) -> Reach:
        """Return the reach in frames that are `divisor` times as long."""
        return Reach(frames_needed(self.left, divisor), frames_needed(self.right, divisor))

    def upsampled(self, factor: int) -> Reach:
        """Return the reach in frames that are `factor` times as short."""
        return Reach(self.left * factor, self.right * factor)


def window_reach(windows: Sequence[Window]) -> Reach:
    """Return the reach of a stack of layers with these bounded attention windows."""
    return Reach(sum(left for left, _ in windows), sum(right for _, right in windows))


def stem_reach(stride: int) -> Reach:
    """Return the reach of the encoder's two convolutions in frames of its output.

    Output frame j owns the mel frames j s to j s + s - 1 and reads the mel frames j s - 2 to j s + 2.
    """
    return Reach(frames_needed(2, stride), frames_needed(3, stride) - 1)


def istft_reach(n_fft: int, hop_length: int) -> Reach:
    """Return the reach of the inverse STFT with "same" padding in spectrum frames, per hop of samples.

    Frame f covers n_fft samples from f hop - crop on, where crop = (n_fft - hop) / 2 samples are cut off the start.
    """
    crop = (n_fft - hop_length) // 2
    return Reach(frames_needed(n_fft - crop, hop_length) - 1, frames_needed(crop, hop_length))


def encoder_reach(config: TokenizerConfig) -> Reach:
    """Return what a latent depends on, in code frames. The windows must be bounded."""
    return stem_reach(config.stride_size).plus(window_reach(config.encoder_windows())).at_rate(config.avg_pooler)


def encoder_lag(config: TokenizerConfig) -> int:
    """Return by how many frames the encoder's stack lags behind its input in a stream, in frames of the stack."""
    return stem_reach(config.stride_size).right + window_reach(config.encoder_windows()).right


def decoder_reach(config: TokenizerConfig) -> Reach:
    """Return what a sample depends on, in mel frames. The windows must be bounded."""
    past = frames_needed(config.decoder_kernel_size, config.decoder_stride_size) - 1
    hidden = window_reach(config.decoder_windows()).plus(Reach(past, 0))
    mel = istft_reach(config.n_fft, config.hop_length).plus(window_reach(config.vocoder_windows()))
    return mel.plus(hidden.upsampled(config.decoder_stride_size))
