"""The transformers adapter: `import mimotok.hf` registers our models with transformers' Auto classes.

The files are the official ones: what `AutoModel` saves, `mimotok.Tokenizer` loads, and vice versa. It needs pip install
'mimotok[hf]'.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimotok.config import MAX_FFT, TokenizerConfig
from mimotok.io.terminal import shortened
from mimotok.model.lengths import valid_mask
from mimotok.model.mel import hann_window
from mimotok.model.quantizer import Codebook, ResidualQuantizer
from mimotok.model.transformer import RMSNorm
from mimotok.tokenizer import Tokenizer
from mimotok.weights import (
    WEIGHTS_NAME,
    WINDOW_KEY,
    check_dtypes,
    check_finite,
    check_sizes,
    read_header,
    save_preprocessor,
    shapes_of,
)

try:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForAudioTokenization,
        EncodecFeatureExtractor,
        PreTrainedConfig,
    )
    from transformers import initialization as init
    from transformers.modeling_utils import PreTrainedAudioTokenizerBase
    from transformers.utils import ModelOutput, cached_file
    from transformers.utils.generic import can_return_tuple
except ImportError as error:
    raise ImportError(f"mimotok.hf needs transformers 5: pip install 'mimotok[hf]' ({error})") from None

MODEL_TYPE = "mimo_audio_tokenizer"
# What says where a hub id's files are, and what asks for other weights than those of the folder.
_WHERE = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")
_OTHER_WEIGHTS = {"ignore_mismatched_sizes", "state_dict", "gguf_file", "quantization_config", "variant"}
FREE_MISSING = 1 << 24  # values that any file may lack
OFFICIAL_KEYS = tuple(sorted(TokenizerConfig.official_keys() - {"model_type"}))


class MimoAudioTokenizerConfig(PreTrainedConfig):
    """The keys of the official `config.json` as attributes, with the defaults of `TokenizerConfig`.

    Raises:
        ValueError: naming field and value, where they do not make a model.

    Example:
        >>> MimoAudioTokenizerConfig().sampling_rate
        24000
    """

    model_type = MODEL_TYPE
    attribute_map = {"hidden_size": "d_model"}  # noqa: RUF012  (transformers reads it off the class)

    def __init__(self, **values: Any) -> None:
        given = {key: values.pop(key) for key in OFFICIAL_KEYS if key in values}
        official = TokenizerConfig.from_official(given).to_official()
        super().__init__(**{key: official[key] for key in OFFICIAL_KEYS if key in official}, **values)

    def to_tokenizer_config(self) -> TokenizerConfig:
        """Return the configuration of `mimotok.Tokenizer`."""
        held = {key: getattr(self, key) for key in OFFICIAL_KEYS if hasattr(self, key)}
        return TokenizerConfig.from_official(held)

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json, and preprocessor_config.json, which AutoFeatureExtractor needs."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        save_preprocessor(Path(save_directory), self.to_tokenizer_config())
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


class MimoAudioTokenizerFeatureExtractor(EncodecFeatureExtractor):
    """Mono sound at `sampling_rate` to `input_values` [B, 1, T] and `padding_mask` [B, T], unchanged.

    Its `from_pretrained` also reads a folder or hub id without preprocessor_config.json, as the official one is;
    AutoFeatureExtractor needs that file.

    Example:
        >>> extractor = MimoAudioTokenizerFeatureExtractor(sampling_rate=24000)
        >>> extractor(torch.zeros(9600).numpy(), sampling_rate=24000, return_tensors="pt").input_values.shape
        torch.Size([1, 1, 9600])

    Raises:
        ValueError: for a rate that no model has, more than one channel, or chunks, to whose size sound would be padded.
    """

    def __init__(self, feature_size: int = 1, sampling_rate: int = 24000, **values: Any) -> None:
        # preprocessor_config.json comes from strangers, as config.json does
        TokenizerConfig(sample_rate=sampling_rate, hop_length=MAX_FFT // 4, n_fft=MAX_FFT)
        for name, value, only in (
            ("feature_size", feature_size, 1),
            ("chunk_length_s", values.get("chunk_length_s"), None),
            ("overlap", values.get("overlap"), None),
        ):
            if value != only:
                raise ValueError(f"{name}={shortened(value)}: this model takes whole clips of one channel, give {only}")
        super().__init__(feature_size, sampling_rate, **values)

    @classmethod
    def get_feature_extractor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read preprocessor_config.json, or config.json where the former is missing."""
        try:
            return super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError:
            config, unused = MimoAudioTokenizerConfig.get_config_dict(pretrained_model_name_or_path, **kwargs)
            if not config:
                raise
            return {"sampling_rate": MimoAudioTokenizerConfig(**config).sampling_rate}, unused


