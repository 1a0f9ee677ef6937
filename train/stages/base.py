"""What both stages share: the model and its moving average, segments and validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mimotok.config import TokenizerConfig
from mimotok.model.mel import log_mel
from mimotok.tokenizer import Tokenizer
from train.data.batches import Batch
from train.losses.perceptual import disturbance_loss, stoi_loss
from train.losses.spectral import MelLoss, complex_loss, stft_loss
from train.losses.speech import SpeechFeatureLoss, Teacher
from train.stages.arguments import to_plain
from train.stages.callbacks import CheckpointFacts, ClipsInTensorBoard, CodeUsageMonitor
from train.stages.model import build_tokenizer
from train.stages.optim import OptimizerConfig, SkipCounter
from train.stages.plain import GIVEN, PlainLoading
from train.stages.usage import CodeUsage

TeacherT = TypeVar("TeacherT", bound=Teacher)

# Losses beside the mel loss, which has settings of its own.
RECONSTRUCTION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "stft": stft_loss,
    "complex": complex_loss,
    "disturbance": disturbance_loss,
    "stoi": stoi_loss,
}
# Of these, the ones that filter by frequency.
AT_A_RATE = ("disturbance", "stoi")


class ReconstructionLoss(Protocol):
    """A loss between decoded and original sound: a function, an object or an nn.Module."""

    def __call__(self, wav: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """Return a scalar of wav [B, T], target [B, T] and lengths [B] samples, beyond which nothing must count."""


class Reconstruction(NamedTuple):
    """A validation batch: codes of all codebooks [B, n_q, F], their lengths [B], quantized [B, F, D], wav [B, T]."""

    codes: Tensor
    lengths: Tensor
    quantized: Tensor
    wav: Tensor


class Segment(NamedTuple):
    """An excerpt of each clip: latents [B, S, D], valid lengths [B], wav [B, S * frame_size], valid samples [B]."""

    latents: Tensor
    lengths: Tensor
    wav: Tensor
    samples: Tensor


@dataclass(frozen=True)
class StageConfig:
    """Settings of both stages.

    Attributes:
        mel_loss: scales and exponents of the mel loss.
        optimizer: of the tokenizer.
        segment_seconds: length of the excerpt of each clip that is decoded; the encoder always sees whole clips.
        compile: whether to run the Transformer stacks through torch.compile.
        seed: of all random choices of a step.
    """

    mel_loss: MelLoss = field(default_factory=MelLoss)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    segment_seconds: float = 2.4
    compile: bool = False
    seed: int = 0


class Stage(PlainLoading):
    """The base of both stages; a subclass computes losses and chooses what is trained.

    Args:
        model: folder or hub id to start from, or a config.json or its keys to start from scratch; among these keys,
            `base` may name a config.json that the others change.
        loss_weights: by name, of the LOSSES of the stage; a loss without a weight, or with None, trains nothing.
        config: settings.
        losses: of your own, by name, see `ReconstructionLoss`; a weight of that name puts one to use.
        speech: of the speech feature loss.

    Raises:
        ValueError: for an unknown loss, and for one of your own with the name of another.
    """

    LOSSES: tuple[str, ...] = ()

    def __init__(
        self,
        model: str | dict[str, Any],
        loss_weights: Mapping[str, float | None],
        config: StageConfig,
        losses: Mapping[str, Callable] | None = None,
        speech: SpeechFeatureLoss | None = None,
    ) -> None:
        super().__init__()
        self.own_losses = dict(losses or {})
        self._check_names(loss_weights)
        # on the stage's device; frozen, since a loss that learns would learn to be small
        modules = {name: loss for name, loss in self.own_losses.items() if isinstance(loss, nn.Module)}
        self.own_modules = nn.ModuleDict(modules).requires_grad_(False)
        self.tokenizer = build_tokenizer(model)
        # losses hear what the model makes
        config = replace(config, mel_loss=config.mel_loss.at_rate(self.tokenizer.sample_rate))
        self.loss_weights = {name: weight for name, weight in loss_weights.items() if weight is not None}
        self.speech_loss = self.at_rate(speech or SpeechFeatureLoss()) if self.uses("speech") else None
        self.config = config
        self.segment_frames = round(config.segment_seconds * self.tokenizer.frame_rate)
        if self.segment_frames < 1:
            frame = 1 / self.tokenizer.frame_rate
            raise ValueError(f"segment_seconds={config.segment_seconds}: give at least one frame, {frame:g} s")
        average = get_ema_multi_avg_fn(config.optimizer.average_decay)
        self.averaged = AveragedModel(self.tokenizer, multi_avg_fn=average)
        self.averaged.requires_grad_(False)
        self.skips = SkipCounter(config.optimizer.max_skipped)
        self.audio_seconds = 0.0
        self._started = time.perf_counter()
        if config.compile:
            self._compile()

    def at_rate(self, teacher: TeacherT) -> TeacherT:
        """Return a teacher that hears sound at the model's sample rate."""
        rate = self.tokenizer.sample_rate
        return teacher if teacher.sample_rate == rate else replace(teacher, sample_rate=rate)

    def _check_names(self, loss_weights: Mapping[str, float | None]) -> None:
        if clashing := set(self.own_losses) & {*self.LOSSES, *RECONSTRUCTION_LOSSES}:
            raise ValueError(
                f"losses: {', '.join(sorted(clashing))} is a loss of this package; give yours another name"
            )
        known = [*self.LOSSES, *self.own_losses]
        if unknown := set(loss_weights) - set(known):
            raise ValueError(
                f"loss_weights: {', '.join(sorted(unknown))}; this stage has {', '.join(known)}, and losses adds others"
            )

    def _compile(self) -> None:
        for stack in self.tokenizer.stacks():
            stack.compile(dynamic=True)

    def uses(self, loss: str) -> bool:
        """Return whether this loss has a weight."""
        return self.loss_weights.get(loss, 0.0) > 0

    def checkpoint_bytes(self) -> int:
        """Estimate the size of a checkpoint: weights, their moving average, codebooks and the optimizers' states."""
        optimizers: Any = self.configure_optimizers()
        if not isinstance(optimizers, list):
            optimizers = [optimizers]
        states = sum(one["optimizer"].state_bytes() for one in optimizers)
        return states + sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    def export_tokenizer(self) -> Tokenizer:
        """Return the model with averaged weights, as evaluated and exported."""
        return cast(Tokenizer, self.averaged.module)

    def begin_step(self, batch: Batch) -> None:
        """Seed the step by its number, so that a resumed run repeats an uninterrupted one, and count the audio."""
        self.audio_seconds += self._seconds(batch)
        step = self.config.seed * 1_000_003 + self.global_step
        torch.manual_seed(step * self.trainer.world_size + self.global_rank)

    def _seconds(self, batch: Batch) -> float:
        return float(batch.lengths.sum()) / self.tokenizer.sample_rate * self.trainer.world_size

    def average(self) -> None:
        """Update the averaged weights.

        This is part of the step: Lightning saves checkpoints before `on_train_batch_end`.
        """
        self.averaged.update_parameters(self.tokenizer)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum, and log each loss by name."""
        self.log_dict({f"train/{name}_loss": loss.detach() for name, loss in losses.items()})
        weighted = [self.loss_weights[name] * loss for name, loss in losses.items() if self.uses(name)]
        if not weighted:
            raise ValueError(f"loss_weights={self.loss_weights}: nothing to train; give one of them more than 0")
        return torch.stack(weighted).sum()

    def segment(self, latents: Tensor, lengths: Tensor, wav: Tensor) -> Segment:
        """Choose a random excerpt of each clip.

        Args:
            latents: [B, F, D].
            lengths: [B] frames.
            wav: [B, T], zero past its end.
        """
        size = min(self.segment_frames, latents.shape[1])
        samples = self.tokenizer.frame_size
        room = (lengths - size).clamp(min=0)
        start = (torch.rand(len(lengths)).to(room.device) * (room + 1)).long()
        frames = start[:, None] + torch.arange(size, device=start.device)
        latents = latents.gather(1, frames[..., None].expand(-1, -1, latents.shape[2]))
        wav = F.pad(wav, (0, max(0, int((start + size).max()) * samples - wav.shape[1])))
        index = (start * samples)[:, None] + torch.arange(size * samples, device=start.device)
        lengths = lengths.clamp(max=size)
        return Segment(latents, lengths, wav.gather(1, index), lengths * samples)

    def reconstruction_losses(self, wav: Tensor, target: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Compute the mel loss, the RECONSTRUCTION_LOSSES, speech and one's own, those that have a weight.

        Args:
            wav: [B, T], decoded.
            target: [B, T].
            lengths: [B] samples.
        """
        functions: dict[str, Callable[..., Tensor]] = {"mel": self.config.mel_loss, **RECONSTRUCTION_LOSSES}
        rate = self.tokenizer.sample_rate
        functions |= {name: partial(functions[name], sample_rate=rate) for name in AT_A_RATE}
        losses = {name: loss(wav, target, lengths) for name, loss in functions.items() if self.uses(name)}
        if self.speech_loss is not None:
            losses["speech"] = self.speech_loss(wav, target, lengths)
        for name, loss in self.own_losses.items():
            if self.uses(name):
                losses[name] = _checked_loss(name, loss(wav, target, lengths))
        return losses

    def encode_mel(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode whole clips, with gradients. Returns latents [B, F, D] and their lengths [B]."""
        mel, mel_lengths = log_mel(batch.wav, batch.lengths, self.tokenizer.config)
        return self.tokenizer.encoder(mel, mel_lengths), self.tokenizer.num_frames(batch.lengths)

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Check that the data has the model's sample rate. Called by Lightning. Raises ValueError where it has not."""
        rate = getattr(getattr(self.trainer, "datamodule", None), "sample_rate", None)
        if rate is not None and rate != self.tokenizer.sample_rate:
            raise ValueError(
                f"data.sample_rate={rate}, but the model is of {self.tokenizer.sample_rate} Hz: give the data that rate"
            )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:  # noqa: ARG002
        """Log the speed and the skipped steps. Called by Lightning."""
        now = time.perf_counter()
        self.log("audio_s_per_s", self._seconds(batch) / (now - self._started))
        self.log("train/skipped_steps", float(self.skips.total))
        self._started = now

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks that every run of a stage has. Called by Lightning."""
        usage = CodeUsage(self.tokenizer.codebook_sizes)
        return [CodeUsageMonitor(usage), ClipsInTensorBoard(), CheckpointFacts(usage)]

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:  # noqa: ARG002
        """Validate a batch with the averaged weights. Called by Lightning."""
        latents, lengths = self.export_tokenizer().encode_latents(batch.wav, batch.lengths)
        return self.validate(latents, lengths, batch)._asdict()

    def validate(self, latents: Tensor, lengths: Tensor, batch: Batch) -> Reconstruction:
        """Log the reconstruction of whole clips with the default codebooks and with none.

        latents: [B, F, D], lengths: [B] frames.
        """
        model = self.export_tokenizer()
        codes = model.encoder.quantizer.encode(latents, model.config.num_quantizers)
        quantized = model.encoder.quantizer.decode(codes[:, : model.n_q])
        target = F.pad(batch.wav, (0, max(0, latents.shape[1] * model.frame_size - batch.wav.shape[1])))
        for kind, hidden in (("unquantized_", latents), ("", quantized)):
            wav = model.decoder(hidden, lengths)
            losses = self.reconstruction_losses(wav, target[:, : wav.shape[1]], batch.lengths)
            for name, loss in losses.items():
                self.log(f"val/{kind}{name}_loss", loss, batch_size=len(wav), sync_dist=True)
        return Reconstruction(codes, lengths, quantized, wav)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint stores about this stage beside its weights."""
        return {"config": self.tokenizer.config.to_official(), "audio_hours": self.audio_seconds / 3600}

    def hyperparameters(self) -> dict[str, Any]:
        """Return the arguments that build this stage again, as plain values.

        The model is its sizes: the weights come from the checkpoint, wherever the first ones lay.
        """
        saved = {
            "model": self.tokenizer.config.to_official(),
            "loss_weights": dict(self.loss_weights),
            "training": to_plain(self.config),
            GIVEN: ["losses"] if self.own_losses else [],
        }
        if self.speech_loss is not None:
            saved["speech"] = to_plain(self.speech_loss)
        return saved

    @classmethod
    def check_saved(cls, saved: dict[str, Any], state: dict[str, Any]) -> None:
        """Check that the weights have the sizes of the saved configuration. Raises RuntimeError or ValueError."""
        config = saved.get("model")
        if isinstance(config, dict):
            with torch.device("meta"):
                expected = Tokenizer(TokenizerConfig.from_official(config)).state_dict()
            sizes = {name: getattr(state.get(f"tokenizer.{name}"), "shape", None) for name in expected}
            wrong = [name for name, tensor in expected.items() if sizes[name] != tensor.shape]
            if wrong:
                raise ValueError(f"the checkpoint does not hold the weights of its configuration, e.g. {wrong[0]}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the arguments, for `load_from_checkpoint`. Called by Lightning."""
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = self.hyperparameters()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights as nn.Module does. Raises ValueError where `state_dict` is of a model of another shape."""
        try:
            return super().load_state_dict(state_dict, *args, **kwargs)
        except RuntimeError as error:
            problem = " ".join(str(error).split())
            raise ValueError(f"the checkpoint is of another model than the config's: {problem:.300}") from error

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the count of audio. Called by Lightning. Raises ValueError where the checkpoint has none."""
        facts = checkpoint.get("mimotok")
        hours = facts.get("audio_hours") if isinstance(facts, dict) else None
        if not isinstance(hours, float | int):
            raise ValueError("the checkpoint is not one that a run of ours wrote: it does not count its audio")
        self.audio_seconds = hours * 3600


def _checked_loss(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 0:
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"losses: {name} returned {shape}; return a tensor of one number, such as a mean")
    return value
