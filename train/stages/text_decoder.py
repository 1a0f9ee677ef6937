"""The audio-to-text model of the joint stage: a small causal LM that reads quantized audio and writes text.

It teaches the tokens meaning (MiMo-Audio, section 2.2, eq. 1) and is dropped afterwards, though it can be kept to
transcribe tokens. The paper has next-token loss alone, on millions of hours. With ten hours that loss learns spelling
and never the places of the words, so a CTC loss (Graves et al., 2006) on the prefix positions can join it, which aligns
monotonically from the start (joint CTC and attention: Kim et al., 2017, arXiv 1609.06773).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mimotok.config import MAX_LAYERS, MAX_WIDTH
from mimotok.fields import check_fields, flag, text, whole
from mimotok.io.files import atomic_path
from mimotok.io.json_object import read_object
from mimotok.model.lengths import frames_needed, zero_padding
from mimotok.text import normalize_text
from mimotok.weights import Sizes, check_dtypes, check_finite, check_sizes, read_header
from train.stages.text import ByteTokenizer, HuggingFaceTokenizer

IGNORED = -100
# The longest transcript that greedy search may write: faster than anyone speaks, even in three-byte scripts.
TOKENS_PER_FRAME = 1.5
EXTRA_TOKENS = 16
# Where the weights show what the configuration says.
_SIZES = Sizes(
    {
        "hidden_size": ("projection.weight", 0, 0),
        "stack * d_model": ("projection.weight", 1, 0),
        "ffn_dim": ("lm.model.layers.0.mlp.gate_proj.weight", 0, 0),
    },
    {"num_layers": "lm.model.layers."},
)


@dataclass(frozen=True)
class TextDecoderConfig:
    """Shape of the language model, which is trained from scratch.

    Attributes:
        hidden_size: width.
        num_layers: Transformer blocks.
        num_heads: attention heads.
        ffn_dim: feed-forward units.
        stack: audio frames that are joined into one prefix position; 1 keeps the 25 Hz of the codes.
        tokenizer: "bytes" (UTF-8 bytes), or the name or folder of a Hugging Face tokenizer.
        normalize: learn lower-case text without punctuation, where sources disagree on how they write.
        ctc: a second head at the prefix positions, trained by CTC, which needs more positions than tokens: a stack of
            1. The joint stage has it where `loss_weights` has ctc.
    """

    hidden_size: int = whole(256, 1, MAX_WIDTH)
    num_layers: int = whole(4, 1, MAX_LAYERS)
    num_heads: int = whole(4, 1, MAX_WIDTH)
    ffn_dim: int = whole(768, 1, 8 * MAX_WIDTH)
    stack: int = whole(1, 1, 64)
    tokenizer: str = text("bytes", 4096)
    normalize: bool = flag(False)
    ctc: bool = flag(False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size={self.hidden_size}: RoPE needs {self.num_heads} heads of even width")


class TextLosses(NamedTuple):
    """Losses in nats per token, mean over the batch's tokens; ctc is None where the decoder has no such head."""

    text: Tensor
    ctc: Tensor | None