@dataclass
class MimoAudioTokenizerEncoderOutput(ModelOutput):
    """The result of `encode`.

    Attributes:
        audio_codes: int64 [B, n_q, F], 0 past a clip's end.
        audio_codes_mask: bool [B, F], True = valid.
        latents: [B, F, D] before the quantizer, 0 past a clip's end.
    """

    audio_codes: Tensor
    audio_codes_mask: Tensor | None = None
    latents: Tensor | None = None


@dataclass
class MimoAudioTokenizerDecoderOutput(ModelOutput):
    """The result of `decode`.

    Attributes:
        audio_values: float32 [B, 1, T] in [-1, 1].
    """

    audio_values: Tensor


@dataclass
class MimoAudioTokenizerOutput(ModelOutput):
    """The result of `forward`.

    Attributes:
        audio_codes: int64 [B, n_q, F].
        audio_values: float32 [B, 1, T].
    """

    audio_codes: Tensor
    audio_values: Tensor | None = None


class _NamedQuantizer(ResidualQuantizer):
    """The quantizer with the official file's names of its codebooks, so that no key needs a map."""

    def __init__(self, config: TokenizerConfig) -> None:
        nn.Module.__init__(self)
        self.vq = nn.Module()
        self.vq.layers = nn.ModuleList(nn.Module() for _ in config.codebook_sizes)
        for layer, size in zip(self.vq.layers, config.codebook_sizes, strict=True):
            layer._codebook = Codebook(size, config.d_model)

    def codebooks(self) -> list[Codebook]:
        """Return the codebooks."""
        return [layer._codebook for layer in self.vq.layers]  # type: ignore[union-attr]


