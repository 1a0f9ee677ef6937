"""Whole corpora to tokens and back: `tokenize_corpus`, `verify_corpus`, `TokenDataset`."""

from __future__ import annotations

from mimotok.corpus.dataset import TokenDataset
from mimotok.corpus.loader import TokenLoader
from mimotok.corpus.run import tokenize_corpus
from mimotok.corpus.verify import verify_corpus

__all__ = ["TokenDataset", "TokenLoader", "tokenize_corpus", "verify_corpus"]
