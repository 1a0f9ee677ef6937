"""Log-mel frames of a stream of samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mimotok.config import TokenizerConfig
from mimotok.model.mel import frame_log_mel, reflect_pad


class MelStream:
    """Log-mel frames of a stream of samples, each as soon as it is final; the same frames as of the whole file."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.half = config.n_fft // 2
        self.pending: Tensor | None = None  # samples that later frames depend on, [B, t]
        self.started = False

    @property
    def state(self) -> dict[str, Tensor]:
        """A copy of everything that the next frames depend on; assigned to a stream, it continues the stream."""
        if self.pending is None:
            return {}
        return {"pending": self.pending.clone(), "started": torch.tensor(self.started)}

    @state.setter
    def state(self, tensors: Mapping[str, Tensor]) -> None:
        self.pending = None
        self.started = False
        if tensors:
            self.pending = tensors["pending"].clone()
            self.started = bool(tensors["started"])

    def push(self, wav: Tensor) -> Tensor:
        """wav: [B, t]. Returns the frames that it completes, [B, n, n_mels], n possibly 0.

        Raises ValueError for another number of clips than before.
        """
        if self.pending is not None and len(wav) != len(self.pending):
            raise ValueError(f"wav holds {len(wav)} clips, but the stream began with {len(self.pending)}: give as many")
        # a copy: the caller may record the next block into the same buffer
        self.pending = wav.clone() if self.pending is None else torch.cat((self.pending, wav), dim=1)
        if not self.started and self.pending.shape[1] > self.half:
            self.pending = reflect_pad(self.pending, None, self.half, 0)
            self.started = True
        if not self.started:
            return self._no_frames(self.pending)
        return self._frames(self.pending)

    def flush(self) -> Tensor:
        """Return the last frames, [B, n, n_mels]. Raises ValueError where no sample was pushed."""
        if self.pending is None or self.pending.shape[1] == 0:
            raise ValueError("the stream ended before its first sample")
        return self._frames(reflect_pad(self.pending, None, 0 if self.started else self.half, self.half))

    def _frames(self, padded: Tensor) -> Tensor:
        count = (padded.shape[1] - self.config.n_fft) // self.config.hop_length + 1
        if count < 1:
            return self._no_frames(padded)
        used = (count - 1) * self.config.hop_length + self.config.n_fft
        mel = frame_log_mel(padded[:, :used], self.config)
        self.pending = padded[:, count * self.config.hop_length :]
        return mel

    def _no_frames(self, wav: Tensor) -> Tensor:
        return wav.new_zeros(wav.shape[0], 0, self.config.n_mels)
