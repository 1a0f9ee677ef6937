"""Streaming: codes out of samples, and samples out of codes, as soon as they are final.

Exact, that is equal to the whole file, for models whose every window is bounded and whose upsamplers do not normalise
over time, as ours. The released MiMo-Audio-Tokenizer's windows are unlimited, and its GroupNorm takes statistics of the
whole clip, so that no sample is final before the last code is known: its decoder follows the official pipeline's
overlap scheme, an approximation by nature, and its encoder works on whole files only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimotok.chunking import OFFICIAL_CONTEXT
from mimotok.model.mel import hann_window
from mimotok.model.streaming import (
    OverlapAdd,
    State,
    delay,
    extend,
    look_ahead,
    silence,
    stem_delay,
    stream_stack,
    stream_stem,
)
from mimotok.streaming.blocks import MelStream
from mimotok.tokenizer import Tokenizer


class EncoderRows:
    """Mel frames to codes for B streams in step; streams begin and end in any row at any time.

    state: all that the next step depends on; look_ahead: code frames by which codes lag behind. Raises ValueError for
    models with an unlimited window.
    """

    def __init__(self, tokenizer: Tokenizer, *, n_q: int | None = None) -> None:
        config = tokenizer.config
        if not config.encoder_is_bounded:
            raise ValueError(f"{tokenizer.name}: its encoder sees all of time, so it cannot encode a stream exactly")
        self.tokenizer = tokenizer
        self.n_q = config.checked_n_q(n_q)
        behind = stem_delay(config.stride_size) + look_ahead(config.encoder_windows())
        # what the downsampler joins must be what it joins in the whole file
        self.padding = -behind % config.avg_pooler
        self.look_ahead = (behind + self.padding) // config.avg_pooler
        self.state: State = {}

    @torch.no_grad()
    def step(self, mel: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """mel: [B, n, n_mels], n a multiple of the mel frames per code; there: bool [B, n].

        Returns codes int64 [B, n_q, F] of `look_ahead` ago, and which of them there are, bool [B, F].
        """
        encoder, state = self.tokenizer.encoder, self.state
        hidden, there = stream_stem(state, encoder, mel.to(self.tokenizer.dtype), there)
        hidden, there = stream_stack(state, "encoder", encoder.layers, hidden, there, encoder.skip)
        hidden = delay(state, "pairs", self.padding, silence(encoder.layer_norm(hidden), there))
        there = delay(state, "pairs.there", self.padding, there)
        return encoder.quantizer.encode(encoder.pooled(hidden), self.n_q), there[:, :: encoder.pool]


class DecoderRows:
    """Codes to samples for B streams in step; the counterpart of EncoderRows.

    look_ahead: mel frames by which samples lag behind. Raises ValueError for models whose receptive field is unbounded.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        config = tokenizer.config
        if not config.decoder_is_bounded:
            raise ValueError(f"{tokenizer.name}: its decoder sees all of time, so it cannot decode a stream exactly")
        self.tokenizer = tokenizer
        self.overlap_add = OverlapAdd(config.n_fft, config.hop_length)
        hidden = look_ahead(config.decoder_windows()) * config.stride_size
        self.look_ahead = hidden + look_ahead(config.vocoder_windows()) + self.overlap_add.delay
        self.state: State = {}

    @torch.no_grad()
    def step(self, codes: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """codes: int64 [B, n_q, F]; there: bool [B, F].

        Returns wav [B, F * frame_size] of `look_ahead` ago, and which of its mel frames there are, bool [B, n].
        """
        decoder, state = self.tokenizer.decoder, self.state
        hidden = silence(self.tokenizer.dequantize(codes).to(self.tokenizer.dtype), there)
        if decoder.dconv1 is not None:
            hidden, _ = decoder.dconv1(hidden, None)
            there = there.repeat_interleave(decoder.dconv1.stride, 1)
        hidden, there = stream_stack(state, "decoder", decoder.layers, hidden, there)
        hidden = self._upsample(silence(decoder.layer_norm(hidden), there))
        there = there.repeat_interleave(decoder.dconv2.stride, 1)
        vocoder = decoder.vocoder
        hidden, there = stream_stack(state, "vocoder", vocoder.layers, vocoder.embeddings(hidden), there)
        wav = self._waveform(*vocoder.head.magnitude_phase(vocoder.layer_norm(hidden)), there)
        return wav, delay(state, "wav.there", self.overlap_add.delay, there)

    def _upsample(self, hidden: Tensor) -> Tensor:
        upsample = self.tokenizer.decoder.dconv2
        past = -(-upsample.overhang // upsample.stride)
        joined, _ = upsample(extend(self.state, "upsample", past, hidden), None)
        return joined[:, past * upsample.stride :]

    def _waveform(self, magnitude: Tensor, phase: Tensor, there: Tensor) -> Tensor:
        n_fft = self.tokenizer.config.n_fft
        window = hann_window(n_fft, magnitude.device)
        frames = torch.fft.irfft(torch.polar(magnitude, phase), n_fft) * window
        weights = window.square().expand_as(frames)
        return self.overlap_add.push(self.state, silence(frames, there), silence(weights, there)).flatten(1)


def reset_rows(state: State, rows: Tensor) -> None:
    """rows: bool [B]. Makes these rows ready for new streams, forgetting what is still inside."""
    for tensor in state.values():
        tensor[rows] = 0


class StreamEncoder:
    """Samples in any amounts in, codes out; joined, they are the codes of the whole file.

    One stream, or B in step. n_q: codebooks to use. Raises ValueError as EncoderRows.
    """

    def __init__(self, tokenizer: Tokenizer, *, n_q: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.rows = EncoderRows(tokenizer, n_q=n_q)
        self.mel = MelStream(tokenizer.config)
        self.held: Tensor | None = None

    @property
    def look_ahead_ms(self) -> float:
        """How much sound after a frame its codes depend on, in milliseconds."""
        config = self.tokenizer.config
        return 1000 * (self.rows.look_ahead * config.frame_size + config.n_fft // 2) / config.sample_rate

    def push(self, wav: Tensor) -> Tensor:
        """wav: [B, t], t from 1 up. Returns the codes that are now final, int64 [B, n_q, f], f possibly 0."""
        return self._step(self.mel.push(self.tokenizer.checked_wav(wav)), 0)

    def flush(self) -> Tensor:
        """Ends the stream. Returns the last codes. Raises ValueError where no sample was pushed."""
        mel = self.mel.flush()
        total = mel.shape[1] + (0 if self.held is None else self.held.shape[1])
        stride = self.tokenizer.config.frame_stride
        return self._step(mel, -total % stride + self.rows.look_ahead * stride)

    def _step(self, mel: Tensor, after: int) -> Tensor:
        """mel: the next frames; after: frames of nothing that follow them."""
        mel = mel if self.held is None else torch.cat((self.held, mel), dim=1)
        there = torch.ones(mel.shape[:2], dtype=torch.bool, device=mel.device)
        count = (mel.shape[1] + after) // self.tokenizer.config.frame_stride * self.tokenizer.config.frame_stride
        if after == 0:
            self.held = mel[:, count:]
        mel = torch.nn.functional.pad(mel, (0, 0, 0, after))[:, :count]
        there = torch.nn.functional.pad(there, (0, after))[:, :count]
        if count == 0:
            return torch.zeros(mel.shape[0], self.rows.n_q, 0, dtype=torch.int64, device=mel.device)
        codes, known = self.rows.step(mel, there)
        return codes[:, :, known[0]]


class StreamDecoder:
    """Codes in, samples out as soon as they are final; joined, they are the wav of the whole file.

    One stream, or B in step. For models that cannot be streamed exactly (see the module's docstring) it re-runs the
    decoder over the official scheme's context: 250 codes before, 40 held back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        exact = tokenizer.config.decoder_is_bounded
        self._inner: _ExactDecoder | _OverlapDecoder = _ExactDecoder(tokenizer) if exact else _OverlapDecoder(tokenizer)

    @property
    def look_ahead_ms(self) -> float:
        """How much sound after a sample must be known before it is final, in milliseconds."""
        return 1000 * self._inner.look_ahead_samples / self.tokenizer.sample_rate

    def push(self, codes: Tensor) -> Tensor:
        """codes: int64 [B, n_q, f], f from 1 up. Returns the samples that are now final, float32 [B, t]."""
        return self._inner.push(codes)

    def flush(self) -> Tensor:
        """Ends the stream. Returns the last samples. Raises ValueError where no codes were pushed."""
        return self._inner.flush()


class _ExactDecoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.rows = DecoderRows(tokenizer)
        self.look_ahead_samples = self.rows.look_ahead * tokenizer.config.hop_length
        self.last: Tensor | None = None

    def push(self, codes: Tensor) -> Tensor:
        self.last = codes[:, :, -1:]
        return self._step(codes, True)

    def flush(self) -> Tensor:
        if self.last is None:
            raise ValueError("the stream ended before its first code")
        frames = -(-self.rows.look_ahead // self.tokenizer.config.frame_stride)
        return self._step(self.last.expand(-1, -1, frames), False)

    def _step(self, codes: Tensor, there: bool) -> Tensor:
        flags = torch.full((codes.shape[0], codes.shape[2]), there, device=self.tokenizer.device)
        wav, known = self.rows.step(codes, flags)
        return wav[:, known[0].repeat_interleave(self.tokenizer.config.hop_length)]


class _OverlapDecoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.left, self.right = OFFICIAL_CONTEXT
        self.look_ahead_samples = self.right * tokenizer.frame_size
        self.codes: Tensor | None = None
        self.done = 0  # leading frames of `codes` whose samples are out

    def push(self, codes: Tensor) -> Tensor:
        self.codes = codes if self.codes is None else torch.cat((self.codes, codes), dim=2)
        return self._decode(self.codes.shape[2] - self.right)

    def flush(self) -> Tensor:
        if self.codes is None:
            raise ValueError("the stream ended before its first code")
        return self._decode(self.codes.shape[2])

    def _decode(self, stop: int) -> Tensor:
        assert self.codes is not None
        if stop <= self.done:
            return torch.zeros(self.codes.shape[0], 0, device=self.tokenizer.device)
        size = self.tokenizer.frame_size
        wav = self.tokenizer.decode(self.codes)[:, self.done * size : stop * size]
        kept = max(0, stop - self.left)
        self.codes, self.done = self.codes[:, :, kept:], stop - kept
        return wav
