"""Codes for audio language models: layouts with their inverses, and any causal LM as an audio LM."""

from __future__ import annotations

from mimotok.lm.edit import CodedClip, Concatenated, concatenate, join
from mimotok.lm.interleaving import InterleavedLayout, Positions, SpecialIds
from mimotok.lm.layouts import Duplex, DuplexLayout, FlatLayout, Layout, PatchLayout
from mimotok.lm.token_text import AudioVocabulary, add_audio_tokens, codes_to_text, text_to_codes

__all__ = [
    "AudioVocabulary",
    "CodedClip",
    "Concatenated",
    "Duplex",
    "DuplexLayout",
    "FlatLayout",
    "InterleavedLayout",
    "Layout",
    "PatchLayout",
    "Positions",
    "SpecialIds",
    "add_audio_tokens",
    "codes_to_text",
    "concatenate",
    "join",
    "text_to_codes",
]
