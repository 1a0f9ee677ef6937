"""The steps of a stream as graphs: the next block and the state in, its result and the next state out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.export.graphs import EncoderGraph, inverse_dft_kernels
from mimotok.model.lengths import valid_mask
from mimotok.model.mel import hann_window
from mimotok.model.receptive_field import istft_reach
from mimotok.model.state import StreamState
from mimotok.tokenizer import Tokenizer

# All states are float32 with the streams as their first dimension, masks included, so that a caller makes them by one
# line, zeros of the shapes that the graph names.
State = tuple[Tensor, ...]


class StreamGraph(nn.Module):
    """A step of B streams whose state is a tuple of tensors in a fixed order.

    Attributes:
        names: of the states, in their order.
        shapes: of the states without their first dimension.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.shapes: tuple[tuple[int, ...], ...] = ()
        self._masks: frozenset[str] = frozenset()

    def zeros(self, batch: int) -> State:
        """Return the state of streams that nothing has entered."""
        return tuple(torch.zeros(batch, *shape) for shape in self.shapes)

    def _note_buffers(self, used: Mapping[str, Tensor]) -> None:
        """Note the buffers that a first step has made; an empty one holds nothing between steps."""
        kept = {name: tensor for name, tensor in used.items() if tensor.numel()}
        self.names = tuple(kept)
        self.shapes = tuple(tuple(tensor.shape[1:]) for tensor in kept.values())
        self._masks = frozenset(name for name, tensor in kept.items() if tensor.dtype == torch.bool)

    def _opened(self, state: Iterable[Tensor]) -> StreamState:
        named = zip(self.names, state, strict=True)
        return StreamState({name: tensor > 0.5 if name in self._masks else tensor for name, tensor in named})

    def _closed(self, state: StreamState) -> State:
        tensors = state.tensors()
        return tuple(tensors[name].float() for name in self.names)


class EncoderStreamGraph(StreamGraph):
    """The next samples of streams to the codes of `look_ahead` frames ago."""

    def __init__(self, tokenizer: Tokenizer, n_q: int) -> None:
        super().__init__()
        self.whole = EncoderGraph(tokenizer, n_q)
        config = tokenizer.config
        self.stride = config.frame_stride
        overlap = config.n_fft - config.hop_length
        state = StreamState()
        with torch.no_grad():
            self._step(torch.zeros(1, overlap + config.frame_size), torch.ones(1, dtype=torch.int64), state)
        self._note_buffers(state.tensors())

    def forward(self, wav: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Encode the next F code frames of B streams.

        Args:
            wav: [B, n_fft - hop_length + F * frame_size]: the new samples behind those of the block before that its
                last window began with. A stream begins with its first n_fft // 2 samples mirrored before it.
            lengths: [B] mel frames of the block that are valid, from its first on; 0 before and after a stream.
            state: as the step before returned it; zeros at first.

        Returns:
            Codes int64 [B, n_q, F], which of the frames are valid as bool [B, F], and the next state, all in one tuple.
        """
        opened = self._opened(state)
        codes, valid = self._step(wav, lengths, opened)
        return (codes, valid, *self._closed(opened))

    def _step(self, wav: Tensor, lengths: Tensor, state: StreamState) -> tuple[Tensor, Tensor]:
        mel = self.whole.frame_log_mel(wav)
        latents, valid = self.whole.encoder.step(state, mel, valid_mask(lengths, mel.shape[1]))
        codes = self.whole.encoder.quantizer.encode(latents, self.whole.n_q)
        return codes * valid[:, None, :], valid


class DecoderStreamGraph(StreamGraph):
    """The next codes of streams to the samples of `look_ahead` mel frames ago, the inverse STFT included."""

    basis: Tensor
    squared: Tensor

    def __init__(self, tokenizer: Tokenizer, n_q: int) -> None:
        super().__init__()
        config = tokenizer.config
        self.quantizer = tokenizer.encoder.quantizer
        self.decoder = tokenizer.decoder
        self.hop_length = config.hop_length
        # samples of a hop that come from the block of overlapped frames before the newest
        lag = istft_reach(config.n_fft, config.hop_length).right
        self.offset = tokenizer.decoder.vocoder.head.crop - (lag - 1) * config.hop_length
        self.lag = lag
        rest = -config.n_fft % config.hop_length
        # a convolution, since export to 8 bits would round the factors of a matrix product
        self.register_buffer("basis", F.pad(inverse_dft_kernels(config.n_fft), (0, rest)).T[..., None].contiguous())
        window = hann_window(config.n_fft, torch.device("cpu"))
        self.register_buffer("squared", F.pad(window.square(), (0, rest)).view(-1, config.hop_length))
        state = StreamState()
        with torch.no_grad():
            self._step(torch.zeros(1, n_q, 1, dtype=torch.int64), torch.ones(1, dtype=torch.int64), state)
        self._note_buffers(state.tensors())

    def forward(self, codes: Tensor, lengths: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Decode the next F code frames of B streams.

        Args:
            codes: int64 [B, n_q, F]; a code below 0 is left out of the sum.
            lengths: [B] frames of the block that are valid, from its first on; 0 before and after a stream.
            state: as the step before returned it; zeros at first.

        Returns:
            Samples [B, T, hop_length], a hop of each mel frame, which of them are valid as bool [B, T], and the next
            state, all in one tuple.
        """
        opened = self._opened(state)
        wav, valid = self._step(codes, lengths, opened)
        return (wav, valid, *self._closed(opened))

    def _step(self, codes: Tensor, lengths: Tensor, state: StreamState) -> tuple[Tensor, Tensor]:
        vocoder = self.decoder.vocoder
        frames = valid_mask(lengths, codes.shape[2])
        coarse_mel, valid = self.decoder.coarse_mel_step(state, self.quantizer.decode(codes), frames)
        own = state.scope("vocoder")
        hidden, valid = vocoder.hidden_step(own, coarse_mel, valid)
        magnitude, phase = vocoder.head.magnitude_phase(hidden)
        return self._samples(own.scope("head"), torch.cat((magnitude * phase.cos(), magnitude * phase.sin()), 2), valid)

    def _samples(self, state: StreamState, spectrum: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Do what `ISTFTHead.step` does, without complex numbers. spectrum: [B, n, 2 * bins], real and imaginary."""
        count = spectrum.shape[1]
        hops = self.squared.shape[0]
        frames = F.conv1d(spectrum.transpose(1, 2), self.basis).transpose(1, 2)
        parts = frames.unflatten(2, (hops, self.hop_length)) * valid[..., None, None].to(frames.dtype)
        parts = state.extend("frames", hops - 1, parts)
        known = state.extend("valid", hops - 1, valid).to(frames.dtype)[..., None]
        sound = torch.zeros_like(parts[:, :count, 0])
        envelope = torch.zeros_like(sound)
        for hop in range(hops):
            # frame t - hop adds its part of this number to the block that begins with frame t
            start = hops - 1 - hop
            sound = sound + parts[:, start : start + count, hop]
            envelope = envelope + known[:, start : start + count] * self.squared[hop]
        blocks = state.extend("blocks", 1, sound / envelope.clamp(min=1e-11))
        wav = torch.cat((blocks[:, :-1, self.offset :], blocks[:, 1:, : self.offset]), dim=2)
        return wav, state.delay("passed", self.lag, valid)
