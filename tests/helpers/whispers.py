"""Tiny Whisper encoders with random weights, which hear four seconds."""

from __future__ import annotations

from train.losses.whisper import Shape, WhisperEncoder


def tiny_whisper(layers: int = 1, hidden: int = 16) -> WhisperEncoder:
    """An encoder of 20 mel bands and width 16; hidden: units of its feed-forward."""
    return WhisperEncoder(Shape(n_mels=20, width=16, layers=layers, heads=2, hidden=hidden, positions=200))