class MimoAudioTokenizerModel(PreTrainedAudioTokenizerBase):
    """A MiMo-Audio-Tokenizer, official or ours, with transformers' conventions for audio tokenizers.

    Gradients are kept wherever they exist: `encode().latents` passes them to the encoder, `decode` to the decoder and
    to the latents that it is given. Codes are indices and have none, so `forward` trains the decoder alone.
    `return_dict=False` returns tuples. Codebooks are float32 whatever the model's dtype is.

    Raises:
        ValueError: as `mimotok.Tokenizer` does.

    Example:
        >>> model = MimoAudioTokenizerModel.from_pretrained("checkpoints/default")
        >>> model.encode(torch.zeros(1, 1, 9600)).audio_codes.shape
        torch.Size([1, 8, 11])
    """

    config_class = MimoAudioTokenizerConfig
    config: MimoAudioTokenizerConfig
    base_model_prefix = "mimo_audio_tokenizer"
    main_input_name = "input_values"
    input_modalities = "audio"
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True
    # those that are KeepsFloat32 in the plain library
    _keep_in_fp32_modules_strict = [  # noqa: RUF012
        r"encoder\.conv1",
        r"encoder\.conv2",
        r"encoder\.layers\.\d+\.self_attn_layer_norm",
        r"encoder\.layers\.\d+\.final_layer_norm",
        r"encoder\.layer_norm",
        r"encoder\.down_sample_layer",
        r"encoder\.down_sample_norm",
    ]
    # a constant that the official file stores; ours is computed
    _keys_to_ignore_on_load_unexpected = [WINDOW_KEY.replace(".", r"\.")]  # noqa: RUF012

    def __init__(self, config: MimoAudioTokenizerConfig) -> None:
        super().__init__(config)
        tokenizer = Tokenizer(config.to_tokenizer_config())
        self.encoder = tokenizer.encoder
        self.decoder = tokenizer.decoder
        if isinstance(self.encoder.quantizer, ResidualQuantizer):
            self.encoder.quantizer = _NamedQuantizer(tokenizer.config)
        # registered as a module, it would double every key
        object.__setattr__(self, "_plain", tokenizer)
        self.post_init()

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype, of all but what stays in float32."""
        return self._tokenizer.dtype

    @property
    def _tokenizer(self) -> Tokenizer:
        """The plain model around the modules that this one holds now, replaced ones included."""
        tokenizer: Tokenizer = self.__dict__["_plain"]
        tokenizer.encoder = self.encoder
        tokenizer.decoder = self.decoder
        return tokenizer

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as every transformers model, but in float32 where no `dtype` is given, whatever the file holds.

        Weights of other sizes than their configuration says are refused, as are NaN and infinity;
        `ignore_mismatched_sizes` lets transformers fill in what does not fit.

        The embedded checkpoint's file is half precision: computed in that, a few codes in a hundred differ from the
        plain library's. dtype="auto" uses the file's dtype.
        """
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        if args and args[0] is not None and not _OTHER_WEIGHTS & kwargs.keys():
            where = {name: kwargs[name] for name in _WHERE if name in kwargs}
            _check_weights(args[0], kwargs.get("config"), **where)
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        check_finite(str(args[0] if args else "the weights"), model.state_dict())
        return loaded

    @can_return_tuple
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
    ) -> MimoAudioTokenizerEncoderOutput:
        """Encode sound.

        Args:
            input_values: float [B, 1, T] or [B, T].
            padding_mask: [B, T] or [B, 1, T], 1 = valid, padding on the right.
            num_quantizers: codebooks to use; the checkpoint's default where None.

        Returns:
            Codes, their mask, and latents.

        Raises:
            ValueError: as `mimotok.Tokenizer.encode`, and for padding on the left.
        """
        n_q = self._tokenizer.config.checked_n_q(num_quantizers)
        wav = _mono(input_values, "input_values")
        latents, frames = self._tokenizer.encode_latents(wav, _lengths(padding_mask), gradients=torch.is_grad_enabled())
        codes = self._tokenizer.quantize(latents, frames, n_q=n_q)
        return MimoAudioTokenizerEncoderOutput(codes, valid_mask(frames, codes.shape[2]), latents)

    @can_return_tuple
    def decode(
        self,
        audio_codes: Tensor | None = None,
        padding_mask: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> MimoAudioTokenizerDecoderOutput:
        """Decode codes or latents.

        Args:
            audio_codes: int [B, n_q, F].
            padding_mask: of the samples that were encoded. Sound past it is 0 from the next whole frame on, and the
                result has its width.
            latents: [B, F, D], quantized or not, in place of codes.

        Returns:
            Sound, float32 [B, 1, T].

        Raises:
            ValueError: for both or neither of codes and latents, and as `mimotok.Tokenizer.decode`.
        """
        if (audio_codes is None) == (latents is None):
            raise ValueError("decode needs audio_codes or latents, one of them")
        if audio_codes is not None:
            latents = self._tokenizer.dequantize(audio_codes)
        assert latents is not None
        lengths = _lengths(padding_mask)
        if lengths is not None:
            lengths = self._tokenizer.num_frames(lengths)
        wav = self._tokenizer.decode_latents(latents, lengths, gradients=torch.is_grad_enabled()).values
        if padding_mask is not None:
            wav = wav[:, : padding_mask.shape[-1]]
        return MimoAudioTokenizerDecoderOutput(wav[:, None])

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        audio_codes: Tensor | None = None,
    ) -> MimoAudioTokenizerOutput:
        """Encode, unless `audio_codes` are given, and decode: the sound is as long as `input_values`.

        Args:
            input_values: float [B, 1, T] or [B, T].
            padding_mask: [B, T] or [B, 1, T], 1 = valid.
            num_quantizers: codebooks to use.
            audio_codes: int [B, n_q, F].

        Returns:
            Codes and sound.
        """
        if audio_codes is None:
            with torch.no_grad():
                audio_codes = self.encode(input_values, padding_mask, num_quantizers, return_dict=True).audio_codes
        values = self.decode(audio_codes, padding_mask, return_dict=True).audio_values
        return MimoAudioTokenizerOutput(audio_codes, values[..., : input_values.shape[-1]])

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save as every transformers model.

        The folder is also a checkpoint of `mimotok.Tokenizer`, if it is one shard.
        """
        state = self.state_dict() if state_dict is None else state_dict
        window = hann_window(self.config.nfft, torch.device("cpu")).clone()
        super().save_pretrained(save_directory, is_main_process, {**state, WINDOW_KEY: window}, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what a checkpoint lacks, or everything, as `Tokenizer(config)` does."""
        if isinstance(module, Codebook):
            for buffer in module.buffers():
                init.zeros_(buffer)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif (reset := getattr(module, "reset_parameters", None)) is not None:
            reset()


