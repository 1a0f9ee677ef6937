"""Codes for audio language models: layouts with their inverses, and any causal LM as an audio LM."""

from __future__ import annotations

from mimotok.lm.interleaving import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.layouts import DelayLayout, Duplex, DuplexLayout, FlatLayout, Layout, PatchLayout

__all__ = [
    "DelayLayout",
    "Duplex",
    "DuplexLayout",
    "FlatLayout",
    "InterleavedLayout",
    "Layout",
    "PatchLayout",
    "Positions",
    "SpecialIds",
]
