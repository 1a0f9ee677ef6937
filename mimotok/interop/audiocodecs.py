"""Our models with the interface of lucadellalib/audiocodecs, whose benchmark then takes them as any other codec.

It was run by that project's own code at its commit fe350cce (docs/interop.md).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mimotok.interop.signals import resample_batch
from mimotok.lm.sampling import Sampling, sample
from mimotok.model.lengths import valid_mask, zero_padding
from mimotok.tokenizer import Tokenizer

MODES = ("encode", "decode", "reconstruct")


class MimoCodec(nn.Module):
    """A codec with `sig_to_toks`, `sig_to_feats`, `sig_to_qfeats`, their inverses and `embs`.

    Signals are [B, T] at `sample_rate`, tokens [B, N, K], features before and after the quantizer [B, N, H]. `length`
    holds the valid share of each item of a padded batch, [B] in (0, 1], as in SpeechBrain. soxr resamples where the
    rates differ.

    Args:
        sample_rate: Hz of the signals.
        mode: what calling the module does: "encode", "decode" or "reconstruct".
        num_codebooks: codebooks to use, the checkpoint's default where None.
        source: folder or hub id; None for the embedded checkpoint.

    Attributes:
        orig_sample_rate: Hz of the model.
        vocab_size: entries of the largest codebook.

    Raises:
        ValueError: for another mode, a source that is no model, or num_codebooks out of range.

    Example:
        >>> codec = MimoCodec(16000, num_codebooks=2)
        >>> codec.sig_to_toks(torch.zeros(1, 16000)).shape
        torch.Size([1, 26, 2])
    """

    def __init__(
        self,
        sample_rate: int,
        mode: str = "reconstruct",
        num_codebooks: int | None = None,
        source: str | Path | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: give one of {', '.join(MODES)}")
        self.model = Tokenizer.from_pretrained(source)
        self.sample_rate = sample_rate
        self.orig_sample_rate = self.model.sample_rate
        self.mode = mode
        self.num_codebooks = self.model.config.checked_n_q(num_codebooks)
        self.vocab_size = max(self.model.codebook_sizes[: self.num_codebooks])

    def forward(self, input: Tensor, length: Tensor | None = None) -> Tensor:
        """Encode, decode or reconstruct, as `mode` says. A reconstruction is as long as its input."""
        if self.mode == "decode":
            return self.toks_to_sig(input, length)
        if self.mode == "encode":
            return self.sig_to_toks(input, length)
        wav = resample_batch(input, self.sample_rate, self.orig_sample_rate)
        codes, frames = self.model.encode(wav, _samples(length, wav), n_q=self.num_codebooks)
        decoded = self.model.decode(codes, frames).values
        return resample_batch(decoded, self.orig_sample_rate, self.sample_rate)[:, : input.shape[1]]

    def sig_to_toks(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """Encode signals [B, T] to tokens [B, N, K], which are 0 past an item's length."""
        wav = resample_batch(sig, self.sample_rate, self.orig_sample_rate)
        codes = self.model.encode(wav, _samples(length, wav), n_q=self.num_codebooks).values
        return codes.movedim(1, 2)

    def sig_to_feats(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """Encode signals [B, T] to the latents before the quantizer, [B, N, H], which are 0 past an item's length."""
        wav = resample_batch(sig, self.sample_rate, self.orig_sample_rate)
        return self.model.encode_latents(wav, _samples(length, wav)).values

    def sig_to_qfeats(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """Encode signals [B, T] to what the quantizer gives, [B, N, H], 0 past an item's length."""
        wav = resample_batch(sig, self.sample_rate, self.orig_sample_rate)
        codes, frames = self.model.encode(wav, _samples(length, wav), n_q=self.num_codebooks)
        return zero_padding(self.model.dequantize(codes), frames)

    def toks_to_qfeats(self, toks: Tensor, length: Tensor | None = None) -> Tensor:
        """Look up tokens [B, N, K]. Returns [B, N, H], 0 past an item's length."""
        return zero_padding(self.model.dequantize(toks.movedim(2, 1)), _frames(length, toks))

    def feats_to_sig(self, feats: Tensor, length: Tensor | None = None) -> Tensor:
        """Decode features [B, N, H], quantized or not, to signals [B, T], which are 0 past an item's length."""
        wav = self.model.decode_latents(feats, _frames(length, feats)).values
        return resample_batch(wav, self.orig_sample_rate, self.sample_rate)

    def toks_to_sig(self, toks: Tensor, length: Tensor | None = None) -> Tensor:
        """Decode tokens [B, N, K] to signals [B, T], which are 0 past an item's length."""
        wav = self.model.decode(toks.movedim(2, 1), _frames(length, toks)).values
        return resample_batch(wav, self.orig_sample_rate, self.sample_rate)

    @torch.no_grad()
    def embs(self) -> Tensor:
        """Return the codebooks [K, C, H]; a smaller one is padded with zeros to `vocab_size` entries.

        Raises ValueError for a quantizer that has none.
        """
        if not hasattr(self.model.encoder.quantizer, "codebooks"):
            raise ValueError(f"model {self.model.name!r}: its quantizer has no codebooks, and so no embeddings")
        books = [book.embed for book in self.model.encoder.quantizer.codebooks()[: self.num_codebooks]]
        return torch.stack([nn.functional.pad(book, (0, 0, 0, self.vocab_size - len(book))) for book in books])

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Return for each entry how near the others of its codebook are, [K, C, C]: minus the Euclidean distance.

        They are minus infinity for the entry itself and for those that a smaller codebook lacks.
        """
        embs = self.embs()
        sizes = torch.tensor(self.model.codebook_sizes[: self.num_codebooks], device=embs.device)
        absent = ~valid_mask(sizes, self.vocab_size)[:, None, :]
        itself = torch.eye(self.vocab_size, dtype=torch.bool, device=embs.device)
        return -torch.cdist(embs, embs).masked_fill(absent | itself, float("inf"))

    def resample(
        self, toks: Tensor, p: float = 0.2, temp: float = 1.0, top_k: int | None = None, top_p: float | None = None
    ) -> Tensor:
        """Replace some tokens by near ones, as their recipes do to make training harder.

        Args:
            toks: tokens [B, N, K].
            p: the share of tokens to replace.
            temp: of the softmax over `logits`.
            top_k: draw from so many nearest entries.
            top_p: draw from the nearest entries whose probabilities reach this sum.

        Returns:
            Tokens [B, N, K].

        Raises:
            ValueError: for both top_k and top_p, a top_k below 1, and tokens of another number of codebooks.
        """
        if toks.dim() != 3 or toks.shape[2] != self.num_codebooks:
            raise ValueError(f"toks has shape {list(toks.shape)}: give [batch, frames, {self.num_codebooks}]")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k}: give 1 or more entries")
        if top_k is not None and top_p is not None:
            raise ValueError(f"top_k={top_k} and top_p={top_p}: give one of them")
        books = torch.arange(self.num_codebooks, device=toks.device)
        near = self.logits().to(toks.device)[books, toks].flatten(0, 2)
        if top_k is not None:
            least = near.topk(min(top_k, near.shape[1])).values[:, -1:]
            near = near.masked_fill(near < least, -float("inf"))
        drawn = sample(near, Sampling(temp, 1.0 if top_p is None else top_p)).view_as(toks)
        return torch.where(torch.rand(toks.shape, device=toks.device) < p, drawn, toks)


def _shares(length: Tensor | None, padded: Tensor) -> Tensor:
    """Return the valid shares [B] of a padded batch, all of it where None. Raises ValueError outside (0, 1]."""
    if length is None:
        return torch.ones(len(padded), device=padded.device)
    if length.shape != (len(padded),) or not bool(((length > 0) & (length <= 1)).all()):
        raise ValueError(f"length={length.tolist()}: give for each of {len(padded)} items its valid share, in (0, 1]")
    return length.to(padded.device)


def _samples(length: Tensor | None, wav: Tensor) -> Tensor:
    """Turn valid shares into valid samples."""
    return (_shares(length, wav) * wav.shape[1]).round().long().clamp(min=1)


def _frames(length: Tensor | None, padded: Tensor) -> Tensor:
    """Turn valid shares into frames that hold a valid sample."""
    size = padded.shape[1]
    # less than a sample's share: shares have rounding errors
    return (_shares(length, padded) * size - 1e-4).ceil().long().clamp(1, size)
