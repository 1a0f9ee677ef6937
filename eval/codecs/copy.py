"""Rows of a report that code nothing: the original, and representations of it that tokens are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from eval.codecs.base import CodecResult, CodecSpec, Frames
from eval.protocol import SAMPLE_RATE, resample
from eval.whisper import PRECISIONS, RATE, WhisperEncoder
from mimotok.config import TokenizerConfig
from mimotok.model.mel import log_mel

# the frame rate of our tokens: 40 ms
FRAME_SIZE = 960  # samples


class CopyCodec:
    """The original itself, through a lower rate and back where one is given: the ceiling of that bandwidth."""

    nominal_bitrate: float | None = None
    codebook_sizes: tuple[int, ...] = ()
    sample_rate = SAMPLE_RATE

    def __init__(self, spec: CodecSpec, rate: int = SAMPLE_RATE) -> None:
        """Prepare a copy at `rate` Hz."""
        self.label = spec.label
        self.rate = rate
        self.identity: dict[str, Any] = {"kind": "copy", "rate": rate}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Copy wav [T] at the protocol's rate."""
        copied = resample(resample(wav, self.sample_rate, self.rate), self.rate, self.sample_rate)
        return CodecResult(copied, None, None, None, 0.0, 0.0)


class MelFrames(CopyCodec):
    """The original, read as the mean log-mel spectrum of every 40 ms: what tokens are computed from."""

    MEL = TokenizerConfig(sample_rate=SAMPLE_RATE)

    def __init__(self, spec: CodecSpec) -> None:
        """Prepare the mel filters."""
        super().__init__(spec)
        self.identity = {"kind": "features", "features": "mel", "bands": self.MEL.n_mels}

    def frames(self, wav: np.ndarray) -> Frames:
        """Compute the log-mel frames of wav [T] and average them over 40 ms."""
        mel, _ = log_mel(torch.from_numpy(np.ascontiguousarray(wav))[None], None, self.MEL)
        return Frames(averaged(mel[0].numpy(), FRAME_SIZE // self.MEL.hop_length), None, SAMPLE_RATE / FRAME_SIZE)


class WhisperFrames(CopyCodec):
    """The original, read as a Whisper encoder's output, averaged over 40 ms: what a recogniser knows of it."""

    def __init__(self, spec: CodecSpec, model: str) -> None:
        """Load the encoder of a Whisper model that comes in a package. Raises ImportError where it is missing."""
        super().__init__(spec)
        self.encoder = WhisperEncoder(model)
        self.identity = {"kind": "features", "features": model, "precision": PRECISIONS["cpu"]}

    def frames(self, wav: np.ndarray) -> Frames:
        """Encode wav [T] at the protocol's rate."""
        vectors = self.encoder(resample(wav, SAMPLE_RATE, RATE))
        return Frames(averaged(vectors, 2), None, SAMPLE_RATE / FRAME_SIZE)


def averaged(vectors: np.ndarray, count: int) -> np.ndarray:
    """Average each `count` neighbours of vectors [F, D]; the last ones may be fewer. Returns [ceil(F / count), D]."""
    starts = np.arange(0, len(vectors), count)
    sizes = np.minimum(count, len(vectors) - starts)[:, None]
    return (np.add.reduceat(vectors, starts) / sizes).astype(np.float32)