def _check_weights(source: str | os.PathLike[str], config: Any, **where: Any) -> None:
    """Check the weights of a folder or hub id against its configuration, where they are one file.

    Transformers fills what the file lacks with random numbers, as many as the configuration says, and takes weights of
    any dtype. Raises ValueError where sizes differ, more is missing than is there, or floats are none.
    """
    found = cached_file(source, WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **where)
    if found is None:
        return
    if not isinstance(config, MimoAudioTokenizerConfig):
        config = MimoAudioTokenizerConfig.from_pretrained(source, **where)
    settings = config.to_tokenizer_config()
    header = read_header(Path(found))
    check_sizes(Path(found), settings.to_official(), header)
    check_dtypes(Path(found), header)
    with torch.device("meta"):
        shapes = shapes_of(Tokenizer(settings))
    missing = sum(math.prod(shape) for key, shape in shapes.items() if key not in header or header[key].shape != shape)
    present = sum(math.prod(tensor.shape) for tensor in header.values())
    if missing > present + FREE_MISSING:
        raise ValueError(f"{found}: lacks {missing} of the values that its configuration asks for, and has {present}")


def _mono(values: Tensor, name: str) -> Tensor:
    """Return values [B, 1, T] or [B, T] as [B, T]."""
    if values.dim() == 3 and values.shape[1] == 1:
        return values[:, 0]
    if values.dim() != 2:
        raise ValueError(f"{name} has shape {list(values.shape)}: give [batch, 1, samples] or [batch, samples]")
    return values


def _lengths(padding_mask: Tensor | None) -> Tensor | None:
    """Return the valid samples [B] of padding_mask, [B, T] or [B, 1, T]; None where nothing is padded."""
    if padding_mask is None or bool(padding_mask.all()):
        return None
    mask = _mono(padding_mask, "padding_mask").bool()
    lengths = mask.sum(1)
    wrong = (mask != valid_mask(lengths, mask.shape[1])).any(1)
    if bool(wrong.any()):
        raise ValueError(f"padding_mask[{int(wrong.nonzero()[0])}] has padding before sound: pad on the right")
    return lengths


AutoConfig.register(MODEL_TYPE, MimoAudioTokenizerConfig)
AutoFeatureExtractor.register(MimoAudioTokenizerConfig, MimoAudioTokenizerFeatureExtractor)
AutoModel.register(MimoAudioTokenizerConfig, MimoAudioTokenizerModel)
AutoModelForAudioTokenization.register(MimoAudioTokenizerConfig, MimoAudioTokenizerModel)
