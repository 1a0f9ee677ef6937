"""The adversarial stage's discriminators, all layers under spectral normalisation (MiMo-Audio, section 2.2).

Multi-period: Kong et al. 2020, "HiFi-GAN", section 2.3. Multi-scale STFT: Défossez et al. 2022, "High Fidelity Neural
Audio Compression", section 3.4. Everything keeps time on dimension 2, where the losses mask padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mimotok.model.mel import hann_window


class Judgement(NamedTuple):
    """The output of one discriminator."""

    logits: Tensor
    """[B, 1, time, width]: high where it believes the audio to be real."""
    features: list[Tensor]
    """[B, C, time, width] after each hidden layer."""


class Judgements(NamedTuple):
    """The outputs of the K discriminators, in the form of train.losses.adversarial."""

    logits: list[Tensor]
    features: list[list[Tensor]]


class Judge(Protocol):
    """What the adversarial stage asks of its discriminators, an nn.Module of K of them."""

    def __call__(self, wav: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Judge wav [B, T]. Returns `Judgements`, or a plain pair of the same.

        First K logits [B, 1, time, width], high where it sounds real, then for each of the K the features
        [B, C, time, width] of its hidden layers. Time is on dimension 2, because the losses mask padding there.
        """


def judge(discriminators: nn.Module, wav: Tensor, *, features: bool = True) -> Judgements:
    """Judge wav [B, T] by a `Judge`.

    features: whether there must be some, for the feature matching loss. Raises ValueError where the module returns
    something else.
    """
    returned = discriminators(wav)
    name = type(discriminators).__name__
    if not isinstance(returned, tuple) or len(returned) != 2 or isinstance(returned[0], Tensor) or not returned[0]:
        kind = type(returned).__name__
        raise ValueError(f"discriminators: {name} returned a {kind}; return Judgements(logits, features)")
    found = Judgements(list(returned[0]), [list(layers) for layers in returned[1]])
    for tensor in (*found.logits, *(layer for layers in found.features for layer in layers)):
        if tensor.dim() != 4 or len(tensor) != len(wav):
            shape = list(tensor.shape)
            raise ValueError(f"discriminators: {name} returned {shape}; return [batch, channels, time, width]")
    if features and (len(found.features) != len(found.logits) or not all(found.features)):
        raise ValueError(
            f"discriminators: {name} shows no features for each of its logits; return some, or set "
            "loss_weights.feature_matching to null"
        )
    return found


class PeriodDiscriminator(nn.Module):
    """A discriminator of every `period`-th sample: convolutions along time of wav folded to [time, period]."""

    def __init__(self, period: int, width: int = 32) -> None:
        """Build a discriminator.

        Args:
            period: samples.
            width: channels of the first layer; those after it have 4, 16, 32 and 32 times as many.
        """
        super().__init__()
        self.period = period
        channels = [1, *(width * factor for factor in (1, 4, 16, 32, 32))]
        strides = (3, 3, 3, 3, 1)
        self.layers = nn.ModuleList(
            _conv(c_in, c_out, (5, 1), stride=(stride, 1))
            for c_in, c_out, stride in zip(channels, channels[1:], strides, strict=False)
        )
        self.output = _conv(channels[-1], 1, (3, 1))

    def forward(self, wav: Tensor) -> Judgement:
        """Judge wav [B, T]."""
        padded = F.pad(wav[:, None], (0, -wav.shape[1] % self.period), mode="reflect")
        return _judge(padded.unflatten(2, (-1, self.period)), self.layers, self.output, slope=0.1)


class StftDiscriminator(nn.Module):
    """A discriminator of the real and imaginary parts of the STFT at one window size; the hop is a quarter of it."""

    def __init__(self, window: int, channels: int = 32, dilations: Sequence[int] = (1, 2, 4)) -> None:
        """Build a discriminator.

        Args:
            window: samples.
            channels: of each layer.
            dilations: in time, of the layers that halve the bins.
        """
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList([_conv(2, channels, (3, 9))])
        self.layers.extend(
            _conv(channels, channels, (3, 9), stride=(1, 2), dilation=(dilation, 1)) for dilation in dilations
        )
        self.layers.append(_conv(channels, channels, (3, 3)))
        self.output = _conv(channels, 1, (3, 3))

    def forward(self, wav: Tensor) -> Judgement:
        """Judge wav [B, T], at least one window long."""
        hann = hann_window(self.window, wav.device)
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                wav.float(),
                self.window,
                self.window // 4,
                window=hann / hann.norm(),
                center=False,
                return_complex=True,
            )
        # as it lies in memory this is channels-last, in which convolutions of few channels are fastest
        parts = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        return _judge(parts, self.layers, self.output, slope=0.2)


class Discriminators(nn.Module):
    """The multi-period and the multi-scale STFT discriminators together, by default in published sizes.

    Spectral normalisation runs one power iteration with each forward in training mode.
    """

    def __init__(
        self,
        *,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        period_width: int = 32,
        windows: Sequence[int] = (2048, 1024, 512, 256, 128),
        stft_channels: int = 32,
        gain: float = 1.0,
    ) -> None:
        """Build the discriminators.

        Args:
            periods: samples, one discriminator each.
            period_width: width of those.
            windows: samples, one discriminator each.
            stft_channels: width of those.
            gain: multiplies the wav (published: 1). Spectral normalisation bounds how steep a discriminator can be, so
                that quiet audio leaves it nearly blind at first; 10 brings speech near unit level.
        """
        super().__init__()
        self.settings: dict[str, Any] = {
            "periods": tuple(periods),
            "period_width": period_width,
            "windows": tuple(windows),
            "stft_channels": stft_channels,
            "gain": gain,
        }
        self.gain = gain
        self.longest = max((*periods, *windows))
        self.parts = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, period_width) for period in periods),
                *(StftDiscriminator(window, stft_channels) for window in windows),
            ]
        )

    def forward(self, wav: Tensor) -> Judgements:
        """Judge wav [B, T] at 24 kHz. Raises ValueError where T is shorter than the longest window."""
        if wav.shape[1] < self.longest:
            raise ValueError(f"{wav.shape[1]} samples: the discriminators need at least {self.longest}")
        judgements = [part(self.gain * wav) for part in self.parts]
        return Judgements([j.logits for j in judgements], [j.features for j in judgements])


def _conv(
    c_in: int,
    c_out: int,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    padding = ((kernel[0] - 1) * dilation[0] // 2, (kernel[1] - 1) * dilation[1] // 2)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation)
    # normalised layers shrink the signal so far that random biases would drown it for hundreds of steps
    nn.init.zeros_(conv.get_parameter("bias"))
    return spectral_norm(conv)


def _judge(hidden: Tensor, layers: nn.ModuleList, output: nn.Module, *, slope: float) -> Judgement:
    features = []
    for layer in layers:
        hidden = F.leaky_relu(layer(hidden), slope)
        features.append(hidden)
    return Judgement(output(hidden), features)
