"""The model's configuration: a frozen dataclass that reads and writes the official `config.json`."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimotok.fields import (
    check_fields,
    choice,
    closest,
    flag,
    number,
    number_or_null,
    settings,
    text,
    whole,
    whole_or_null,
    wholes,
    window,
)
from mimotok.io.json_object import read_object
from mimotok.io.terminal.streams import shortened

# Where the official key differs from this project's glossary.
OFFICIAL_TO_FIELD = {"sampling_rate": "sample_rate", "nfft": "n_fft", "codebook_size": "codebook_sizes"}
# What official files and transformers also write, which sets nothing here.
OFFICIAL_UNUSED = {
    "max_audio_seconds",
    "scale_embedding",
    "hybrid_block_size",
    "use_istft_only",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
}
# What is not written where it has this value.
UNWRITTEN: dict[str, Any] = {"quantizer": "residual_vq", "quantizer_settings": {}}
FIELD_TO_OFFICIAL = {ours: official for official, ours in OFFICIAL_TO_FIELD.items()}

# Limits of what a model can be: far above those that exist, and low enough that none is built in vain.
MAX_WIDTH = 1 << 14
MAX_LAYERS = 256
MAX_CODEBOOKS = 256
MAX_CODEBOOK_SIZE = 1 << 16  # what the uint16 of codes files and streams holds
# Frames on each side: keys are copied for every block of queries, at a memory in proportion. Wider is unlimited: -1.
MAX_WINDOW = 1024
MAX_FACTOR = 16  # of a stride, a pool or a small kernel
MAX_FFT = 1 << 14
MAX_HOPS = 32  # in an STFT's window; each costs its share of time and memory
MAX_MEL_RATE = 2000  # Hz; the official one is 100
Window = tuple[int, int]


@dataclass(frozen=True)
class TokenizerConfig:
    """The sizes and rates of a model; defaults are the released MiMo-Audio-Tokenizer's.

    Field names are the keys of the official `config.json`, except `sample_rate` (sampling_rate), `n_fft` (nfft) and
    `codebook_sizes` (codebook_size). Windows are (left, right) in frames of the layer's own rate; -1 is unlimited. The
    official format does not have `upsample_norm`, `mel_floor`, `default_n_q` and those of the quantizer's kind. Each
    field has its type and its limits beside it (`mimotok.fields`): configurations come from strangers.

    Attributes:
        upsample_norm: "group" (official: one group, statistics over all of time) or "layer" (over channels only, so
            that decoding is causal and can be streamed).
        mel_floor: lower bound of a mel magnitude before the logarithm.
        default_n_q: codebooks in use when the caller does not say; None means all.
        threshold_ema_dead_code: kept for the official format alone; training revives codes by `dead_code_fraction`.
        quantizer: the kind of quantizer, a name in `mimotok.model.quantizers`.
        quantizer_settings: of the kind, such as the levels of "fsq".
        extra: unknown keys, which `to_official` writes back.

    Raises:
        ValueError: naming field and value, where the fields do not make a model.

    Example:
        >>> config = TokenizerConfig()
        >>> config.frame_rate, config.bitrate(8)
        (25.0, 1550.0)
    """

    sample_rate: int = whole(24000, 1000, 384_000)
    n_fft: int = whole(960, 4, MAX_FFT)
    window_size: int = whole(960, 1, MAX_FFT)
    hop_length: int = whole(240, 1, MAX_FFT)
    n_mels: int = whole(128, 1, 1024)
    fmin: float = number(0.0, 0, 192_000)
    fmax: float | None = number_or_null(None, 0, 192_000)
    mel_floor: float = number(1e-7, 1e-30, 1)

    d_model: int = whole(1280, 1, MAX_WIDTH)
    kernel_size: int = whole(3, 3, 3)  # the stem's padding of 1 needs 3
    stride_size: int = whole(2, 1, MAX_FACTOR)
    avg_pooler: int = whole(2, 1, MAX_FACTOR)
    activation_function: str = choice("gelu", "relu", "silu")
    ln_type: str = choice("LayerNorm", "RMSNorm")
    rope_theta: float = number(10000.0, 1, 1e12)

    encoder_layers: int = whole(32, 1, MAX_LAYERS)
    encoder_skip_layer_id: int | None = whole_or_null(3, 1, MAX_LAYERS)
    encoder_attention_heads: int = whole(20, 1, MAX_WIDTH)
    encoder_ffn_dim: int = whole(5120, 1, 8 * MAX_WIDTH)
    encoder_causal: bool = flag(False)
    encoder_attn_window_size: Window = window((-1, -1), MAX_WINDOW)
    hybrid_attention: bool = flag(False)
    swa_per_block: int = whole(1, 1, MAX_LAYERS)

    num_quantizers: int = whole(20, 1, MAX_CODEBOOKS)
    codebook_sizes: tuple[int, ...] = wholes((1024, 1024, 128), 1, MAX_CODEBOOK_SIZE, most_entries=MAX_CODEBOOKS)
    threshold_ema_dead_code: float = number(2, 0, 1e9)
    quantizer: str = text("residual_vq", 64)
    quantizer_settings: dict[str, Any] = settings(16)
    default_n_q: int | None = whole_or_null(None, 1, MAX_CODEBOOKS)

    decoder_layers: int = whole(32, 1, MAX_LAYERS)
    decoder_attention_heads: int = whole(20, 1, MAX_WIDTH)
    decoder_ffn_dim: int = whole(5120, 1, 8 * MAX_WIDTH)
    decoder_kernel_size: int = whole(3, 1, MAX_FACTOR)
    decoder_stride_size: int = whole(2, 1, MAX_FACTOR)
    decoder_causal: bool = flag(True)
    decoder_attn_window_size: Window = window((-1, -1), MAX_WINDOW)
    upsample_norm: str = choice("group", "layer")

    vocoder_dim: int = whole(256, 1, MAX_WIDTH)
    vocoder_intermediate_dim: int = whole(1024, 1, 8 * MAX_WIDTH)
    vocoder_num_layers: int = whole(16, 1, MAX_LAYERS)
    vocoder_attention_heads: int = whole(16, 1, MAX_WIDTH)
    vocoder_attn_window_size: Window = window((40, 10), MAX_WINDOW)
    vocoder_padding: str = choice("same")

    position_embedding_type: str = choice("rope")
    rope_type: str = choice("default")
    model_type: str = text("mimo_audio_tokenizer", 256)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # every field by itself, before anything is built from it
        check_fields(self, FIELD_TO_OFFICIAL)
        object.__setattr__(self, "codebook_sizes", _full_sizes(self.codebook_sizes, self.num_quantizers))
        for name in ("encoder_attn_window_size", "decoder_attn_window_size", "vocoder_attn_window_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_shapes()
        self._check_rates()
        self._check_counts()

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
        if self.decoder_kernel_size < self.decoder_stride_size:
            raise ValueError(f"decoder_kernel_size={self.decoder_kernel_size} leaves gaps: its stride is larger")
        if self.decoder_stride_size != self.stride_size:
            raise ValueError(
                f"decoder_stride_size={self.decoder_stride_size} does not undo stride_size={self.stride_size}"
            )

    def _check_rates(self) -> None:
        if self.n_fft % 2:
            raise ValueError(f"nfft={self.n_fft}: give an even number")
        if self.window_size > self.n_fft:
            raise ValueError(f"window_size={self.window_size} exceeds nfft={self.n_fft}")
        if 2 * self.hop_length >= self.n_fft:
            raise ValueError(f"hop_length={self.hop_length}: the STFT needs less than nfft / 2 = {self.n_fft / 2}")
        if MAX_HOPS * self.hop_length < self.n_fft:
            raise ValueError(f"hop_length={self.hop_length}: give at least nfft / {MAX_HOPS} = {self.n_fft / MAX_HOPS}")
        if MAX_MEL_RATE * self.hop_length < self.sample_rate:
            raise ValueError(
                f"hop_length={self.hop_length}: give at least sampling_rate / {MAX_MEL_RATE}"
                f" = {self.sample_rate / MAX_MEL_RATE}"
            )
        if not self.fmin < self.mel_top <= self.sample_rate / 2:
            raise ValueError(f"fmin={self.fmin}, fmax={self.fmax}: need 0 <= fmin < fmax <= {self.sample_rate / 2} Hz")

    def _check_counts(self) -> None:
        if self.encoder_skip_layer_id is not None and self.encoder_skip_layer_id > self.encoder_layers:
            raise ValueError(
                f"encoder_skip_layer_id={self.encoder_skip_layer_id}, but there are {self.encoder_layers} layers: "
                "give one of them, counted from 1, or null"
            )
        if self.default_n_q is not None and self.default_n_q > self.num_quantizers:
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

    def __hash__(self) -> int:
        """Hash what `config.json` would hold: two fields are dicts."""
        return hash(self.to_json())

    @property
    def n_q(self) -> int:
        """Codebooks in use by default."""
        return self.num_quantizers if self.default_n_q is None else self.default_n_q

    def bitrate(self, n_q: int | None = None) -> float:
        """Compute the nominal bit/s of the first `n_q` codebooks: frame_rate x sum(log2 size)."""
        n_q = self.checked_n_q(n_q)
        return self.frame_rate * sum(math.log2(size) for size in self.codebook_sizes[:n_q])

    def checked_n_q(self, n_q: int | None) -> int:
        """Return `n_q`, or the default where it is None. Raises ValueError for no whole number in 1..num_quantizers."""
        if n_q is None:
            return self.n_q
        if isinstance(n_q, bool) or not hasattr(n_q, "__index__"):
            raise ValueError(f"n_q={n_q!r}: give a whole number of codebooks")
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
        # files of the official kind stay as they are
        values = {name: value for name, value in values.items() if name not in UNWRITTEN or value != UNWRITTEN[name]}
        named = {FIELD_TO_OFFICIAL.get(name, name): value for name, value in values.items()}
        return {**self.extra, **named}

    @classmethod
    def load(cls, path: str | Path, *, strict: bool = False) -> TokenizerConfig:
        """Read `config.json`.

        A key that looks like a misspelt one gives a warning only: official files hold keys that nothing here needs.

        Args:
            path: the file.
            strict: refuse keys that neither this package nor an official file knows.

        Raises:
            ValueError: where it is missing or not a configuration.

        Example:
            >>> TokenizerConfig.load("checkpoints/default/config.json").sample_rate
            24000
        """
        values = read_object(path)
        try:
            config = cls.from_official(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        known = config.official_keys()
        for key in config.extra:
            if key in OFFICIAL_UNUSED:
                continue
            meant = FIELD_TO_OFFICIAL.get(key) or closest(key, known)
            remedy = f"did you mean {meant}?" if meant else f"known are {', '.join(sorted(known))}"
            if strict:
                raise ValueError(f"{path}: unknown key {shortened(key)}: {remedy}")
            if meant is not None and meant not in values:
                warnings.warn(f"{path}: the key {shortened(key)} has no effect: {remedy}", stacklevel=2)
        return config

    @classmethod
    def official_keys(cls) -> set[str]:
        """Return the keys of `config.json` that set something."""
        return {FIELD_TO_OFFICIAL.get(f.name, f.name) for f in dataclasses.fields(cls) if f.name != "extra"}

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        return json.dumps(self.to_official(), indent=1) + "\n"


def effective_window(window: Window, causal: bool) -> Window:
    """Return (left, right) after causality, which sets right to 0."""
    return (window[0], 0) if causal else window


def _full_sizes(sizes: int | Sequence[int], count: int) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    # official rule: a list shorter than num_quantizers repeats its last entry
    return (sizes + sizes[-1:] * max(0, count - len(sizes)))[:count]
