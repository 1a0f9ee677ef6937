"""The joint stage: reconstruction and audio-to-text together, everything from scratch (MiMo-Audio, section 2.2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mimotok.config import TokenizerConfig
from mimotok.text import ErrorRates, error_rates, normalize_text
from train.data.batches import Batch
from train.losses.meaning import CharacterConfig, CharacterReader, PhoneClassifier, spelling
from train.losses.semantic import SemanticConfig, SemanticReader
from train.losses.speech import SpeechFeatureLoss
from train.stages.arguments import to_plain
from train.stages.base import RECONSTRUCTION_LOSSES, Reconstruction, Stage, StageConfig
from train.stages.model import load_exported
from train.stages.optim import clip_gradients, optimize_groups, parameter_groups
from train.stages.plain import GIVEN
from train.stages.quantizers.make import make_training
from train.stages.readers import READERS, readers_of
from train.stages.sharding import replicate, shard_text_decoder, shard_tokenizer
from train.stages.text_decoder import (
    AudioToText,
    PretrainedTextDecoderConfig,
    TextDecoderConfig,
    build_text_decoder,
    load_text_decoder,
)

# Losses of what reads codes; all others train the model alone.
READ = ("text", "ctc", "phone", "characters", "semantic")
PUBLISHED_WEIGHTS = {"text": 10.0, "mel": 1.0, "commitment": 1.0}


@dataclass(frozen=True)
class QuantizerConfig:
    """How codebooks are trained.

    decay: of their moving averages. dead_code_fraction: see `TrainingQuantizer`.
    unquantized_ratio: share of clips whose latents reach the decoder as they are (as in Mimi: Defossez et al., 2024),
        which keeps the continuous latents decodable and gives the encoder an exact gradient.
    default_ratio: share of the others that uses the default number of codebooks; the rest draw 1 to all of them.
    """

    decay: float = 0.99
    dead_code_fraction: float = 0.1
    unquantized_ratio: float = 0.2
    default_ratio: float = 0.5


class JointStage(Stage):
    """Trains encoder, codebooks, decoder, vocoder and text decoder.

    Among several ranks each loss is a mean over the rank's own valid frames, clips or tokens, and gradients are means
    over ranks: a step equals one of a single process on the joined batch where the ranks hold equally much, as a
    data module's batches of equal padded seconds nearly do. Codebooks sum over all ranks, and are exact.

    loss_weights: of text, mel and commitment losses (eq. 1 and 2 by default); ctc (see TextDecoder), the
    RECONSTRUCTION_LOSSES, phone and characters (see `train.losses.meaning`), semantic (see `train.losses.semantic`)
    and speech (see `train.losses.speech`), where they have a weight. model: as in Stage. text_decoder: the shape of a
    new one, the language model that one starts from, or the folder of an exported one to go on from. characters: of
    the network that spells. semantic: of the speech encoder that is distilled. speech: of the speech feature loss.
    reader_weights: a file of `python -m train export --readers`, what phone classifier, character and semantic reader
    begin with; without it they know nothing. frozen: the model stays as it is; only what reads its codes is trained.
    """

    LOSSES = (*READ, "mel", *RECONSTRUCTION_LOSSES, "speech", "commitment")

    def __init__(
        self,
        model: str | dict[str, Any],
        *,
        loss_weights: dict[str, float | None] | None = None,
        training: StageConfig | None = None,
        text_decoder: TextDecoderConfig | PretrainedTextDecoderConfig | str | None = None,
        quantizer: QuantizerConfig | None = None,
        characters: CharacterConfig | None = None,
        semantic: SemanticConfig | None = None,
        speech: SpeechFeatureLoss | None = None,
        reader_weights: str | None = None,
        frozen: bool = False,
        losses: dict[str, Callable] | None = None,
        quantizer_training: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        super().__init__(model, loss_weights or PUBLISHED_WEIGHTS, training or StageConfig(), losses, speech)
        self.quantizer_config = quantizer or QuantizerConfig()
        self._warn_of_threshold()
        self.own_training = quantizer_training is not None
        self.quantizer = make_training(
            self.tokenizer.encoder.quantizer,
            quantizer_training,
            kind=self.tokenizer.config.quantizer,
            decay=self.quantizer_config.decay,
            dead_code_fraction=self.quantizer_config.dead_code_fraction,
        )
        # what is learned comes back by `write_back`
        self.tokenizer.encoder.quantizer.requires_grad_(False)
        learns = any(parameter.requires_grad for parameter in self.quantizer.parameters())
        average = get_ema_multi_avg_fn(self.config.optimizer.average_decay)
        self.averaged_quantizer = AveragedModel(self.quantizer, multi_avg_fn=average) if learns else None
        if self.averaged_quantizer is not None:
            self.averaged_quantizer.requires_grad_(False)
        if self.uses("ctc") and not self.uses("text"):
            raise ValueError("loss_weights: ctc is of the text decoder; give text a weight too")
        self.text_decoder = self._build_text_decoder(text_decoder) if self.uses("text") else None
        width = self.tokenizer.config.d_model
        self.phone_classifier = PhoneClassifier(width) if self.uses("phone") else None
        self.character_reader = (
            CharacterReader(width, characters or CharacterConfig()) if self.uses("characters") else None
        )
        self.semantic_reader = (
            SemanticReader(width, self.tokenizer.frame_size, self.at_rate(semantic or SemanticConfig()))
            if self.uses("semantic")
            else None
        )
        self.frozen = frozen
        if frozen:
            self._freeze()
        if reader_weights is not None:
            self._load_readers(reader_weights)
        self.sharded = False

    def _load_readers(self, path: str) -> None:
        unused = load_exported(readers_of(self), path, "reader_weights", optional=READERS)
        if unused:
            losses = f"{', '.join(unused)}, whose loss has no weight in loss_weights"
            warnings.warn(f"reader_weights={path}: goes on without its {losses}", stacklevel=3)

    def _freeze(self) -> None:
        if trained := [name for name in self.loss_weights if self.uses(name) and name not in READ]:
            raise ValueError(
                f"frozen: {', '.join(trained)} would train nothing; set the weights of these losses to null"
            )
        for module in (self.tokenizer, self.quantizer):
            module.requires_grad_(False)

    def _warn_of_threshold(self) -> None:
        threshold = self.tokenizer.config.threshold_ema_dead_code
        if threshold != TokenizerConfig.threshold_ema_dead_code:
            warnings.warn(
                f"threshold_ema_dead_code={threshold:g} has no effect: dead codes are revived by "
                f"dead_code_fraction={self.quantizer_config.dead_code_fraction:g} of QuantizerConfig",
                stacklevel=3,
            )

    def _build_text_decoder(self, source: TextDecoderConfig | PretrainedTextDecoderConfig | str | None) -> AudioToText:
        width = self.tokenizer.config.d_model
        if isinstance(source, PretrainedTextDecoderConfig):
            if self.uses("ctc"):
                raise ValueError("loss_weights: a pretrained text decoder has no CTC head; leave ctc out")
            return build_text_decoder(width, source)
        if not isinstance(source, str):
            return build_text_decoder(width, replace(source or TextDecoderConfig(), ctc=self.uses("ctc")))
        decoder = load_text_decoder(source)
        if decoder.has_ctc != self.uses("ctc"):
            has = "has" if decoder.has_ctc else "lacks"
            raise ValueError(f"text_decoder={source} {has} a CTC head: give loss_weights ctc where there is one")
        return decoder.train()

    def configure_model(self) -> None:
        """Shard the weights where the strategy is a ModelParallelStrategy. Called by Lightning on every rank.

        Raises ValueError where the optimizer is Muon: it needs whole matrices, and would gather each at each step.
        """
        mesh = self.device_mesh
        if mesh is None or self.sharded:
            return
        if self.config.optimizer.muon:
            raise ValueError("Muon needs whole matrices: set optimizer.muon to false, or the trainer's strategy to ddp")
        if self.averaged_quantizer is not None:
            raise ValueError("a quantizer that learns by gradients is not sharded: set the trainer's strategy to ddp")
        replicate(self, self.trainer.strategy.root_device)
        for tokenizer in (self.tokenizer, self.export_tokenizer()):
            shard_tokenizer(tokenizer, mesh["data_parallel"])
        if self.text_decoder is not None:
            shard_text_decoder(self.text_decoder, mesh["data_parallel"])
        self.sharded = True

    def on_fit_start(self) -> None:
        self.quantizer.synchronise()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:  # noqa: ARG002
        self.begin_step(batch)
        return self.total(self.losses(batch))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one batch by name, unweighted."""
        if self.frozen:
            return self._read(batch, *self._frozen_vectors(batch))
        latents, lengths = self.encode_mel(batch)
        coded = self.quantizer(latents, lengths, self._draw_n_q(len(batch.wav)))
        segment = self.segment(coded.quantized, lengths, batch.wav)
        wav = self.tokenizer.decoder(segment.latents, segment.lengths)
        losses = self.reconstruction_losses(wav, segment.wav, segment.samples)
        losses["commitment"] = coded.commitment_loss
        return losses | self._read(batch, coded.quantized, coded.first, lengths)

    @torch.no_grad()
    def _frozen_vectors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a model that is not trained makes of a batch: all quantized, the first codebook's, lengths."""
        latents, lengths = self.encode_mel(batch)
        quantizer = self.tokenizer.encoder.quantizer
        # the other codebooks, whose search takes longest, are for the text decoder alone
        codes = quantizer.encode(latents, 1 if self.text_decoder is None else self.tokenizer.n_q)
        return quantizer.decode(codes), quantizer.decode(codes[:, :1]), lengths

    def _read(self, batch: Batch, quantized: Tensor, first: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Compute the losses of what reads vectors [B, F, D]: of all codebooks, and of the first one alone."""
        losses: dict[str, Tensor] = {}
        if self.text_decoder is not None:
            losses |= text_losses(self.text_decoder, quantized, lengths, batch.text)
        if self.phone_classifier is not None:
            phones = self.phone_classifier.score(first, self._phone_labels(batch))
            self.log("train/phone_accuracy", phones.accuracy)
            losses["phone"] = phones.loss
        if self.character_reader is not None:
            losses["characters"] = self.character_reader.loss(first, lengths, batch.text)
        if self.semantic_reader is not None:
            losses["semantic"] = self.semantic_reader.loss(first, lengths, batch.wav, batch.lengths)
        return losses

    def _phone_labels(self, batch: Batch) -> Tensor:
        if batch.phones is None:
            raise ValueError("loss_weights: phone needs labels: give data.alignments a file of `python -m train align`")
        return batch.phones

    def _draw_n_q(self, count: int) -> Tensor:
        """Draw the codebooks in use per clip, [count]; the first clip uses all (see TrainingQuantizer)."""
        config = self.quantizer_config
        every = self.tokenizer.config.num_quantizers
        draw = torch.rand(count)
        n_q = torch.randint(1, every + 1, (count,))
        n_q[draw < config.unquantized_ratio + (1 - config.unquantized_ratio) * config.default_ratio] = (
            self.tokenizer.n_q
        )
        n_q[draw < config.unquantized_ratio] = 0
        n_q[0] = every
        return n_q.to(self.device)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.average()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        self.log("train/gradient_norm", clip_gradients(self, self.config.optimizer.gradient_clip, self.skips))

    def on_validation_start(self) -> None:
        self._publish_codebooks()

    def on_train_end(self) -> None:
        # for those who take `export_tokenizer` from here
        self._publish_codebooks()

    def _publish_codebooks(self) -> None:
        averaged: Any = self.quantizer if self.averaged_quantizer is None else self.averaged_quantizer.module
        self.quantizer.write_back(self.tokenizer.encoder.quantizer)
        averaged.write_back(self.export_tokenizer().encoder.quantizer)

    def average(self) -> None:
        """Update Stage's average, and that of the quantizer where it learns by gradients."""
        super().average()
        if self.averaged_quantizer is not None:
            self.averaged_quantizer.update_parameters(self.quantizer)

    def validate(self, latents: Tensor, lengths: Tensor, batch: Batch) -> Reconstruction:
        """Log also how the text decoder, the phone classifier and the character reader read the tokens."""
        reconstruction = super().validate(latents, lengths, batch)
        if readers_of(self):
            self._validate_first_codebook(latents, lengths, batch)
        if self.text_decoder is not None:
            texts = [text if text and normalize_text(text) else None for text in batch.text]
            texted = len(texts) - texts.count(None)
            self._log_mean(self._read_tokens(self.text_decoder, reconstruction.quantized, lengths, texts), texted)
        return reconstruction

    def _validate_first_codebook(self, latents: Tensor, lengths: Tensor, batch: Batch) -> None:
        quantizer = self.export_tokenizer().encoder.quantizer
        first = quantizer.decode(quantizer.encode(latents, 1))
        if self.phone_classifier is not None:
            phones = self.phone_classifier.score(first, self._phone_labels(batch))
            self._log_mean({"phone_loss": phones.loss, "phone_accuracy": phones.accuracy}, phones.frames)
        if self.character_reader is not None:
            texted = sum(spelling(text) is not None for text in batch.text)
            self._log_mean({"characters_loss": self.character_reader.loss(first, lengths, batch.text)}, texted)
        if self.semantic_reader is not None:
            loss = self.semantic_reader.loss(first, lengths, batch.wav, batch.lengths)
            self._log_mean({"semantic_loss": loss}, len(lengths))

    def _log_mean(self, metrics: Mapping[str, Tensor | float], weight: int) -> None:
        """Log metrics of validation that count `weight` in their mean; every rank logs where one has any weight."""
        if self.trainer.strategy.reduce(torch.tensor(weight, device=self.device), reduce_op="sum") > 0:
            for name, value in metrics.items():
                self.log(f"val/{name}", value, batch_size=weight, sync_dist=True)

    def _read_tokens(
        self, decoder: AudioToText, quantized: Tensor, lengths: Tensor, texts: list[str | None]
    ) -> dict[str, Tensor | float]:
        texted = [i for i, text in enumerate(texts) if text]
        losses = text_losses(decoder, quantized, lengths, texts)
        # also without a text: where weights are sharded, they are gathered from every rank
        heard = decoder.transcribe(quantized[texted or [0]], lengths[texted or [0]])
        rates = error_rates([texts[i] or "" for i in texted], heard) if texted else ErrorRates(0.0, 0.0)
        return {**{f"{name}_loss": loss for name, loss in losses.items()}, **rates._asdict()}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return nn.Module's, in which the model carries the codebooks of this very step."""
        self._publish_codebooks()
        return super().state_dict(*args, **kwargs)

    def facts(self) -> dict[str, Any]:
        """Return as Stage's, and the text decoder's sizes."""
        if self.text_decoder is None:
            return super().facts()
        return super().facts() | {"text_decoder": asdict(self.text_decoder.config)}

    def hyperparameters(self) -> dict[str, Any]:
        """Return as Stage's, and the settings of what else is trained."""
        saved = super().hyperparameters() | {"quantizer": to_plain(self.quantizer_config)}
        if self.text_decoder is not None:
            saved["text_decoder"] = asdict(self.text_decoder.config)
        if self.character_reader is not None:
            saved["characters"] = to_plain(self.character_reader.config)
        if self.semantic_reader is not None:
            saved["semantic"] = to_plain(self.semantic_reader.config)
        if self.frozen:
            saved["frozen"] = True
        if self.own_training:
            saved[GIVEN] = [*saved[GIVEN], "quantizer_training"]
        return saved

    def configure_optimizers(self) -> Any:
        config = self.config.optimizer
        groups = parameter_groups(self.tokenizer, config) + parameter_groups(self.quantizer, config)
        if self.text_decoder is not None:
            groups += self.text_decoder.parameter_groups(config)
        for reader in readers_of(self).values():
            groups += parameter_groups(reader, config)
        return optimize_groups(groups, config)


def text_losses(decoder: AudioToText, quantized: Tensor, lengths: Tensor, texts: list[str | None]) -> dict[str, Tensor]:
    """Compute eq. 1, and CTC where the decoder has it, over the clips that have a text; zero where none has.

    quantized: [B, F, D], lengths: [B] frames.
    """
    texted = [i for i, text in enumerate(texts) if text]
    # an empty text where there is none: among several ranks, every parameter must take part in each step of each
    used = texted or [0]
    losses = decoder(quantized[used], lengths[used], [texts[i] or "" for i in used])._asdict()
    return {name: loss if texted else 0 * loss for name, loss in losses.items() if loss is not None}
