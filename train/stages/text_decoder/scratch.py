"""A text decoder trained from scratch: a small causal LM that reads quantized audio and writes text.

The paper has next-token loss alone, on millions of hours. With ten hours that loss learns spelling and never the places
of the words, so a CTC loss (Graves et al., 2006) on the prefix positions can join it, which aligns monotonically from
the start (joint CTC and attention: Kim et al., 2017, arXiv 1609.06773).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.config import MAX_LAYERS, MAX_WIDTH
from mimotok.fields import check_fields, flag, text, whole
from mimotok.weights import Sizes
from train.stages.text import ByteTokenizer, HuggingFaceTokenizer
from train.stages.text_decoder.base import IGNORED, AudioToText, Stacked, TextLosses, check_texts, take, text_loss
from train.stages.text_decoder.causal import CausalWriting
from train.stages.text_decoder.folders import write_folder

TOKENIZER_FOLDER = "tokenizer"
# Where the weights show what the configuration says.
SIZES = Sizes(
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


class TextDecoder(AudioToText):
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
        self.has_ctc = config.ctc

    def forward(self, quantized: Tensor, lengths: Tensor, texts: Sequence[str]) -> TextLosses:
        """Compute the losses of transcripts.

        Args:
            quantized: [B, F, d_model].
            lengths: [B] frames.
            texts: B transcripts, none of them missing.

        Returns:
            The cross-entropy of the next token (eq. 1), and the CTC loss of the same tokens without eos.
        """
        check_texts(texts, quantized)
        audio, prefix = self._prefix(quantized, lengths)
        ids, labels = (x.to(quantized.device) for x in self.tokenize(texts, [self.tokenizer.bos]))
        joined = torch.cat([audio, self._embed(ids, audio.dtype)], dim=1)

        # text follows its own audio without a gap, so that positions do not depend on the batch; the padding
        # ends up on the right, where causal attention hides it without a mask
        position = torch.arange(joined.shape[1], device=ids.device)[None, :]
        source = torch.where(position < prefix[:, None], position, position - prefix[:, None] + audio.shape[1])
        packed = take(joined, source.clamp(max=joined.shape[1] - 1))
        hidden = self.lm.model(inputs_embeds=packed, use_cache=False).last_hidden_state

        written = take(hidden, prefix[:, None] + torch.arange(labels.shape[1], device=ids.device))
        next_token = text_loss(self.lm.lm_head(written), labels)
        return TextLosses(next_token, self._ctc(hidden[:, : audio.shape[1]], prefix, labels))

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

    def start_writing(self, quantized: Tensor, lengths: Tensor) -> CausalWriting:
        """Begin transcripts. See `AudioToText`."""
        audio, prefix = self._prefix(quantized, lengths)
        return CausalWriting(self.lm, audio, prefix, torch.full_like(prefix[:, None], self.tokenizer.bos))

    def save(self, folder: Path | str) -> None:
        """Write config.json, model.safetensors and the files of a Hugging Face tokenizer into `folder`."""
        settings = asdict(self.config)
        if self.config.tokenizer != "bytes":
            settings["tokenizer"] = TOKENIZER_FOLDER
        write_folder(Path(folder), {"d_model": self.d_model, **settings}, self.state_dict())
        self.tokenizer.save(Path(folder) / TOKENIZER_FOLDER)

    def _prefix(self, quantized: Tensor, lengths: Tensor) -> Stacked:
        """Embed quantized [B, F, d_model] as [B, ceil(F / stack), hidden], with lengths [B]."""
        stacked = self.stack_frames(quantized, lengths)
        return Stacked(self.projection(stacked.frames), stacked.lengths)

    def _embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self.lm.model.embed_tokens(ids).to(dtype)
