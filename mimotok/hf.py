"""The transformers adapter: `import mimotok.hf` registers our models with transformers' Auto classes.

The files are the official ones: what `AutoModel` saves, `mimotok.Tokenizer` loads, and vice versa. It needs pip install
'mimotok[hf]'.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimotok.config import MAX_FFT, TokenizerConfig
from mimotok.io.terminal.streams import shortened
from mimotok.model.lengths import valid_mask
from mimotok.model.mel import hann_window, log_mel
from mimotok.model.quantizer import Codebook, ResidualQuantizer
from mimotok.model.transformer import Block, RMSNorm, Stack
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
    import transformers
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForAudioTokenization,
        BatchFeature,
        EncodecFeatureExtractor,
        PreTrainedConfig,
    )
    from transformers import initialization as init
    from transformers.modeling_layers import GradientCheckpointingLayer
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

    Other models' names stand for ours: `hidden_size` for `d_model`, `num_hidden_layers` and `num_attention_heads` for
    those of the encoder; `frame_rate`, `frame_size` and `audio_channels` follow from the rest.

    Raises:
        ValueError: naming field and value, where they do not make a model.

    Example:
        >>> MimoAudioTokenizerConfig().sampling_rate
        24000
    """

    model_type = MODEL_TYPE
    attribute_map = {  # noqa: RUF012  (transformers reads it off the class)
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }

    def __init__(self, **values: Any) -> None:
        given = {key: values.pop(key) for key in OFFICIAL_KEYS if key in values}
        for name, key in self.attribute_map.items():
            value = values.pop(name, given.get(key))
            if value != given.get(key, value):
                raise ValueError(f"{name}={shortened(value)}, but {key}={shortened(given[key])}: give one of them")
            given |= {key: value} if value is not None else {}
        derived = {name: values.pop(name) for name in ("frame_rate", "frame_size", "audio_channels") if name in values}
        official = TokenizerConfig.from_official(given).to_official()
        super().__init__(**{key: official[key] for key in OFFICIAL_KEYS if key in official}, **values)
        for name, value in derived.items():
            if value != getattr(self, name):
                raise ValueError(f"{name}={shortened(value)}, but this model's is {getattr(self, name)}: leave it out")

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.to_tokenizer_config().frame_rate

    @property
    def frame_size(self) -> int:
        """Samples per code frame."""
        return self.to_tokenizer_config().frame_size

    @property
    def audio_channels(self) -> int:
        """Channels of the sound."""
        return 1

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


class MimoAudioTokenizerAudioProcessor(MimoAudioTokenizerFeatureExtractor):
    """The feature extractor with the names that audio processors give: `audio_values`, and `audio_values_mask` [B, T].

    Drafts of transformers put `AutoAudioProcessor` in the place of AutoFeatureExtractor, and find this class for our
    folders. Releases up to 5.24 have none; pass the two tensors to `encode` in this order.

    Example:
        >>> processor = MimoAudioTokenizerAudioProcessor(sampling_rate=24000)
        >>> processor(torch.zeros(9600).numpy(), sampling_rate=24000, return_tensors="pt").audio_values.shape
        torch.Size([1, 1, 9600])
    """

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Do as the feature extractor does."""
        found = super().__call__(*args, **kwargs)
        names = {"input_values": "audio_values", "padding_mask": "audio_values_mask"}
        return BatchFeature({names.get(name, name): values for name, values in found.items()})


@dataclass
class MimoAudioTokenizerEncoderOutput(ModelOutput):
    """The result of `encode`.

    Attributes:
        audio_codes: int64 [B, n_q, F], 0 past a clip's end.
        audio_codes_mask: bool [B, F], True = valid.
        latents: [B, F, D] before the quantizer, 0 past a clip's end.
        hidden_states: what goes into the encoder's Transformer and what each of its layers gives, [B, T, D] at 50 Hz,
            meaningless past a clip's end; with `output_hidden_states` only.
    """

    audio_codes: Tensor
    audio_codes_mask: Tensor | None = None
    latents: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class MimoAudioTokenizerDecoderOutput(ModelOutput):
    """The result of `decode`.

    Attributes:
        audio_values: float32 [B, 1, T] in [-1, 1].
        hidden_states: what goes into the decoder's Transformer and what each of its layers gives, [B, T, D] at 50 Hz;
            with `output_hidden_states` only.
    """

    audio_values: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class MimoAudioTokenizerOutput(ModelOutput):
    """The result of `forward`.

    Attributes:
        audio_codes: int64 [B, n_q, F].
        audio_values: float32 [B, 1, T].
        encoder_hidden_states: as of `encode`, unless codes were given.
        decoder_hidden_states: as of `decode`.
    """

    audio_codes: Tensor
    audio_values: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None


class _NamedQuantizer(ResidualQuantizer):
    """The quantizer with the official file's names of its codebooks, so that no key needs a map."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        codebooks = super().codebooks()
        del self.layers
        self.vq = nn.Module()
        self.vq.layers = nn.ModuleList(nn.Module() for _ in codebooks)
        for layer, codebook in zip(self.vq.layers, codebooks, strict=True):
            layer._codebook = codebook

    def codebooks(self) -> list[Codebook]:
        """Return the codebooks."""
        return [layer._codebook for layer in self.vq.layers]  # type: ignore[union-attr]


