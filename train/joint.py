"""The joint stage: reconstruction and audio-to-text together, everything from scratch (MiMo-Audio, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mimotok.mel import log_mel
from mimotok.tokenizer import Tokenizer
from mimotok.training_quantizer import TrainingQuantizer
from train.data import Batch
from train.losses import MelLoss, complex_loss
from train.model import build_tokenizer
from train.optim import OptimizerConfig, SkipCounter, clip_gradients, make_optimizer
from train.text import error_rates
from train.text_decoder import TextDecoder, TextDecoderConfig
from train.usage import CodeUsage


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


class Segment(NamedTuple):
    """A stretch of each clip: latents [B, S, D], their valid lengths [B], wav [B, S * frame_size]."""

    latents: Tensor
    lengths: Tensor
    wav: Tensor


class JointStage(lightning.LightningModule):
    """Trains encoder, codebooks, decoder, vocoder and text decoder.

    model: folder to start from, or a config.json to start from scratch.
    loss_weights: of text, mel, commitment and complex losses; a loss without a weight is not computed.
    segment_seconds: length of the stretch of each clip that is decoded; the encoder always sees whole clips.
    compile: run the Transformer blocks through torch.compile.
    """

    def __init__(
        self,
        model: str,
        *,
        text_decoder: TextDecoderConfig | None = None,
        quantizer: QuantizerConfig | None = None,
        mel_loss: MelLoss | None = None,
        optimizer: OptimizerConfig | None = None,
        loss_weights: dict[str, float] | None = None,
        segment_seconds: float = 2.4,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer(model)
        self.quantizer_config = quantizer or QuantizerConfig()
        self.quantizer = TrainingQuantizer(
            self.tokenizer.encoder.quantizer,
            decay=self.quantizer_config.decay,
            dead_code_fraction=self.quantizer_config.dead_code_fraction,
        )
        self.loss_weights = loss_weights or {"text": 10.0, "mel": 1.0, "commitment": 1.0}
        self.text_decoder = TextDecoder(self.tokenizer.config.d_model, text_decoder) if self._has("text") else None
        self.mel_loss = mel_loss or MelLoss()
        self.optimizer_config = optimizer or OptimizerConfig()
        self.skips = SkipCounter(self.optimizer_config.max_skipped)
        decay = get_ema_multi_avg_fn(self.optimizer_config.average_decay)
        self.averaged = AveragedModel(self.tokenizer, multi_avg_fn=decay)
        self.averaged.requires_grad_(False)
        self.segment_frames = round(segment_seconds * self.tokenizer.frame_rate)
        self.seed = seed
        self.usage = CodeUsage(self.tokenizer.codebook_sizes)
        if compile:
            for stack in (self.tokenizer.encoder.layers, self.tokenizer.decoder.layers):
                stack.compile(dynamic=True)
            self.tokenizer.decoder.vocoder.layers.compile(dynamic=True)

    def _has(self, loss: str) -> bool:
        return self.loss_weights.get(loss, 0.0) > 0

    def on_fit_start(self) -> None:
        self.quantizer.synchronise()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        # all randomness of a step follows from its number: a resumed run repeats an uninterrupted one
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * self.trainer.world_size + self.global_rank)
        losses = self.losses(batch)
        total = sum((self.loss_weights[name] * loss for name, loss in losses.items()), batch.wav.new_zeros(()))
        self.log_dict({f"train/{name}_loss": loss.detach() for name, loss in losses.items()})
        self.log("train/loss", total.detach())
        self.log("train/audio_seconds", batch.lengths.sum() / self.tokenizer.sample_rate, reduce_fx="sum")
        return total

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch by name, unweighted."""
        mel, mel_lengths = log_mel(batch.wav, batch.lengths, self.tokenizer.config)
        latents, lengths = self.tokenizer.encoder(mel, mel_lengths)
        quantized, _, commitment_loss = self.quantizer(latents, lengths, self._draw_n_q(len(batch.wav)))
        segment = self._segment(quantized, lengths, batch.wav)
        wav = self.tokenizer.decoder(segment.latents, segment.lengths)
        samples = segment.lengths * self.tokenizer.frame_size
        losses = {"mel": self.mel_loss(wav, segment.wav, samples), "commitment": commitment_loss}
        if self._has("complex"):
            losses["complex"] = complex_loss(wav, segment.wav, samples)
        if self._has("text"):
            losses["text"] = self._text_loss(quantized, lengths, batch.text)
        return losses

    def _draw_n_q(self, count: int) -> Tensor:
        """Codebooks in use per clip, [count]; the first clip uses all (see TrainingQuantizer)."""
        config, all_books = self.quantizer_config, self.tokenizer.config.num_quantizers
        draw = torch.rand(count)
        n_q = torch.randint(1, all_books + 1, (count,))
        n_q[draw < config.unquantized_ratio + (1 - config.unquantized_ratio) * config.default_ratio] = (
            self.tokenizer.n_q
        )
        n_q[draw < config.unquantized_ratio] = 0
        n_q[0] = all_books
        return n_q.to(self.device)

    def _segment(self, latents: Tensor, lengths: Tensor, wav: Tensor) -> Segment:
        size, samples = min(self.segment_frames, latents.shape[1]), self.tokenizer.frame_size
        room = (lengths - size).clamp(min=0)
        start = (torch.rand(len(lengths)).to(room.device) * (room + 1)).long()
        frames = start[:, None] + torch.arange(size, device=start.device)
        latents = latents.gather(1, frames[..., None].expand(-1, -1, latents.shape[2]))
        wav = F.pad(wav, (0, max(0, int(lengths.max()) * samples - wav.shape[1])))
        index = (start * samples)[:, None] + torch.arange(size * samples, device=start.device)
        return Segment(latents, lengths.clamp(max=size), wav.gather(1, index.clamp(max=wav.shape[1] - 1)))

    def _text_loss(self, quantized: Tensor, lengths: Tensor, texts: list[str | None]) -> Tensor:
        assert self.text_decoder is not None
        told = [i for i, text in enumerate(texts) if text]
        if not told:
            # a zero that touches the parameters: under DDP every one of them must take part in every step
            return quantized.new_zeros(()) * sum(p.sum() * 0 for p in self.text_decoder.parameters())
        index = torch.tensor(told, device=quantized.device)
        return self.text_decoder(quantized[index], lengths[index], [texts[i] or "" for i in told])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.log("train/gradient_norm", clip_gradients(self, self.optimizer_config.gradient_clip, self.skips))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        self.averaged.update_parameters(self.tokenizer)

    def on_validation_start(self) -> None:
        self.usage.reset()
        self._publish_codebooks()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._publish_codebooks()

    def _publish_codebooks(self) -> None:
        for model in (self.tokenizer, self.export_tokenizer()):
            self.quantizer.write_back(model.encoder.quantizer)

    def export_tokenizer(self) -> Tokenizer:
        """The model with averaged weights, as evaluated and exported."""
        return self.averaged.module  # type: ignore[return-value]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        model, count = self.export_tokenizer(), len(batch.wav)
        latents, lengths = model.encode_latents(batch.wav, batch.lengths)
        codes = model.encoder.quantizer.encode(latents, model.config.num_quantizers)
        self.usage.update(codes, lengths)
        quantized = model.encoder.quantizer.decode(codes[:, : model.n_q])
        target = F.pad(batch.wav, (0, max(0, int(lengths.max()) * model.frame_size - batch.wav.shape[1])))
        for name, hidden in (("mel", quantized), ("unquantized_mel", latents)):
            wav = model.decoder(hidden, lengths)
            loss = self.mel_loss(wav, target[:, : wav.shape[1]], batch.lengths)
            self.log(f"val/{name}_loss", loss, batch_size=count, sync_dist=True)
        if self._has("text"):
            self._validate_text(quantized, lengths, batch)

    def _validate_text(self, quantized: Tensor, lengths: Tensor, batch: Batch) -> None:
        assert self.text_decoder is not None
        told = [i for i, text in enumerate(batch.text) if text]
        if not told:
            return
        self.log(
            "val/text_loss", self._text_loss(quantized, lengths, batch.text), batch_size=len(told), sync_dist=True
        )
        index = torch.tensor(told, device=quantized.device)
        heard = self.text_decoder.transcribe(quantized[index], lengths[index])
        rates = error_rates([batch.text[i] or "" for i in told], heard)
        self.log("val/cer", rates.cer, batch_size=len(told), sync_dist=True)
        self.log("val/wer", rates.wer, batch_size=len(told), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        for book, (used, perplexity) in enumerate(self.usage.summary()):
            self.log(f"codes/{book}_used", used)
            self.log(f"codes/{book}_perplexity", perplexity)

    def configure_optimizers(self) -> Any:
        trained = [module for module in (self.tokenizer, self.text_decoder) if module is not None]
        return make_optimizer(trained, self.optimizer_config)
