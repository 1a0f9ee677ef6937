"""The adversarial stage: decoder and vocoder against discriminators, encoder and codebooks frozen (section 2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from train.data.batches import Batch
from train.losses.adversarial import Valid, adversarial_loss, discriminator_loss, feature_matching_loss
from train.losses.discriminators import Discriminators, Judgements, judge
from train.losses.speech import SpeechFeatureLoss
from train.stages.arguments import to_plain
from train.stages.base import RECONSTRUCTION_LOSSES, Segment, Stage, StageConfig
from train.stages.model import load_exported
from train.stages.optim import OptimizerConfig, SkipCounter, clip_gradients, make_optimizer
from train.stages.plain import GIVEN

PUBLISHED_WEIGHTS = {"mel": 1.0, "adversarial": 1.0, "feature_matching": 2.0}


class AdversarialStage(Stage):
    """The stage that trains decoder and vocoder; codes of the model that it starts from stay valid.

    One step updates the discriminators, then the generator; step counts are the generator's. Where neither the
    adversarial nor the feature matching loss has a weight, discriminators are neither asked nor trained.

    Args:
        model: as in Stage.
        loss_weights: of mel, adversarial and feature_matching losses (eq. 7 by default); the RECONSTRUCTION_LOSSES and
            speech (see `train.losses.speech`) where they have a weight.
        training: as in Stage.
        discriminators: the usual ones, or an nn.Module of your own that returns what `Judge` says.
        discriminator_weights: a file of `python -m train export --discriminators`, what they begin with; without it
            they know nothing.
        discriminator_optimizer: without weight decay by default, as published.
        default_ratio: share of clips decoded from the default number of codebooks; the others draw 1 to all of them.
        losses: as in Stage.
        speech: as in Stage.
    """

    LOSSES = ("mel", *RECONSTRUCTION_LOSSES, "speech", "adversarial", "feature_matching")

    def __init__(
        self,
        model: str | dict[str, Any],
        *,
        loss_weights: dict[str, float | None] | None = None,
        training: StageConfig | None = None,
        discriminators: Discriminators | nn.Module | None = None,
        discriminator_weights: str | None = None,
        discriminator_optimizer: OptimizerConfig | None = None,
        default_ratio: float = 0.7,
        losses: dict[str, Callable] | None = None,
        speech: SpeechFeatureLoss | None = None,
    ) -> None:
        super().__init__(model, loss_weights or PUBLISHED_WEIGHTS, training or StageConfig(), losses, speech)
        self.automatic_optimization = False
        self.tokenizer.encoder.requires_grad_(False)
        self.discriminators = discriminators or Discriminators()
        if discriminator_weights is not None:
            load_exported(self.discriminators, discriminator_weights, "discriminator_weights")
        self.discriminator_config = discriminator_optimizer or OptimizerConfig(muon=False, weight_decay=0.0)
        # of their own: a finite step of theirs must not end a row of the generator's that are not
        self.discriminator_skips = SkipCounter(self.discriminator_config.max_skipped)
        self.default_ratio = default_ratio

    def configure_model(self) -> None:
        """Refuse to shard. Called by Lightning. Raises ValueError under a ModelParallelStrategy."""
        if self.device_mesh is not None:
            raise ValueError("the adversarial stage cannot shard its weights: set the trainer's strategy to ddp")

    def setup(self, stage: str | None = None) -> None:
        """Check the data's rate, and that the trainer fits a stage with two optimizers. Called by Lightning.

        Raises ValueError where it does not: for loss scaling, and checkpoints by the clock.
        """
        super().setup(stage)
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                f"precision={self.trainer.precision}: the adversarial stage has two optimizers and no loss scaling; "
                "give bf16-mixed or 32-true"
            )
        for callback in self.trainer.checkpoint_callbacks:
            if getattr(callback, "_train_time_interval", None) is not None:
                raise ValueError(
                    "train_time_interval: Lightning saves nothing by the clock where a stage has two optimizers; give "
                    "ModelCheckpoint every_n_train_steps"
                )
        if isinstance(self.trainer.strategy, DDPStrategy):
            # each of the two backward passes of a step has gradients for one of the two networks alone
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def training_step(self, batch: Batch, batch_index: int) -> None:  # noqa: ARG002
        """Train the discriminators, then the generator. Called by Lightning."""
        self.begin_step(batch)
        segment = self._segment(batch)
        wav = self.tokenizer.decoder(segment.latents, segment.lengths)
        valid = Valid(segment.lengths, segment.latents.shape[1])
        if self.is_judged():
            self._train_discriminators(segment.wav, wav.detach(), valid)
        self._train_generator(segment, wav, valid)
        self.average()

    @torch.no_grad()
    def _segment(self, batch: Batch) -> Segment:
        latents, lengths = self.encode_mel(batch)
        quantizer = self.tokenizer.encoder.quantizer
        every = self.tokenizer.config.num_quantizers
        codes = quantizer.encode(latents, every)
        n_q = torch.randint(1, every + 1, (len(codes),))
        n_q[torch.rand(len(codes)) < self.default_ratio] = self.tokenizer.n_q
        in_use = torch.arange(every, device=codes.device) < n_q.to(codes.device)[:, None]
        # a code below 0 is of a codebook that is not in use
        quantized = quantizer.decode(torch.where(in_use[..., None], codes, -1))
        return self.segment(quantized, lengths, batch.wav)

    def _train_discriminators(self, real: Tensor, fake: Tensor, valid: Valid) -> None:
        _, optimizer = self._optimizers()
        loss = discriminator_loss(self._judge(real).logits, self._judge(fake).logits, valid)
        self.log("train/discriminator_loss", loss.detach())
        self.log("train/skipped_discriminator_steps", float(self.discriminator_skips.total))
        optimizer.zero_grad()
        self.manual_backward(loss)
        clip_gradients(self.discriminators, self.discriminator_config.gradient_clip, self.discriminator_skips)
        # the wrapped optimizer: Lightning would count this as a step of its own
        optimizer.optimizer.step()

    def _train_generator(self, segment: Segment, wav: Tensor, valid: Valid) -> None:
        optimizer, _ = self._optimizers()
        self.discriminators.requires_grad_(False)
        losses = self.reconstruction_losses(wav, segment.wav, segment.samples)
        if self.is_judged():
            losses |= self._judged_losses(segment.wav, wav, valid)
        optimizer.zero_grad()
        self.manual_backward(self.total(losses))
        self.discriminators.requires_grad_(True)
        norm = clip_gradients(self.tokenizer.decoder, self.config.optimizer.gradient_clip, self.skips)
        self.log("train/gradient_norm", norm)
        optimizer.step()
        schedule, discriminator_schedule = cast(list, self.lr_schedulers())
        schedule.step()
        if self.is_judged():
            discriminator_schedule.step()

    def is_judged(self) -> bool:
        """Return whether a loss asks the discriminators."""
        return self.uses("adversarial") or self.uses("feature_matching")

    def _judged_losses(self, real: Tensor, wav: Tensor, valid: Valid) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = self._judge(real)
        judged = self._judge(wav)
        losses = {"adversarial": adversarial_loss(judged.logits, valid)}
        # discriminators of one's own may have no features to show
        if self.uses("feature_matching"):
            losses["feature_matching"] = feature_matching_loss(wanted.features, judged.features, valid)
        return losses

    def _judge(self, wav: Tensor) -> Judgements:
        return judge(self.discriminators, wav, features=self.uses("feature_matching"))

    def _optimizers(self) -> list[Any]:
        return cast(list, self.optimizers())

    def hyperparameters(self) -> dict[str, Any]:
        """Return as Stage's, and what is set beside. Discriminators of another class must be given when loading."""
        saved = super().hyperparameters() | {
            "discriminator_optimizer": to_plain(self.discriminator_config),
            "default_ratio": self.default_ratio,
        }
        if type(self.discriminators) is Discriminators:
            saved["discriminators"] = to_plain(self.discriminators.settings)
        else:
            saved[GIVEN] = [*saved[GIVEN], "discriminators"]
        return saved

    def configure_optimizers(self) -> Any:
        """Return the optimizers of generator and discriminators. Called by Lightning."""
        return [
            make_optimizer([self.tokenizer.decoder], self.config.optimizer),
            make_optimizer([self.discriminators], self.discriminator_config),
        ]
