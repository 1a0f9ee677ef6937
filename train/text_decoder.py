"""The audio-to-text model of the joint stage: a small causal LM that reads quantized audio and writes its transcript.

It exists to put meaning into the tokens (MiMo-Audio, section 2.2, eq. 1) and is dropped afterwards, though it can be
kept to transcribe tokens. There is no CTC head: the paper has none; with little data one would align sooner.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mimotok.lengths import ceil_div, zero_padding

IGNORED = -100
# The longest transcript that greedy search may write: faster than anyone speaks, even in three-byte scripts.
TOKENS_PER_FRAME = 1.5
EXTRA_TOKENS = 16


@dataclass(frozen=True)
class TextDecoderConfig:
    """Shape of the language model, which is trained from scratch.

    tokenizer: "bytes" (UTF-8 bytes), or the name or folder of a Hugging Face tokenizer.
    stack: audio frames that are joined into one prefix position; 1 keeps the 25 Hz of the codes.
    """

    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    ffn_dim: int = 768
    stack: int = 1
    tokenizer: str = "bytes"

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size}: RoPE needs {self.num_heads} heads of even width"
            )
        if self.stack < 1:
            raise ValueError(f"stack={self.stack}: at least one frame makes a prefix position")


class ByteTokenizer:
    """UTF-8 bytes after three special ids, so any text in any script has a short vocabulary of 259."""

    pad, bos, eos = 0, 1, 2
    size = 259

    def encode(self, text: str) -> list[int]:
        """Returns ids without bos and eos. A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
        return [byte + 3 for byte in text.encode("utf-8", errors="replace")]

    def decode(self, ids: Sequence[int]) -> str:
        """Inverse of `encode`: special ids are dropped, bytes that are not UTF-8 become U+FFFD."""
        return bytes(i - 3 for i in ids if i >= 3).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Nothing to keep: bytes are bytes."""


class HuggingFaceTokenizer:
    """A pretrained tokenizer behind the interface of `ByteTokenizer`; where it has no bos or pad, eos serves."""

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        self.inner = AutoTokenizer.from_pretrained(name)
        eos, bos, pad = self.inner.eos_token_id, self.inner.bos_token_id, self.inner.pad_token_id
        if eos is None:
            raise ValueError(f"tokenizer {name} has no end-of-sequence token, so a transcript could not end")
        self.eos = eos
        self.bos = eos if bos is None else bos
        self.pad = eos if pad is None else pad
        self.size = len(self.inner)

    def encode(self, text: str) -> list[int]:
        """Returns ids without bos and eos."""
        return self.inner.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, special ones dropped."""
        return self.inner.decode(ids, skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Keeps the tokenizer's files in `folder`, so that loading needs no network."""
        self.inner.save_pretrained(folder)


class TextDecoder(nn.Module):
    """Causal LM on [audio prefix] bos transcript eos; the prefix is a projection of the quantized audio."""

    def __init__(self, d_model: int, config: TextDecoderConfig | None = None) -> None:
        """d_model: width of the quantized representation that it reads."""
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        self.d_model = d_model
        self.config = config = config or TextDecoderConfig()
        self.tokenizer = (
            ByteTokenizer() if config.tokenizer == "bytes" else HuggingFaceTokenizer(config.tokenizer)
        )
        self.projection = nn.Linear(config.stack * d_model, config.hidden_size)
        self.lm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=self.tokenizer.size,
                hidden_size=config.hidden_size,
                intermediate_size=config.ffn_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                max_position_embeddings=16384,
                pad_token_id=self.tokenizer.pad,
                bos_token_id=self.tokenizer.bos,
                eos_token_id=self.tokenizer.eos,
                attn_implementation="sdpa",
            )
        )

    def forward(self, quantized: Tensor, lengths: Tensor, texts: Sequence[str]) -> Tensor:
        """quantized: [B, F, d_model]; lengths: [B] frames; texts: B transcripts, none of them missing.

        Returns text_loss: the mean cross-entropy of the next token over all tokens of the batch (eq. 1), in nats.
        """
        if len(texts) != len(quantized):
            raise ValueError(f"{len(texts)} transcripts for {len(quantized)} clips")
        audio, prefix = self._prefix(quantized, lengths)
        ids, labels = self._tokenize(texts, quantized.device)
        joined = torch.cat([audio, self.lm.model.embed_tokens(ids).to(audio.dtype)], dim=1)

        # text follows its own audio without a gap, so positions do not depend on the batch; what is left over ends up
        # on the right, where causal attention hides it and no mask is needed
        position = torch.arange(joined.shape[1], device=ids.device)[None, :]
        source = torch.where(
            position < prefix[:, None], position, position - prefix[:, None] + audio.shape[1]
        )
        packed = _take(joined, source.clamp(max=joined.shape[1] - 1))
        hidden = self.lm.model(inputs_embeds=packed, use_cache=False).last_hidden_state

        hidden = _take(hidden, prefix[:, None] + torch.arange(labels.shape[1], device=ids.device))
        logits = self.lm.lm_head(hidden).float()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    @torch.no_grad()
    def transcribe(self, quantized: Tensor, lengths: Tensor) -> list[str]:
        """Greedy transcripts of quantized [B, F, d_model] with lengths [B]; bounded by the length of the audio."""
        from transformers import GenerationConfig

        audio, prefix = self._prefix(quantized, lengths)
        shift = audio.shape[1] - prefix[:, None]
        position = torch.arange(audio.shape[1], device=audio.device)[None, :]
        aligned = _take(audio, (position - shift).clamp(min=0))
        bos = torch.full((len(audio), 1), self.tokenizer.bos, device=audio.device)
        embeds = torch.cat([aligned, self.lm.model.embed_tokens(bos).to(audio.dtype)], dim=1)
        mask = F.pad((position >= shift).long(), (0, 1), value=1)

        limits = (lengths * TOKENS_PER_FRAME).long() + EXTRA_TOKENS
        generation = GenerationConfig(
            max_new_tokens=int(limits.max()),
            do_sample=False,
            bos_token_id=self.tokenizer.bos,
            eos_token_id=self.tokenizer.eos,
            pad_token_id=self.tokenizer.pad,
        )
        written = self.lm.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=generation)
        return [
            self.tokenizer.decode(_until(ids[:limit], self.tokenizer.eos))
            for ids, limit in zip(written.tolist(), limits.tolist(), strict=True)
        ]

    def save(self, folder: Path | str) -> None:
        """Writes config.json, model.safetensors and the files of a Hugging Face tokenizer into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"d_model": self.d_model, **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")
        self.tokenizer.save(folder / "tokenizer")

    @classmethod
    def load(cls, folder: Path | str) -> TextDecoder:
        """Reads what `save` wrote. Raises FileNotFoundError where it did not."""
        folder = Path(folder)
        settings = json.loads((folder / "config.json").read_text())
        if (folder / "tokenizer").is_dir():
            settings["tokenizer"] = str(folder / "tokenizer")
        decoder = cls(settings.pop("d_model"), TextDecoderConfig(**settings))
        decoder.load_state_dict(load_file(folder / "model.safetensors"))
        return decoder.eval()

    def _prefix(self, quantized: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """quantized: [B, F, d_model] -> embeddings [B, ceil(F / stack), hidden] and their lengths [B]."""
        stack = self.config.stack
        quantized = zero_padding(quantized, lengths)
        quantized = F.pad(quantized, (0, 0, 0, -quantized.shape[1] % stack))
        stacked = quantized.reshape(len(quantized), -1, stack * self.d_model)
        return self.projection(stacked), ceil_div(lengths, stack)

    def _tokenize(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """B texts -> ids [B, N]: bos and the text, padded; labels [B, N]: the token that follows each, or IGNORED."""
        rows = [
            torch.tensor([self.tokenizer.bos, *self.tokenizer.encode(t), self.tokenizer.eos]) for t in texts
        ]
        ids = nn.utils.rnn.pad_sequence([r[:-1] for r in rows], True, self.tokenizer.pad)
        labels = nn.utils.rnn.pad_sequence([r[1:] for r in rows], True, IGNORED)
        return ids.to(device), labels.to(device)


class ErrorRates(NamedTuple):
    """Edits per character and per word of the reference, as fractions."""

    cer: float
    wer: float


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """Corpus-level CER and WER after `normalize_text`; pairs whose reference is then empty do not count.

    Raises ValueError where none is left.
    """
    import jiwer

    pairs = [(normalize_text(r), normalize_text(h)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [(reference, hypothesis) for reference, hypothesis in pairs if reference]
    if not pairs:
        raise ValueError("no reference holds a letter or digit, so there is no error rate")
    said, heard = (list(side) for side in zip(*pairs, strict=True))
    return ErrorRates(jiwer.cer(said, heard), jiwer.wer(said, heard))


def normalize_text(text: str) -> str:
    """Lower case without punctuation and symbols (a dash separates words, an apostrophe does not), single spaces."""
    text = unicodedata.normalize("NFKC", text).lower().replace("'", "").replace("’", "")
    kept = (" " if unicodedata.category(c)[0] in "PSC" else c for c in text)
    return " ".join("".join(kept).split())


def _take(hidden: Tensor, index: Tensor) -> Tensor:
    """hidden: [B, T, C], index: [B, N] -> hidden at these positions [B, N, C]."""
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[2]))


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
