"""Whisper's encoder in plain torch, frozen, with gradients to the sound; its weights come from a CTranslate2 file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.model.lengths import frames_needed, valid_mask
from mimotok.model.mel import hann_window, reflect_pad
from train.losses.spectra import power

RATE = 16000
WINDOW = 400
HOP = 160
DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2")  # by CTranslate2's number of a type


def read_arrays(path: str | Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Read the named arrays of a CTranslate2 `model.bin` whose names begin with `prefix`.

    The file is a header (uint32 version, string, uint32 revision, uint32 count), then for each array a name, uint8
    rank, uint32 dimensions, uint8 type, uint32 bytes and the values; a string is a uint16 length and so many bytes, the
    last one 0. Raises ValueError where the file does not fit this format.
    """
    try:
        with open(path, "rb") as file:
            _number(file, "I")
            _string(file)
            _number(file, "I")
            return dict(_array(file, prefix) for _ in range(_number(file, "I")))
    except (OSError, struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: not a model of CTranslate2 that can be read ({error})") from error


def _number(file: BinaryIO, kind: str) -> int:
    size = struct.calcsize("<" + kind)
    return struct.unpack("<" + kind, file.read(size))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def _array(file: BinaryIO, prefix: str) -> tuple[str, np.ndarray]:
    name = _string(file)
    shape = [_number(file, "I") for _ in range(_number(file, "B"))]
    dtype = np.dtype(DTYPES[_number(file, "B")])
    size = _number(file, "I")
    if not name.startswith(prefix):
        file.seek(size, 1)
        return "", np.empty(0)
    return name, np.frombuffer(file.read(size), dtype).reshape(shape)


class Block(nn.Module):
    """A pre-norm Transformer block, q, k and v in one projection."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply the block to x [B, F, D]; mask: bool [B, F], True where a frame may be attended to."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.ffn_norm(x))))


class Shape(NamedTuple):
    """The sizes of an encoder."""

    n_mels: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int


class WhisperEncoder(nn.Module):
    """Whisper's encoder: log-mel, two convolutions, fixed positions, Transformer blocks. Nothing in it is trained."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.width = shape.width
        self.conv1 = nn.Conv1d(shape.n_mels, shape.width, 3, padding=1)
        self.conv2 = nn.Conv1d(shape.width, shape.width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.hidden) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.register_buffer("positions", torch.zeros(shape.positions, shape.width))
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path) -> WhisperEncoder:
        """Load the folder or the model.bin of a CTranslate2 Whisper. Raises ValueError where it is none."""
        file = Path(path) / "model.bin" if Path(path).is_dir() else Path(path)
        arrays = read_arrays(file, "encoder/")
        try:
            return cls._of(arrays)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{file}: not a Whisper of CTranslate2 ({error})") from error

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray]) -> WhisperEncoder:
        width, n_mels, _ = arrays["encoder/conv1/weight"].shape
        positions = arrays["encoder/position_encodings/encodings"]
        layers = sum(name.endswith("/ffn/linear_0/weight") for name in arrays)
        hidden = len(arrays["encoder/layer_0/ffn/linear_0/bias"])
        encoder = cls(Shape(n_mels, width, layers, int(arrays["encoder/num_heads"]), hidden, len(positions)))
        encoder.load_state_dict(
            {name: torch.from_numpy(_values(arrays, stored)) for name, stored in encoder._stored_names().items()}
        )
        return encoder

    def _stored_names(self) -> dict[str, str]:
        """Return CTranslate2's names of the weights by ours."""
        modules = {"conv1": "conv1", "conv2": "conv2", "norm": "layer_norm"}
        for i in range(len(self.blocks)):
            attention = f"layer_{i}/self_attention"
            ffn = f"layer_{i}/ffn"
            modules |= {
                f"blocks.{i}.attention_norm": f"{attention}/layer_norm",
                f"blocks.{i}.qkv": f"{attention}/linear_0",
                f"blocks.{i}.out": f"{attention}/linear_1",
                f"blocks.{i}.ffn_norm": f"{ffn}/layer_norm",
                f"blocks.{i}.fc1": f"{ffn}/linear_0",
                f"blocks.{i}.fc2": f"{ffn}/linear_1",
            }
        names = {"positions": "encoder/position_encodings/encodings"}
        for ours, theirs in modules.items():
            weight, bias = ("gamma", "beta") if theirs.endswith("norm") else ("weight", "bias")
            names |= {f"{ours}.weight": f"encoder/{theirs}/{weight}", f"{ours}.bias": f"encoder/{theirs}/{bias}"}
        return names

    def features(self, wav: Tensor, lengths: Tensor, layers: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Return features as `train.losses.speech.SpeechEncoder.features`, at 50 Hz.

        What is longer than the positions reach, 30 s, is heard in parts of that length, each by itself.
        """
        if max(layers) > self.shape.layers:
            raise ValueError(f"layers={list(layers)}: this speech encoder has {self.shape.layers}")
        reach = self.shape.positions * 2 * HOP
        frames = frames_needed(frames_needed(lengths, HOP), 2)
        first = self._part(wav[:, :reach], lengths, layers)
        if wav.shape[1] <= reach:
            return first, frames
        later = [
            self._later_part(wav[:, at : at + reach], lengths - at, layers) for at in range(reach, wav.shape[1], reach)
        ]
        return [torch.cat(of_layer, dim=1) for of_layer in zip(first, *later, strict=True)], frames

    def _later_part(self, wav: Tensor, lengths: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return the features of a part, 0 for clips that have ended before it."""
        goes_on = lengths > 0
        heard = self._part(wav[goes_on], lengths[goes_on], layers)
        empty = (x.new_zeros(len(wav), *x.shape[1:]) for x in heard)
        return [x.index_put((goes_on,), some) for x, some in zip(empty, heard, strict=True)]

    def _part(self, wav: Tensor, lengths: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return the features of sound that the positions reach."""
        lengths = lengths.clamp(max=wav.shape[1])
        mel = whisper_log_mel(wav, lengths, self.shape.n_mels)
        hidden = self(mel, frames_needed(lengths, HOP), depth=max(layers))
        return [hidden[layer] for layer in layers]

    def forward(self, mel: Tensor, lengths: Tensor | None = None, *, depth: int | None = None) -> list[Tensor]:
        """Encode log-mel features.

        Args:
            mel: [B, n_mels, T].
            lengths: [B], its valid frames.
            depth: the last block to run, all by default.

        Returns:
            The output of the convolutions with the positions, and that of each block, [B, ceil(T / 2), D], without the
            final norm.

        Raises:
            ValueError: where the sound is longer than the positions reach.
        """
        if lengths is None:
            lengths = torch.full((len(mel),), mel.shape[2], device=mel.device)
        return self.attend(self.convolve(mel, lengths), frames_needed(lengths, 2), depth=depth)

    def convolve(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Return the output of the convolutions, [B, ceil(T / 2), D], of mel [B, n_mels, T], 0 past lengths [B]."""
        x = F.gelu(self.conv1(mel))
        # zero the padding: the strided convolution would read one frame past the end
        return F.gelu(self.conv2(x * valid_mask(lengths, mel.shape[2])[:, None])).transpose(1, 2)

    def attend(self, x: Tensor, lengths: Tensor, *, depth: int | None = None) -> list[Tensor]:
        """Add the positions to what the convolutions gave, x [B, F, D] with lengths [B], and run the blocks.

        Returns that sum and the output of each block. Arguments, results and errors are otherwise those of `forward`.
        """
        if x.shape[1] > self.shape.positions:
            limit = self.shape.positions * 2 * HOP / RATE
            raise ValueError(f"{x.shape[1] * 2 * HOP / RATE:.1f} s of sound, but this speech encoder hears {limit:g} s")
        x = x + self.get_buffer("positions")[: x.shape[1]]
        mask = valid_mask(lengths, x.shape[1])
        outputs = [x]
        for block in self.blocks[:depth]:
            outputs.append(block(outputs[-1], mask))
        return outputs


def _values(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    values = arrays[name].astype(np.float32)
    scale: Any = arrays.get(f"{name}_scale")
    # int8 weights are stored as multiples of a step for each row
    return values if scale is None else values / scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))


def whisper_log_mel(wav: Tensor, lengths: Tensor, n_mels: int) -> Tensor:
    """Compute Whisper's features of wav [B, T] at 16 kHz with lengths [B] samples, as [B, n_mels, ceil(T / 160)].

    The floor of eight decades below a clip's own maximum, and the reflection at its end, do not depend on padding.
    """
    frames = frames_needed(wav.shape[1], HOP)
    half = WINDOW // 2
    padded = reflect_pad(wav.float(), lengths, half, half + HOP)
    with torch.autocast(wav.device.type, enabled=False):
        window = hann_window(WINDOW, wav.device)
        spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)[..., :frames]
        mel = (_slaney_filterbank(n_mels).to(wav.device) @ power(spectrum)).clamp(min=1e-10).log10()
        valid = valid_mask(frames_needed(lengths, HOP), frames)[:, None]
        peak = mel.detach().masked_fill(~valid, -10.0).amax((1, 2), keepdim=True)
        return (torch.maximum(mel, peak - 8) + 4) / 4 * valid


@lru_cache(maxsize=4)
def _slaney_filterbank(n_mels: int) -> Tensor:
    """Compute triangular filters of equal area, [n_mels, 201]: linear below 1 kHz, logarithmic above (Slaney, 1998)."""
    with torch.inference_mode(False):
        step = 200 / 3
        corner = 1000.0
        ratio = np.log(6.4) / 27
        top = corner / step + np.log(RATE / 2 / corner) / ratio
        marks = np.linspace(0, top, n_mels + 2)
        edges = np.where(marks < corner / step, marks * step, corner * np.exp(ratio * (marks - corner / step)))
        frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
        rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
        falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
        bank = np.minimum(rising, falling).clip(min=0) * (2 / (edges[2:] - edges[:-2]))[:, None]
        return torch.from_numpy(bank.astype(np.float32))
