"""Streaming: codes from samples, and samples from codes, as soon as they are final.

The result equals the result on the whole file for models whose every window is bounded and whose upsamplers do not
normalise over time, as ours. The released MiMo-Audio-Tokenizer has unlimited windows, and the statistics of its
GroupNorm span the whole clip, so that no sample is final before the last code is known. Its decoder follows the
official pipeline's overlap scheme, an approximation by nature, and its encoder works on whole files only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mimotok.chunking import OFFICIAL_CONTEXT
from mimotok.model.lengths import frames_needed
from mimotok.model.receptive_field import decoder_reach, encoder_reach
from mimotok.model.state import StreamState
from mimotok.streaming.mel_stream import MelStream
from mimotok.tokenizer import Tokenizer


class CodeStep(NamedTuple):
    """Codes int64 [B, n_q, F], and which of their frames are valid, bool [B, F]."""

    codes: Tensor
    valid: Tensor


class SampleStep(NamedTuple):
    """One hop of samples per mel frame, float32 [B, n, hop_length], and which of the frames are valid, bool [B, n]."""

    wav: Tensor
    valid: Tensor


class EncoderStreams:
    """Mel frames to codes, for B streams in step. Each stream of the batch begins and ends at any time.

    Args:
        tokenizer: the model.
        n_q: codebooks to use; the checkpoint's default where None.

    Attributes:
        look_ahead: code frames by which codes lag behind.
        state: everything that later codes depend on.

    Raises:
        ValueError: for models with an unlimited window.
    """

    def __init__(self, tokenizer: Tokenizer, *, n_q: int | None = None) -> None:
        config = tokenizer.config
        if not config.encoder_is_bounded:
            raise ValueError(f"{tokenizer.name}: its encoder sees all of time, so it cannot encode a stream exactly")
        self.tokenizer = tokenizer
        self.n_q = config.checked_n_q(n_q)
        self.look_ahead = encoder_reach(config).right
        self.state = StreamState()

    @torch.no_grad()
    def step(self, mel: Tensor, valid: Tensor) -> CodeStep:
        """Encode the next mel frames.

        Args:
            mel: [B, n, n_mels], n a multiple of the mel frames per code frame.
            valid: bool [B, n].

        Returns:
            The codes of `look_ahead` frames ago.

        Raises:
            ValueError: for another shape; the streams stay as they were.
        """
        stride = self.tokenizer.config.frame_stride
        if mel.dim() != 3 or not mel.shape[1] or mel.shape[1] % stride:
            raise ValueError(f"mel has shape {list(mel.shape)}: give [B, n, n_mels], n a multiple of {stride}")
        _check_valid(valid, mel.shape[:2])
        encoder = self.tokenizer.encoder
        latents, valid = encoder.step(self.state, mel, valid)
        return CodeStep(encoder.quantizer.encode(latents, self.n_q), valid)


class DecoderStreams:
    """Codes to samples, for B streams in step; the counterpart of EncoderStreams.

    Args:
        tokenizer: the model.

    Attributes:
        look_ahead: mel frames by which samples lag behind.
        state: everything that later samples depend on.

    Raises:
        ValueError: for models whose receptive field is unbounded.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        config = tokenizer.config
        if not config.decoder_is_bounded:
            raise ValueError(f"{tokenizer.name}: its decoder sees all of time, so it cannot decode a stream exactly")
        self.tokenizer = tokenizer
        self.look_ahead = decoder_reach(config).right
        self.state = StreamState()

    @torch.no_grad()
    def step(self, codes: Tensor, valid: Tensor) -> SampleStep:
        """Decode the next codes.

        Args:
            codes: int64 [B, n_q, F].
            valid: bool [B, F].

        Returns:
            The samples of `look_ahead` mel frames ago.

        Raises:
            ValueError: as `Tokenizer.dequantize`, and for another shape of `valid`; the streams stay as they were.
        """
        quantized = self.tokenizer.dequantize(codes)
        _check_valid(valid, quantized.shape[:2])
        wav, valid = self.tokenizer.decoder.step(self.state, quantized, valid)
        return SampleStep(wav, valid)