class MimoAudioTokenizerBlock(GradientCheckpointingLayer, Block):
    """A Transformer block that transformers can tell to compute its activations anew in the backward pass.

    Example:
        >>> model = MimoAudioTokenizerModel.from_pretrained("checkpoints/default")
        >>> isinstance(model.encoder.layers[0], MimoAudioTokenizerBlock)
        True
    """


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
    _no_split_modules = [MimoAudioTokenizerBlock.__name__]  # noqa: RUF012
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    # those that are KeepsFloat32 in the plain library
    _keep_in_fp32_modules_strict = [  # noqa: RUF012
        r"encoder\.conv1",
        r"encoder\.conv2",
        r"encoder\.layers\.\d+\.self_attn_layer_norm",
        r"encoder\.layers\.\d+\.final_layer_norm",
        r"encoder\.layer_norm",
        r"encoder\.down_sample_layer",
        r"encoder\.down_sample_norm",
        r"encoder\.quantizer",
    ]
    # a constant that the official file stores; ours is computed
    _keys_to_ignore_on_load_unexpected = [WINDOW_KEY.replace(".", r"\.")]  # noqa: RUF012

    def __init__(self, config: MimoAudioTokenizerConfig) -> None:
        super().__init__(config)
        tokenizer = Tokenizer(config.to_tokenizer_config())
        skip = tokenizer.config.encoder_skip_layer_id or 0
        early = [rf"encoder\.layers\.{number}\.fc1" for number in range(skip)]
        self._keep_in_fp32_modules_strict = [*self._keep_in_fp32_modules_strict, *early]
        self.encoder = tokenizer.encoder
        self.decoder = tokenizer.decoder
        if isinstance(self.encoder.quantizer, ResidualQuantizer):
            self.encoder.quantizer = _NamedQuantizer(tokenizer.config)
        for block in chain.from_iterable(stack.blocks() for stack in tokenizer.stacks()):
            # the class adds checkpointing and no state; FSDP puts its own over modules in the same way
            block.__class__ = MimoAudioTokenizerBlock
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
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Load a model as every transformers model, but in float32 where no `dtype` is given, whatever the file holds.

        Weights of other sizes than their configuration says are refused, as are NaN and infinity;
        `ignore_mismatched_sizes` lets transformers fill in what does not fit.

        The embedded checkpoint's file is half precision: computed in that, a few codes in a hundred differ from the
        plain library's. dtype="auto" uses the file's dtype.
        """
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        source = pretrained_model_name_or_path
        if source is not None and not _OTHER_WEIGHTS & kwargs.keys():
            where = {name: kwargs[name] for name in _WHERE if name in kwargs}
            _check_weights(source, kwargs.get("config"), **where)
        loaded = super().from_pretrained(source, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        check_finite(str(source or "the weights"), model.state_dict())
        return loaded

    def get_encoded_length(self, input_length: Tensor) -> Tensor:
        """Return the code frames of clips of so many samples, a tensor or a number."""
        return self._tokenizer.num_frames(input_length)

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """Return which code frames are valid, bool [B, F], for a mask of samples [B, T] or [B, 1, T].

        padding_side: "right", or "left" for the mirrored mask; the model itself takes padding on the right.
        """
        lengths = self.get_encoded_length(_mono(padding_mask, "padding_mask").long().sum(1))
        mask = valid_mask(lengths, int(lengths.max()))
        return mask if padding_side == "right" else mask.flip(1)

    @can_return_tuple
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        output_hidden_states: bool | None = None,
    ) -> MimoAudioTokenizerEncoderOutput:
        """Encode sound.

        Args:
            input_values: float [B, 1, T] or [B, T].
            padding_mask: [B, T] or [B, 1, T], 1 = valid, padding on the right.
            num_quantizers: codebooks to use; the checkpoint's default where None.
            output_hidden_states: whether to return them; as the configuration says where None.

        Returns:
            Codes, their mask, and latents.

        Raises:
            ValueError: as `mimotok.Tokenizer.encode`, for padding on the left, and for hidden states of sound that is
                encoded in chunks, above 60 s.
        """
        n_q = self._tokenizer.config.checked_n_q(num_quantizers)
        wav = _mono(input_values, "input_values")
        lengths = _lengths(padding_mask)
        states = None
        if self._wants_states(output_hidden_states):
            states = self._encoder_states(wav, lengths)
        latents, frames = self._tokenizer.encode_latents(wav, lengths, gradients=torch.is_grad_enabled())
        codes = self._tokenizer.quantize(latents, frames, n_q=n_q)
        return MimoAudioTokenizerEncoderOutput(codes, valid_mask(frames, codes.shape[2]), latents, states)

    @can_return_tuple
    def decode(
        self,
        audio_codes: Tensor | None = None,
        padding_mask: Tensor | None = None,
        latents: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> MimoAudioTokenizerDecoderOutput:
        """Decode codes or latents.

        Args:
            audio_codes: int [B, n_q, F].
            padding_mask: of the samples that were encoded. Sound past it is 0 from the next whole frame on, and the
                result has its width.
            latents: [B, F, D], quantized or not, in place of codes.
            output_hidden_states: whether to return them; as the configuration says where None.

        Returns:
            Sound, float32 [B, 1, T].

        Raises:
            ValueError: for both or neither of codes and latents, as `mimotok.Tokenizer.decode`, and for hidden states
                of sound that is decoded in chunks, above 60 s.
        """
        if (audio_codes is None) == (latents is None):
            raise ValueError("decode needs audio_codes or latents, one of them")
        if audio_codes is not None:
            latents = self._tokenizer.dequantize(audio_codes)
        assert latents is not None
        lengths = _lengths(padding_mask)
        if lengths is not None:
            lengths = self._tokenizer.num_frames(lengths)
        states = None
        if self._wants_states(output_hidden_states):
            states = self._decoder_states(latents, lengths)
        wav = self._tokenizer.decode_latents(latents, lengths, gradients=torch.is_grad_enabled()).values
        if padding_mask is not None:
            wav = wav[:, : padding_mask.shape[-1]]
        return MimoAudioTokenizerDecoderOutput(wav[:, None], states)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        audio_codes: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> MimoAudioTokenizerOutput:
        """Encode, unless `audio_codes` are given, and decode: the sound is as long as `input_values`.

        Args:
            input_values: float [B, 1, T] or [B, T].
            padding_mask: [B, T] or [B, 1, T], 1 = valid.
            num_quantizers: codebooks to use.
            audio_codes: int [B, n_q, F].
            output_hidden_states: whether to return them; as the configuration says where None.

        Returns:
            Codes and sound.
        """
        wanted = {"output_hidden_states": self._wants_states(output_hidden_states), "return_dict": True}
        encoder_states = None
        if audio_codes is None:
            with torch.no_grad():
                encoded = self.encode(input_values, padding_mask, num_quantizers, **wanted)
            audio_codes = encoded.audio_codes
            encoder_states = encoded.hidden_states
        decoded = self.decode(audio_codes, padding_mask, **wanted)
        values = decoded.audio_values[..., : input_values.shape[-1]]
        return MimoAudioTokenizerOutput(audio_codes, values, encoder_states, decoded.hidden_states)

    def _encoder_states(self, wav: Tensor, lengths: Tensor | None) -> tuple[Tensor, ...]:
        # on their own: `Tokenizer` encodes in groups and chunks, whose states would have to be put together
        wav = self._tokenizer.checked_wav(wav)
        self._require_one_chunk(self._tokenizer.num_frames(wav.shape[1]))
        mel, mel_lengths = log_mel(wav, None if lengths is None else lengths.to(wav.device), self._tokenizer.config)
        with _recorded(self.encoder.layers) as states:
            self.encoder(mel, mel_lengths)
        return tuple(states)

    def _decoder_states(self, latents: Tensor, lengths: Tensor | None) -> tuple[Tensor, ...]:
        self._require_one_chunk(latents.shape[1])
        with _recorded(self.decoder.layers) as states:
            self.decoder(latents, None if lengths is None else lengths.to(latents.device))
        return tuple(states)

    def _require_one_chunk(self, frames: int) -> None:
        most = self._tokenizer.chunking.chunk_frames
        if frames > most:
            raise ValueError(f"output_hidden_states of {frames} frames: give at most {most}, or leave it out")

    def _wants_states(self, given: bool | None) -> bool:
        return bool(self.config.output_hidden_states if given is None else given)

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


@contextmanager
def _recorded(stack: Stack) -> Iterator[list[Tensor]]:
    """Yield a list that is filled with what goes into a stack and what each of its blocks gives."""
    states: list[Tensor] = []
    blocks = list(stack.blocks())
    hooks = [blocks[0].register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))]
    hooks += [block.register_forward_hook(lambda _, __, hidden: states.append(hidden)) for block in blocks]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


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
    with torch.device("meta"):
        shapes = shapes_of(Tokenizer(settings))
    # what the model has no place for is never loaded; transformers lists it
    check_dtypes(Path(found), {key: header[key] for key in shapes if key in header})
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
    if padding_mask is not None and torch.compiler.is_compiling():  # what a graph computes cannot raise
        return _mono(padding_mask, "padding_mask").long().sum(1)
    if padding_mask is None or bool(padding_mask.all()):
        return None
    mask = _mono(padding_mask, "padding_mask").bool()
    lengths = mask.sum(1)
    wrong = (mask != valid_mask(lengths, mask.shape[1])).any(1)
    if bool(wrong.any()):
        raise ValueError(f"padding_mask[{int(wrong.nonzero()[0])}] has padding before sound: pad on the right")
    return lengths


def register_audio_processor(auto_class: Any) -> None:
    """Register the audio processor with `AutoAudioProcessor`; None, of a version that lacks it, is no error."""
    if auto_class is not None:
        # it may share its registry with AutoFeatureExtractor
        auto_class.register(MimoAudioTokenizerConfig, MimoAudioTokenizerAudioProcessor, exist_ok=True)


AutoConfig.register(MODEL_TYPE, MimoAudioTokenizerConfig)
AutoFeatureExtractor.register(MimoAudioTokenizerConfig, MimoAudioTokenizerFeatureExtractor)
AutoModel.register(MimoAudioTokenizerConfig, MimoAudioTokenizerModel)
AutoModelForAudioTokenization.register(MimoAudioTokenizerConfig, MimoAudioTokenizerModel)
register_audio_processor(getattr(transformers, "AutoAudioProcessor", None))
