"""The model's configuration: a frozen dataclass that reads and writes the official `config.json`."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Where the official key differs from this project's glossary.
OFFICIAL_TO_FIELD = {"sampling_rate": "sample_rate", "nfft": "n_fft", "codebook_size": "codebook_sizes"}
FIELD_TO_OFFICIAL = {ours: official for official, ours in OFFICIAL_TO_FIELD.items()}

ACTIVATIONS = ("gelu", "relu", "silu")
NORMS = ("LayerNorm", "RMSNorm")
Window = tuple[int, int]


@dataclass(frozen=True)
class TokenizerConfig:
    """The sizes and rates of a model; defaults are the released MiMo-Audio-Tokenizer's.

    Field names are the keys of the official `config.json`, except `sample_rate` (sampling_rate), `n_fft` (nfft) and
    `codebook_sizes` (codebook_size). Windows are (left, right) in frames of the layer's own rate; -1 is unlimited. The
    official format does not have `upsample_norm`, `mel_floor` and `default_n_q`.

    Attributes:
        upsample_norm: "group" (official: one group, statistics over all of time) or "layer" (over channels only, so
            that decoding is causal and can be streamed).
        mel_floor: lower bound of a mel magnitude before the logarithm.
        default_n_q: codebooks in use when the caller does not say; None means all.
        extra: unknown keys, which `to_official` writes back.

    Raises:
        ValueError: naming field and value, where the fields do not make a model.

    Example:
        >>> config = TokenizerConfig()
        >>> config.frame_rate, config.bitrate(8)
        (25.0, 1550.0)
    """

    sample_rate: int = 24000
    n_fft: int = 960
    window_size: int = 960
    hop_length: int = 240
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float | None = None
    mel_floor: float = 1e-7

    d_model: int = 1280
    kernel_size: int = 3
    stride_size: int = 2
    avg_pooler: int = 2
    activation_function: str = "gelu"
    ln_type: str = "LayerNorm"
    rope_theta: float = 10000.0

    encoder_layers: int = 32
    encoder_skip_layer_id: int | None = 3
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    encoder_causal: bool = False
    encoder_attn_window_size: Window = (-1, -1)
    hybrid_attention: bool = False
    swa_per_block: int = 1

    num_quantizers: int = 20
    codebook_sizes: tuple[int, ...] = (1024, 1024, 128)
    threshold_ema_dead_code: float = 2
    default_n_q: int | None = None

    decoder_layers: int = 32
    decoder_attention_heads: int = 20
    decoder_ffn_dim: int = 5120
    decoder_kernel_size: int = 3
    decoder_stride_size: int = 2
    decoder_causal: bool = True
    decoder_attn_window_size: Window = (-1, -1)
    upsample_norm: str = "group"

    vocoder_dim: int = 256
    vocoder_intermediate_dim: int = 1024
    vocoder_num_layers: int = 16
    vocoder_attention_heads: int = 16
    vocoder_attn_window_size: Window = (40, 10)
    vocoder_padding: str = "same"

    position_embedding_type: str = "rope"
    rope_type: str = "default"
    model_type: str = "mimo_audio_tokenizer"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", _full_sizes(self.codebook_sizes, self.num_quantizers))
        for name in ("encoder_attn_window_size", "decoder_attn_window_size", "vocoder_attn_window_size"):
            object.__setattr__(self, name, _checked_window(name, getattr(self, name)))
        self._check_numbers()
        self._check_choices()
        self._check_shapes()

    def _check_numbers(self) -> None:
        at_least_one = [f.name for f in dataclasses.fields(self) if f.type == "int"]
        for name in at_least_one:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r}: give a whole number of at least 1")
        if not 0 < self.mel_floor < 1:
            raise ValueError(f"mel_floor={self.mel_floor}: give a magnitude between 0 and 1")
        if not 0 <= self.fmin < self.mel_top <= self.sample_rate / 2:
            raise ValueError(f"fmin={self.fmin}, fmax={self.fmax}: need 0 <= fmin < fmax <= {self.sample_rate / 2} Hz")

    def _check_choices(self) -> None:
        for name, allowed in (
            ("activation_function", ACTIVATIONS),
            ("ln_type", NORMS),
            ("upsample_norm", ("group", "layer")),
            ("vocoder_padding", ("same",)),
            ("position_embedding_type", ("rope",)),
            ("rope_type", ("default",)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}, but this version knows {', '.join(allowed)}")

    def _check_shapes(self) -> None:
        for dim, heads in (
            ("d_model", "encoder_attention_heads"),
            ("d_model", "decoder_attention_heads"),
            ("vocoder_dim", "vocoder_attention_heads"),
        ):
            if getattr(self, dim) % (2 * getattr(self, heads)):
                raise ValueError(
                    f"{dim}={getattr(self, dim)} does not split into {heads}={getattr(self, heads)} heads of even width"
                )
        if self.window_size > self.n_fft:
            raise ValueError(f"window_size={self.window_size} exceeds nfft={self.n_fft}")
        if 2 * self.hop_length >= self.n_fft:
            raise ValueError(f"hop_length={self.hop_length}: the STFT needs less than nfft / 2 = {self.n_fft / 2}")
        if self.kernel_size != 3:
            raise ValueError(f"kernel_size={self.kernel_size}, but the stem's padding of 1 needs 3")
        if self.decoder_kernel_size < self.decoder_stride_size:
            raise ValueError(f"decoder_kernel_size={self.decoder_kernel_size} leaves gaps: its stride is larger")
        if self.decoder_stride_size != self.stride_size:
            raise ValueError(
                f"decoder_stride_size={self.decoder_stride_size} does not undo stride_size={self.stride_size}"
            )
        if self.default_n_q is not None and not 1 <= self.default_n_q <= self.num_quantizers:
            raise ValueError(f"default_n_q={self.default_n_q}, but there are {self.num_quantizers} codebooks")

    @property
    def mel_top(self) -> float:
        """Upper edge of the mel filterbank in Hz: fmax, or Nyquist where it is null."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def frame_stride(self) -> int:
        """Mel frames per code frame."""
        return self.stride_size * self.avg_pooler

    @property
    def frame_size(self) -> int:
        """Samples per code frame."""
        return self.hop_length * self.frame_stride

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.frame_size

    @property
    def n_q(self) -> int:
        """Codebooks in use by default."""
        return self.num_quantizers if self.default_n_q is None else self.default_n_q

    def bitrate(self, n_q: int | None = None) -> float:
        """Compute the nominal bit/s of the first `n_q` codebooks: frame_rate x sum(log2 size)."""
        n_q = self.checked_n_q(n_q)
        return self.frame_rate * sum(math.log2(size) for size in self.codebook_sizes[:n_q])

    def checked_n_q(self, n_q: int | None) -> int:
        """Return `n_q`, or the default where it is None. Raises ValueError outside 1..num_quantizers."""
        if n_q is None:
            return self.n_q
        if not 1 <= n_q <= self.num_quantizers:
            raise ValueError(f"n_q={n_q}, but this checkpoint has {self.num_quantizers} codebooks: give 1 to that many")
        return n_q

    def encoder_windows(self) -> list[Window]:
        """Return the effective window of each encoder layer.

        With `hybrid_attention` (second generation), the last layer of each group of `swa_per_block` layers is unlimited
        and the others keep the window.
        """
        windows = []
        for i in range(self.encoder_layers):
            unlimited = self.hybrid_attention and i % self.swa_per_block == self.swa_per_block - 1
            window = (-1, -1) if unlimited else self.encoder_attn_window_size
            windows.append(effective_window(window, self.encoder_causal))
        return windows

    @property
    def encoder_is_bounded(self) -> bool:
        """Whether every encoder layer has a limited window, so that long audio is encoded exactly in chunks."""
        return all(min(window) >= 0 for window in self.encoder_windows())

    @property
    def decoder_is_bounded(self) -> bool:
        """Whether every output sample depends on a limited number of codes."""
        windows = self.decoder_windows() + self.vocoder_windows()
        return self.upsample_norm == "layer" and all(min(window) >= 0 for window in windows)

    def decoder_windows(self) -> list[Window]:
        """Return the effective window of each decoder layer."""
        return [effective_window(self.decoder_attn_window_size, self.decoder_causal)] * self.decoder_layers

    def vocoder_windows(self) -> list[Window]:
        """Return the effective window of each vocoder layer."""
        return [self.vocoder_attn_window_size] * self.vocoder_num_layers

    @classmethod
    def from_official(cls, values: dict[str, Any]) -> TokenizerConfig:
        """Read the keys of an official `config.json`; unknown ones are kept in `extra`.

        Args:
            values: the JSON object.

        Raises:
            ValueError: where they do not make a model.

        Example:
            >>> TokenizerConfig.from_official({"codebook_size": [1024, 128], "num_quantizers": 3}).codebook_sizes
            (1024, 128, 128)
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        fields = {}
        extra = {}
        for key, value in values.items():
            name = OFFICIAL_TO_FIELD.get(key, key)
            if name in known and key not in FIELD_TO_OFFICIAL:
                fields[name] = value
            else:
                extra[key] = value
        return cls(**fields, extra=extra)

    def to_official(self) -> dict[str, Any]:
        """Return the keys of an official `config.json`, with this project's own."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        named = {FIELD_TO_OFFICIAL.get(name, name): value for name, value in values.items()}
        return {**self.extra, **named}

    @classmethod
    def load(cls, path: str | Path) -> TokenizerConfig:
        """Read `config.json`.

        Args:
            path: the file.

        Raises:
            ValueError: where it is missing or not a configuration.

        Example:
            >>> TokenizerConfig.load("checkpoints/default/config.json").sample_rate
            24000
        """
        # a pipe would be waited for
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path}: not a regular file")
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError):
            raise ValueError(f"{path}: not valid JSON") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a JSON object of configuration keys")
        try:
            return cls.from_official(values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        return json.dumps(self.to_official(), indent=1) + "\n"


def effective_window(window: Window, causal: bool) -> Window:
    """Return (left, right) after causality, which sets right to 0."""
    return (window[0], 0) if causal else window


def _full_sizes(sizes: Any, count: int) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"codebook_size={list(sizes)!r}: give one or more whole numbers of at least 1")
    # official rule: a list shorter than num_quantizers repeats its last entry
    return (sizes + sizes[-1:] * max(0, count - len(sizes)))[:count]


def _checked_window(name: str, window: Any) -> Window:
    pair = tuple(window) if isinstance(window, (list, tuple)) else ()
    if len(pair) != 2 or any(not isinstance(side, int) or side < -1 for side in pair):
        raise ValueError(f"{name}={window!r}: give [left, right] in frames, -1 for unlimited")
    return pair
