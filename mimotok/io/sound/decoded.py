"""Sound that another library has decoded: what `torchaudio.load` returned, a torchcodec decoder or its samples."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor


@runtime_checkable
class AudioSamples(Protocol):
    """What torchcodec returns: float [C, T] and its rate in Hz."""

    @property
    def data(self) -> Tensor:
        """Samples, float [C, T]."""
        ...

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        ...


@runtime_checkable
class AudioDecoder(Protocol):
    """A decoder of torchcodec."""

    @property
    def metadata(self) -> Any:
        """What the file says of itself."""
        ...

    def get_all_samples(self) -> AudioSamples:
        """Decode the whole sound."""
        ...


Decoded = tuple[Tensor, int] | AudioSamples | AudioDecoder


class Channels(NamedTuple):
    """Samples float32 [T, C], and their rate in Hz."""

    samples: np.ndarray
    sample_rate: int


def decoded_channels(source: Decoded) -> Channels:
    """Return the samples that another library decoded.

    Args:
        source: (waveform [C, T] or [T], rate), or samples or a decoder of torchcodec. A decoder that resamples or mixes
            channels itself gives codes other than the file's, of which a warning tells.

    Raises:
        ValueError: for another shape, integers, no samples, or a rate that is no whole number of Hz.
    """
    if isinstance(source, AudioDecoder):
        samples = source.get_all_samples()
        _warn_of_changes(source, samples)
        return decoded_channels(samples)
    waveform, rate = (source.data, source.sample_rate) if isinstance(source, AudioSamples) else source
    if not isinstance(waveform, Tensor) or waveform.dim() not in (1, 2):
        shape = list(getattr(waveform, "shape", []))
        raise ValueError(f"a decoded sound is (waveform, rate), where the waveform is a tensor [C, T], not {shape}")
    if not waveform.is_floating_point():
        raise ValueError(f"the waveform has dtype {waveform.dtype}: load it with normalize=True, as floats in [-1, 1]")
    if waveform.numel() == 0:
        raise ValueError(f"the waveform has shape {list(waveform.shape)}: no audio in it")
    if int(rate) != rate:
        raise ValueError(f"the rate is {rate} Hz, but it is a whole number")
    channels = waveform.detach().cpu().float().reshape(-1, waveform.shape[-1])
    return Channels(np.ascontiguousarray(channels.numpy().T), int(rate))


def _warn_of_changes(decoder: AudioDecoder, samples: AudioSamples) -> None:
    """Warn where a decoder did what `load_audio` does otherwise."""
    rate = samples.sample_rate
    channels = samples.data.shape[0]
    stored_rate = getattr(decoder.metadata, "sample_rate", None)
    stored_channels = getattr(decoder.metadata, "num_channels", None)
    if stored_rate is not None and stored_rate != rate:
        warnings.warn(
            f"the decoder resampled from {stored_rate} to {rate} Hz by another filter than load_audio, "
            "which changes codes: make it without sample_rate",
            stacklevel=4,
        )
    if stored_channels is not None and stored_channels != channels:
        warnings.warn(
            f"the decoder mixed {stored_channels} channels to {channels} at another level than load_audio, "
            "which changes codes: make it without num_channels",
            stacklevel=4,
        )