class TextDecoder(nn.Module):
    """Causal LM on [audio prefix] bos transcript eos; the prefix is a projection of the quantized audio."""

    def __init__(self, d_model: int, config: TextDecoderConfig | None = None) -> None:
        """Build a decoder of random weights that reads quantized vectors of width `d_model`."""
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        self.d_model = d_model
        self.config = config = config or TextDecoderConfig()
        self.tokenizer = ByteTokenizer() if config.tokenizer == "bytes" else HuggingFaceTokenizer(config.tokenizer)
        self.projection = nn.Linear(config.stack * d_model, config.hidden_size)
        self.lm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=self.tokenizer.size,
                hidden_size=config.hidden_size,
                intermediate_size=config.ffn_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                max_position_embeddings=16384,
                # the usual 0.02 suits wide models: a narrow one learns to read its prefix far later with it
                initializer_range=config.hidden_size**-0.5,
            )
        )
        self.ctc_head = nn.Linear(config.hidden_size, self.tokenizer.size) if config.ctc else None

    def forward(self, quantized: Tensor, lengths: Tensor, texts: Sequence[str]) -> TextLosses:
        """Compute the losses of transcripts.

        Args:
            quantized: [B, F, d_model].
            lengths: [B] frames.
            texts: B transcripts, none of them missing.

        Returns:
            The cross-entropy of the next token (eq. 1), and the CTC loss of the same tokens without eos.
        """
        if len(texts) != len(quantized):
            raise ValueError(f"{len(texts)} transcripts for {len(quantized)} clips")
        audio, prefix = self._prefix(quantized, lengths)
        ids, labels = self._tokenize(texts, quantized.device)
        joined = torch.cat([audio, self._embed(ids, audio.dtype)], dim=1)

        # text follows its own audio without a gap, so that positions do not depend on the batch; the padding
        # ends up on the right, where causal attention hides it without a mask
        position = torch.arange(joined.shape[1], device=ids.device)[None, :]
        source = torch.where(position < prefix[:, None], position, position - prefix[:, None] + audio.shape[1])
        packed = _take(joined, source.clamp(max=joined.shape[1] - 1))
        hidden = self.lm.model(inputs_embeds=packed, use_cache=False).last_hidden_state

        written = _take(hidden, prefix[:, None] + torch.arange(labels.shape[1], device=ids.device))
        logits = self.lm.lm_head(written).float()
        text = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return TextLosses(text, self._ctc(hidden[:, : audio.shape[1]], prefix, labels))

    def _ctc(self, hidden: Tensor, prefix: Tensor, labels: Tensor) -> Tensor | None:
        """Compute the CTC loss of the prefix positions; its blank is the padding's id."""
        if self.ctc_head is None:
            return None
        log_probs = self.ctc_head(hidden).float().log_softmax(-1).transpose(0, 1)
        sizes = (labels != IGNORED).sum(1) - 1
        # a text too long for its audio has no alignment: it adds nothing, rather than infinity
        loss = F.ctc_loss(
            log_probs, labels.clamp(min=0), prefix, sizes, self.tokenizer.pad, reduction="sum", zero_infinity=True
        )
        return loss / sizes.sum().clamp(min=1)

    @torch.no_grad()
    def transcribe(self, quantized: Tensor, lengths: Tensor) -> list[str]:
        """Write B greedy transcripts of quantized, [B, F, d_model], with lengths [B] in frames."""
        from transformers import DynamicCache

        audio, prefix = self._prefix(quantized, lengths)
        # aligned on the right here: each next token then sits in one column for the whole batch
        shift = audio.shape[1] - prefix[:, None]
        position = torch.arange(audio.shape[1] + 1, device=audio.device) - shift
        bos = self._embed(torch.full_like(shift, self.tokenizer.bos), audio.dtype)
        embeds = torch.cat([_take(audio, position[:, :-1].clamp(min=0)), bos], dim=1)
        mask = position >= 0
        position = position.clamp(min=0)

        limits = (lengths * TOKENS_PER_FRAME).long() + EXTRA_TOKENS
        cache = DynamicCache(config=self.lm.config)
        written = []
        running = torch.ones_like(prefix, dtype=torch.bool)
        while running.any():
            hidden = self.lm.model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            token = self.lm.lm_head(hidden[:, -1]).argmax(-1)
            running = running & (token != self.tokenizer.eos)
            written.append(torch.where(running, token, self.tokenizer.eos))
            running = running & (len(written) < limits)
            embeds = self._embed(token[:, None], audio.dtype)
            mask = F.pad(mask, (0, 1), value=True)
            position = position[:, -1:] + 1
        rows = torch.stack(written, dim=1).tolist()
        return [self.tokenizer.decode([i for i in row if i != self.tokenizer.eos]) for row in rows]

    def save(self, folder: Path | str) -> None:
        """Write config.json, model.safetensors and the files of a Hugging Face tokenizer into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"d_model": self.d_model, **asdict(self.config)}
        if self.config.tokenizer != "bytes":
            settings["tokenizer"] = "tokenizer"
        with atomic_path(folder / "model.safetensors") as temporary:
            temporary.write_bytes(save({k: v.contiguous() for k, v in self.state_dict().items()}))
        with atomic_path(folder / "config.json") as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        self.tokenizer.save(folder / "tokenizer")

    @classmethod
    def load(cls, folder: Path | str) -> TextDecoder:
        """Read what `save` wrote. Raises ValueError where it did not."""
        folder = Path(folder)
        if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
            raise ValueError(f"{folder}: no text decoder in it; the joint stage's export writes one as text_decoder/")
        try:
            settings = read_object(folder / "config.json")
            if settings["tokenizer"] != "bytes":
                settings["tokenizer"] = str(folder / "tokenizer")
            d_model = settings.pop("d_model")
            config = TextDecoderConfig(**settings)
            weights = folder / "model.safetensors"
            header = read_header(weights)
            # before anything is built by it: folders may come from strangers
            check_sizes(weights, {**asdict(config), "stack * d_model": config.stack * d_model}, header, _SIZES)
            check_dtypes(weights, header)
            state = load_file(weights)
            check_finite(weights, state)
            decoder = cls(d_model, config)
            decoder.load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError, SafetensorError) as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{folder}: not a text decoder that `save` wrote ({problem:.200})") from error
        return decoder.eval()

    def _prefix(self, quantized: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embed quantized [B, F, d_model] as [B, ceil(F / stack), hidden], with lengths [B]."""
        stack = self.config.stack
        quantized = zero_padding(quantized, lengths)
        quantized = F.pad(quantized, (0, 0, 0, -quantized.shape[1] % stack))
        stacked = quantized.reshape(len(quantized), -1, stack * self.d_model)
        return self.projection(stacked), frames_needed(lengths, stack)

    def _embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self.lm.model.embed_tokens(ids).to(dtype)

    def _tokenize(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Turn B texts into ids [B, N], bos and text, padded, and labels [B, N], the token after each, or IGNORED."""
        texts = [normalize_text(t) for t in texts] if self.config.normalize else texts
        rows = [torch.tensor([self.tokenizer.bos, *self.tokenizer.encode(t), self.tokenizer.eos]) for t in texts]
        ids = nn.utils.rnn.pad_sequence([r[:-1] for r in rows], True, self.tokenizer.pad)
        labels = nn.utils.rnn.pad_sequence([r[1:] for r in rows], True, IGNORED)
        return ids.to(device), labels.to(device)


def _take(hidden: Tensor, index: Tensor) -> Tensor:
    """Return hidden [B, T, C] at positions index [B, N], as [B, N, C]."""
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2]))
