"""Text tokenizers of the audio-to-text model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimotok.weights import require_source


class ByteTokenizer:
    """UTF-8 bytes after three special ids: a vocabulary of 259 for any text in any script."""

    pad = 0
    bos = 1
    eos = 2
    size = 259

    def encode(self, text: str) -> list[int]:
        """Return ids without bos and eos. A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
        return [byte + 3 for byte in text.encode("utf-8", errors="replace")]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids: special ids are dropped, bytes that are not UTF-8 become U+FFFD."""
        return bytes(i - 3 for i in ids if i >= 3).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Do nothing: the vocabulary is fixed."""


class HuggingFaceTokenizer:
    """A pretrained tokenizer, used like `ByteTokenizer`; eos replaces a missing bos or pad."""

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        require_source(name)
        self.inner: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        eos = self.inner.eos_token_id
        bos = self.inner.bos_token_id
        pad = self.inner.pad_token_id
        if eos is None:
            raise ValueError(f"tokenizer {name} has no end-of-sequence token, so a transcript could not end")
        self.eos = eos
        self.bos = eos if bos is None else bos
        self.pad = eos if pad is None else pad
        self.size = len(self.inner)

    def encode(self, text: str) -> list[int]:
        """Return ids without bos and eos."""
        return self.inner.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special ones."""
        return self.inner.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into `folder`, so that loading needs no network."""
        self.inner.save_pretrained(folder)