class StreamEncoder:
    """An encoder of sound that arrives in blocks of any size; the joined codes are those of the whole file.

    Args:
        tokenizer: a model whose encoder is bounded.
        n_q: codebooks to use; the checkpoint's default where None.

    Raises:
        ValueError: for models with an unlimited window.

    Example:
        >>> wav = 0.1 * torch.randn(1, 24000)
        >>> stream = StreamEncoder(tokenizer)
        >>> parts = [stream.push(block) for block in wav.split(960, dim=1)]
        >>> codes = torch.cat([*parts, stream.flush()], dim=2)
        >>> torch.equal(codes, tokenizer.encode(wav))
        True
    """

    def __init__(self, tokenizer: Tokenizer, *, n_q: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._streams = EncoderStreams(tokenizer, n_q=n_q)
        self._mel = MelStream(tokenizer.config)
        self._held: Tensor | None = None  # mel frames that do not fill a code frame yet
        self._ended = False

    @property
    def n_q(self) -> int:
        """Codebooks in use."""
        return self._streams.n_q

    @property
    def look_ahead_ms(self) -> float:
        """Milliseconds of sound after a frame on which its codes depend."""
        config = self.tokenizer.config
        return 1000 * (self._streams.look_ahead * config.frame_size + config.n_fft // 2) / config.sample_rate

    @property
    def state(self) -> dict[str, Tensor]:
        """A copy of everything that the next codes depend on; assigned to an encoder, it continues the stream."""
        own = {"held": self._held} if self._held is not None else {}
        return _named("layers", self._streams.state.tensors()) | _named("mel", self._mel.state) | _copied(own)

    @state.setter
    def state(self, tensors: Mapping[str, Tensor]) -> None:
        self.reset()
        self._streams.state.load(_below("layers", tensors))
        self._mel.state = _below("mel", tensors)
        self._held = _copied(tensors).get("held")

    def reset(self) -> None:
        """Forget everything and begin a new stream."""
        self._streams.state = StreamState()
        self._mel = MelStream(self.tokenizer.config)
        self._held = None
        self._ended = False

    @torch.no_grad()
    def push(self, wav: Tensor) -> Tensor:
        """Encode the next samples.

        Args:
            wav: float [B, t] in [-1, 1], t from 1 up, B the same in every call.

        Returns:
            The codes that are now final, int64 [B, n_q, f], f possibly 0.

        Raises:
            ValueError: as `Tokenizer.encode`, for another B, and after `flush`; the stream stays as it was.
        """
        _require_open(self._ended)
        return self._step(self._mel.push(self.tokenizer.checked_wav(wav)), 0)

    def flush(self) -> Tensor:
        """End the stream. Returns the last codes. Raises ValueError after no sample, and when called again."""
        _require_open(self._ended)
        mel = self._mel.flush()
        self._ended = True
        total = mel.shape[1] + (0 if self._held is None else self._held.shape[1])
        stride = self.tokenizer.config.frame_stride
        return self._step(mel, -total % stride + self._streams.look_ahead * stride)

    def _step(self, mel: Tensor, invalid: int) -> Tensor:
        """Encode the next frames, mel, and `invalid` frames after them, which bring out what is still inside."""
        if self._held is not None:
            mel = torch.cat((self._held, mel), dim=1)
        stride = self.tokenizer.config.frame_stride
        count = (mel.shape[1] + invalid) // stride * stride
        self._held = mel[:, count:]
        valid = torch.ones(mel.shape[:2], dtype=torch.bool, device=mel.device)
        mel = F.pad(mel, (0, 0, 0, invalid))[:, :count]
        valid = F.pad(valid, (0, invalid))[:, :count]
        if count == 0:
            return torch.zeros(mel.shape[0], self.n_q, 0, dtype=torch.int64, device=mel.device)
        step = self._streams.step(mel, valid)
        return step.codes[:, :, step.valid[0]]


class StreamDecoder:
    """A decoder of codes that arrive frame by frame; samples are returned as soon as they are final.

    Models that cannot be streamed exactly (see the module's docstring) re-run the decoder over the context of the
    official
    scheme: 250 codes before, 40 held back.

    Args:
        tokenizer: the model.

    Example:
        >>> codes = tokenizer.encode(0.1 * torch.randn(1, 24000))
        >>> stream = StreamDecoder(tokenizer)
        >>> parts = [stream.push(frame) for frame in codes.split(1, dim=2)]
        >>> wav = torch.cat([*parts, stream.flush()], dim=1)
        >>> torch.allclose(wav, tokenizer.decode(codes), atol=1e-4)
        True
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        exact = tokenizer.config.decoder_is_bounded
        self._inner: _ExactDecoder | _OverlapDecoder = _ExactDecoder(tokenizer) if exact else _OverlapDecoder(tokenizer)
        self._ended = False

    @property
    def look_ahead_ms(self) -> float:
        """Milliseconds of sound after a sample that must be known before it is final."""
        return 1000 * self._inner.look_ahead_samples / self.tokenizer.sample_rate

    @property
    def state(self) -> dict[str, Tensor]:
        """A copy of everything that the next samples depend on; assigned to a decoder, it continues the stream."""
        return self._inner.state

    @state.setter
    def state(self, tensors: Mapping[str, Tensor]) -> None:
        self._inner.state = dict(tensors)
        self._ended = False

    def reset(self) -> None:
        """Forget everything and begin a new stream."""
        self.state = {}

    def push(self, codes: Tensor) -> Tensor:
        """Decode the next codes.

        Args:
            codes: whole numbers [B, n_q, f], f from 1 up, B and n_q the same in every call.

        Returns:
            The samples that are now final, float32 [B, t], t possibly 0.

        Raises:
            ValueError: as `Tokenizer.decode`, for another B or n_q, and after `flush`; the stream stays as it was.
        """
        _require_open(self._ended)
        # refused before any state changes
        self.tokenizer.dequantize(codes)
        last = self._inner.last
        if last is not None and codes.shape[:2] != last.shape[:2]:
            raise ValueError(f"codes {list(codes.shape)} after {list(last.shape[:2])}: a stream keeps its [B, n_q]")
        return self._inner.push(codes.to(self.tokenizer.device, torch.int64))

    def flush(self) -> Tensor:
        """End the stream. Returns the last samples. Raises ValueError after no codes, and when called again."""
        _require_open(self._ended)
        if self._inner.last is None:
            raise ValueError("the stream ended before its first code")
        wav = self._inner.flush(self._inner.last)
        self._ended = True
        return wav


class _ExactDecoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.streams = DecoderStreams(tokenizer)
        self.look_ahead_samples = self.streams.look_ahead * tokenizer.config.hop_length
        self.last: Tensor | None = None  # the last codes [B, n_q, 1]

    @property
    def state(self) -> dict[str, Tensor]:
        own = {} if self.last is None else {"last": self.last}
        return _named("layers", self.streams.state.tensors()) | _copied(own)

    @state.setter
    def state(self, tensors: dict[str, Tensor]) -> None:
        self.streams.state = StreamState(_below("layers", tensors))
        self.last = _copied(tensors).get("last")

    def push(self, codes: Tensor) -> Tensor:
        wav = self._step(codes, True)
        self.last = codes[:, :, -1:].clone()
        return wav

    def flush(self, last: Tensor) -> Tensor:
        frames = frames_needed(self.streams.look_ahead, self.tokenizer.config.frame_stride)
        return self._step(last.expand(-1, -1, frames), False)

    def _step(self, codes: Tensor, valid: bool) -> Tensor:
        mask = torch.full((codes.shape[0], codes.shape[2]), valid, device=self.tokenizer.device)
        step = self.streams.step(codes, mask)
        return step.wav[:, step.valid[0]].flatten(1)


class _OverlapDecoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.look_ahead_samples = OFFICIAL_CONTEXT.right * tokenizer.frame_size
        self.last: Tensor | None = None  # the last codes that later samples depend on, [B, n_q, f]
        self.done = 0  # how many leading frames of them have been decoded

    @property
    def state(self) -> dict[str, Tensor]:
        if self.last is None:
            return {}
        return {"last": self.last.clone(), "done": torch.tensor(self.done)}

    @state.setter
    def state(self, tensors: dict[str, Tensor]) -> None:
        self.last = _copied(tensors).get("last")
        self.done = int(tensors["done"]) if tensors else 0

    def push(self, codes: Tensor) -> Tensor:
        # a copy: the caller may write the next codes into the same tensor
        joined = codes.clone() if self.last is None else torch.cat((self.last, codes), dim=2)
        return self._decode(joined, joined.shape[2] - OFFICIAL_CONTEXT.right)

    def flush(self, last: Tensor) -> Tensor:
        return self._decode(last, last.shape[2])

    def _decode(self, codes: Tensor, stop: int) -> Tensor:
        self.last = codes
        if stop <= self.done:
            return torch.zeros(codes.shape[0], 0, dtype=torch.float32, device=self.tokenizer.device)
        size = self.tokenizer.frame_size
        wav = self.tokenizer.decode(codes)[:, self.done * size : stop * size]
        kept = max(0, stop - OFFICIAL_CONTEXT.left)
        self.last = codes[:, :, kept:]
        self.done = stop - kept
        return wav


def _check_valid(valid: Tensor, shape: Sequence[int]) -> None:
    if valid.dtype != torch.bool or valid.shape != shape:
        raise ValueError(f"valid is {valid.dtype} {list(valid.shape)}: give torch.bool {list(shape)}, one per frame")


def _require_open(ended: bool) -> None:
    if ended:
        raise ValueError("this stream has ended (flush was called): call reset() to begin another")


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor.clone() for name, tensor in tensors.items() if name.startswith(start)}
