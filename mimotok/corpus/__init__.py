"""Whole corpora to tokens and back: `tokenize_corpus`, `verify_corpus`, `TokenDataset`, `BatchEncoder`."""

from __future__ import annotations

from mimotok.corpus.dataset import TokenDataset
from mimotok.corpus.loader import TokenLoader
from mimotok.corpus.mapping import BatchEncoder
from mimotok.corpus.run import tokenize_corpus
from mimotok.corpus.sequences import SequenceBatch, collate
from mimotok.corpus.verify import verify_corpus

__all__ = [
    "BatchEncoder",
    "SequenceBatch",
    "TokenDataset",
    "TokenLoader",
    "collate",
    "tokenize_corpus",
    "verify_corpus",
]
