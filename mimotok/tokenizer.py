"""Tokenizer: wav to codes and back, by default at 25 code frames per second."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from mimotok.batching import map_in_groups
from mimotok.chunking import Chunking
from mimotok.codes import check_entries, check_form
from mimotok.config import TokenizerConfig
from mimotok.identity import Identity, ModelIdentity
from mimotok.io.sound.levels import level_problem
from mimotok.model.decoder import Decoder
from mimotok.model.encoder import Encoder
from mimotok.model.lengths import Count, checked_lengths, code_frames, valid_mask, zero_padding
from mimotok.model.linear import dtype_of
from mimotok.model.mel import log_mel
from mimotok.model.transformer import Stack
from mimotok.tensors import check_tensor
from mimotok.weights import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    check_sizes,
    load_state,
    read_header,
    resolve_folder,
    save_state,
    weights_path,
)

# Of a batch at once on a CPU: enough to fill a core, little enough for its cache.
GROUP_SECONDS = 10


class Padded(NamedTuple):
    """A padded batch: values [B, ...] and the valid lengths [B] of its items."""

    values: Tensor
    lengths: Tensor


class Tokenizer(nn.Module):
    """A MiMo-Audio-Tokenizer (Xiaomi, 2025), official or ours.

    Sound is float32 [B, T] in [-1, 1] at `sample_rate`; codes are int64 [B, n_q, F] at `frame_rate`. The result of a
    clip in a padded batch equals the result of the clip alone.

    Args:
        config: the sizes and rates of the model; its weights are random. `from_pretrained` loads weights.
        name: what codes files call the model.

    Attributes:
        config: the sizes and rates of the model.
        name: what codes files call the model.
        folder: folder of the weights; None for a model that was not loaded.
        chunking: how long input is cut.

    Example:
        >>> tokenizer = Tokenizer.from_pretrained()
        >>> tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.n_q
        (24000, 25.0, 8)
    """

    def __init__(self, config: TokenizerConfig, *, name: str = "unnamed") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.chunking = Chunking(config)
        self.folder: Path | None = None
        self._identity = Identity(self)
        self._group_samples = GROUP_SECONDS * config.sample_rate
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tokenizer:
        """Load a model. Only safetensors are read.

        Args:
            source: a folder with config.json and model.safetensors, or a hub id; None for the embedded checkpoint.
            revision: branch, tag or commit of a hub id.
            device: where the model goes.
            dtype: of the weights; codebooks, and what of the encoder decides codes, are always float32.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: where the source does not exist or does not make a model, and for another dtype than float32,
                bfloat16 and float16.

        Example:
            >>> tokenizer = Tokenizer.from_pretrained()
        """
        device = checked_device(device)
        check_dtype(dtype)
        folder = resolve_folder(source, revision)
        config = TokenizerConfig.load(folder / CONFIG_NAME)
        weights = weights_path(folder)
        check_sizes(weights, config.to_official(), read_header(weights))
        with torch.device("meta"):
            model = cls(config, name=_name_of(source, folder))
        load_state(folder, model, device=device, dtype=dtype)
        _keep_freed_memory()
        # the working directory may change
        model.folder = folder.absolute()
        model._identity = Identity(model, model.folder / WEIGHTS_NAME)
        return model

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors in the official layout.

        Args:
            folder: where to write.
            dtype: of the stored weights, theirs where None; codebooks, and what of the encoder decides codes, stay
                in float32.

        Raises:
            ValueError: where the folder cannot be written, and for another dtype than float32, bfloat16 and float16.

        Example:
            >>> tokenizer.save_pretrained("my-model/")  # doctest: +SKIP
        """
        if dtype is not None:
            check_dtype(dtype)
        save_state(Path(folder), self, self.config, dtype)

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.config.sample_rate

    @property
    def frame_size(self) -> int:
        """Samples per code frame."""
        return self.config.frame_size

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.config.frame_rate

    @property
    def n_q(self) -> int:
        """Codebooks in use by default."""
        return self.config.n_q

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, all of them."""
        return self.config.codebook_sizes

    def bitrate(self, n_q: int | None = None) -> float:
        """Compute the nominal bit/s at `n_q` codebooks, the default number where None.

        Example:
            >>> Tokenizer.from_pretrained().bitrate(8)
            1550.0
        """
        return self.config.bitrate(n_q)

    def num_frames(self, num_samples: Count) -> Count:
        """Return the code frames of clips of `num_samples` samples, a number or a tensor.

        Example:
            >>> Tokenizer.from_pretrained().num_frames(24000)
            26
        """
        return code_frames(num_samples, self.config.hop_length, self.config.frame_stride)

    @property
    def weights_sha256(self) -> str:
        """Hex SHA-256 of the weights file, or of the tensors where these are no file's: see `identity`."""
        return self.identity.sha256

    @property
    def identity(self) -> ModelIdentity:
        """What codes say of the model: its name, and the SHA-256 of its weights, both of what it holds now.

        The weights are those of the file that they came from as long as they equal it, in the model's dtype: not after
        `load_state_dict` of others, training, adapters, or another file in the place of the first. Then the name says
        "(changed)", and the digest is that of the tensors.
        """
        return self._identity.of(self, self.name)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype; codebooks, and what of the encoder decides codes, are always float32."""
        return dtype_of(self.decoder)

    def stacks(self) -> tuple[Stack, Stack, Stack]:
        """Return the Transformer stacks of the encoder, the decoder and the vocoder."""
        return self.encoder.layers, self.decoder.layers, self.decoder.vocoder.layers

    @overload
    def encode(self, wav: Tensor, lengths: None = None, *, n_q: int | None = None) -> Tensor: ...
    @overload
    def encode(self, wav: Tensor, lengths: Tensor, *, n_q: int | None = None) -> Padded: ...
    @torch.no_grad()
    def encode(self, wav: Tensor, lengths: Tensor | None = None, *, n_q: int | None = None) -> Tensor | Padded:
        """Encode sound to codes.

        Args:
            wav: float [B, T] in [-1, 1] at `sample_rate`.
            lengths: [B] valid samples of each clip of a padded batch.
            n_q: codebooks to use, from 1 up; the checkpoint's default where None.

        Returns:
            Codes int64 [B, n_q, F] at `frame_rate`; with `lengths` a pair of the codes and their lengths [B], where
            codes past a clip's length are 0.

        Raises:
            ValueError: for another shape, integer or non-finite samples, peaks above 16, lengths outside 1 to T, or n_q
                out of range.

        Example:
            >>> codes = tokenizer.encode(torch.zeros(1, 9600))
            >>> codes.shape[0], codes.dtype
            (1, torch.int64)
            >>> codes, code_lengths = tokenizer.encode(torch.zeros(2, 9600), torch.tensor([9600, 4800]))
            >>> code_lengths.tolist()
            [11, 6]
        """
        n_q = self.config.checked_n_q(n_q)
        wav, lengths = self._checked(wav, lengths)

        def codes_of(wav: Tensor, lengths: Tensor | None) -> Tensor:
            mel = log_mel(wav, lengths, self.config)
            latents = self.chunking.encode(self.encoder, *mel)
            return self.encoder.quantizer.encode(latents, n_q)

        size = self.num_frames(wav.shape[1])
        codes = map_in_groups(codes_of, wav, lengths, limit=self._group_samples, size=size, dim=2)
        if lengths is None:
            return codes
        frames = self.num_frames(lengths)
        return Padded(codes * valid_mask(frames, codes.shape[2])[:, None, :], frames)

    def encode_latents(self, wav: Tensor, lengths: Tensor | None = None, *, gradients: bool = False) -> Padded:
        """Encode sound to the continuous latents before the quantizer.

        Args:
            wav: float [B, T] in [-1, 1] at `sample_rate`.
            lengths: [B] valid samples of each clip of a padded batch.
            gradients: whether to record gradients, for training.

        Returns:
            Latents [B, F, D] and their lengths [B]; latents past a clip's length are 0.

        Raises:
            ValueError: as `encode`.

        Example:
            >>> latents, lengths = tokenizer.encode_latents(torch.zeros(1, 9600))
            >>> latents.shape[1] == lengths[0] == 11
            tensor(True)
        """

        def latents_of(wav: Tensor, lengths: Tensor | None) -> Tensor:
            mel = log_mel(wav, lengths, self.config)
            return self.chunking.encode(self.encoder, *mel)

        with torch.set_grad_enabled(gradients):
            wav, lengths = self._checked(wav, lengths)
            size = self.num_frames(wav.shape[1])
            latents = map_in_groups(latents_of, wav, lengths, limit=self._group_samples, size=size)
            if lengths is None:
                return Padded(latents, self.num_frames(_full_lengths(wav)))
            frames = self.num_frames(lengths)
            return Padded(zero_padding(latents, frames), frames)

    @torch.no_grad()
    def quantize(self, latents: Tensor, lengths: Tensor | None = None, *, n_q: int | None = None) -> Tensor:
        """Quantize latents to codes.

        Args:
            latents: [B, F, D].
            lengths: [B] valid code frames of each item.
            n_q: codebooks to use; the checkpoint's default where None.

        Returns:
            Codes int64 [B, n_q, F], 0 past an item's length.

        Raises:
            ValueError: for latents of another shape or dtype, and for n_q or lengths out of range.

        Example:
            >>> codes = tokenizer.quantize(tokenizer.encode_latents(torch.zeros(1, 9600)).values, n_q=2)
            >>> codes.shape
            torch.Size([1, 2, 11])
        """
        latents, lengths = self._checked_latents(latents, lengths)
        codes = self.encoder.quantizer.encode(latents, self.config.checked_n_q(n_q))
        if lengths is None:
            return codes
        return codes * valid_mask(lengths, codes.shape[2])[:, None, :]

    @torch.no_grad()
    def dequantize(self, codes: Tensor) -> Tensor:
        """Look up codes.

        Args:
            codes: whole numbers [B, n_q, F], n_q from 1 to all codebooks.

        Returns:
            Quantized vectors float32 [B, F, D].

        Raises:
            ValueError: for another shape, another dtype than whole numbers, and codes outside their codebooks.

        Example:
            >>> quantized = tokenizer.dequantize(torch.zeros(1, 2, 11, dtype=torch.int64))
            >>> quantized.shape[:2]
            torch.Size([1, 11])
        """
        check_form(codes)
        n_q = self.config.checked_n_q(codes.shape[1])
        check_entries(codes, self.codebook_sizes[:n_q])
        return self.encoder.quantizer.decode(codes.to(self.device, torch.int64))

    @overload
    def decode(self, codes: Tensor, lengths: None = None, *, length: int | None = None) -> Tensor: ...
    @overload
    def decode(self, codes: Tensor, lengths: Tensor, *, length: int | None = None) -> Padded: ...
    def decode(self, codes: Tensor, lengths: Tensor | None = None, *, length: int | None = None) -> Tensor | Padded:
        """Decode codes to sound.

        Args:
            codes: whole numbers [B, n_q, F], n_q from 1 to all codebooks.
            lengths: [B] valid code frames of each item of a padded batch.
            length: samples to keep, at most F * frame_size.

        Returns:
            wav float32 [B, T] at `sample_rate`; with `lengths` a pair of the wav and its lengths [B], where samples
            past an item's length are 0.

        Raises:
            ValueError: for another shape, codes outside their codebooks, or lengths out of range.

        Example:
            >>> wav = tokenizer.decode(torch.zeros(1, 2, 11, dtype=torch.int64), length=9600)
            >>> wav.shape
            torch.Size([1, 9600])
        """
        wav = self.decode_latents(self.dequantize(codes), lengths, length=length)
        return wav.values if lengths is None else wav

    def decode_latents(
        self,
        latents: Tensor,
        lengths: Tensor | None = None,
        *,
        length: int | None = None,
        gradients: bool = False,
    ) -> Padded:
        """Decode latents, quantized or not, to sound.

        Args:
            latents: [B, F, D].
            lengths: [B] valid code frames of each item of a padded batch.
            length: samples to keep, at most F * frame_size.
            gradients: whether to record gradients, for training.

        Returns:
            wav float32 [B, T] and its lengths [B]; samples past an item's length are 0.

        Raises:
            ValueError: for latents of another shape or dtype, and for lengths out of range.

        Example:
            >>> latents = tokenizer.encode_latents(torch.zeros(1, 9600)).values
            >>> tokenizer.decode_latents(latents, length=9600).values.shape
            torch.Size([1, 9600])
        """
        latents, lengths = self._checked_latents(latents, lengths)
        size = latents.shape[1] * self.frame_size
        if length is not None and not 0 < length <= size:
            raise ValueError(f"length={length} samples, but {latents.shape[1]} frames give 1 to {size}")

        def wav_of(latents: Tensor, lengths: Tensor | None) -> Tensor:
            return self.chunking.decode(self.decoder, latents, lengths)

        limit = round(GROUP_SECONDS * self.frame_rate)
        with torch.set_grad_enabled(gradients):
            wav = map_in_groups(wav_of, latents, lengths, limit=limit, size=size)[:, :length]
            if lengths is None:
                return Padded(wav, _full_lengths(wav))
            samples = (lengths * self.frame_size).clamp(max=wav.shape[1])
            return Padded(wav * valid_mask(samples, wav.shape[1]), samples)

    def reconstruct(self, wav: Tensor, *, n_q: int | None = None) -> Tensor:
        """Encode and decode sound.

        Args:
            wav: float [B, T] in [-1, 1] at `sample_rate`.
            n_q: codebooks to use; the checkpoint's default where None.

        Returns:
            wav float32 [B, T].

        Raises:
            ValueError: as `encode`.

        Example:
            >>> tokenizer.reconstruct(torch.zeros(1, 9600)).shape
            torch.Size([1, 9600])
        """
        return self.decode(self.encode(wav, n_q=n_q), length=wav.shape[-1])

    def forward(self, wav: Tensor, *, n_q: int | None = None) -> Tensor:
        """Encode and decode sound, as `reconstruct`: what summaries, profilers and wrappers of modules call."""
        return self.reconstruct(wav, n_q=n_q)

    def checked_wav(self, wav: Tensor) -> Tensor:
        """Return wav [B, T] as float32 on the model's device.

        Raises ValueError where it is not a batch of finite floating point samples.
        """
        check_tensor(wav, "wav")
        if wav.dim() != 2:
            raise ValueError(f"wav has shape {list(wav.shape)}: give [batch, samples]")
        if wav.shape[0] == 0 or wav.shape[1] == 0:
            raise ValueError(f"wav has shape {list(wav.shape)}: give at least one clip and one sample")
        if not wav.is_floating_point():
            raise ValueError(f"wav has dtype {wav.dtype}: give floating point samples in [-1, 1]")
        if torch.compiler.is_compiling():  # what a graph computes cannot raise
            return wav.to(self.device, torch.float32)
        # NaN if there is one; a fifteenth of isfinite's time
        low, high = torch.stack(torch.aminmax(wav)).tolist()
        problem = level_problem(low, high)
        if problem is not None:
            raise ValueError(f"wav holds {problem}")
        return wav.to(self.device, torch.float32)

    def _checked_latents(self, latents: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return latents [B, F, D] and their lengths [B] on the model's device.

        Raises ValueError for another shape or dtype, lengths out of range, and valid values that are not finite.
        """
        check_tensor(latents, "latents")
        width = self.config.d_model
        if latents.dim() != 3 or 0 in latents.shape or latents.shape[2] != width:
            raise ValueError(f"latents have shape {list(latents.shape)}: give [batch, frames, {width}], none of them 0")
        if not latents.is_floating_point():
            raise ValueError(f"latents have dtype {latents.dtype}: give floating point vectors")
        latents = latents.to(self.device)
        if lengths is not None:
            lengths = checked_lengths(lengths, latents, "frames")
        if torch.compiler.is_compiling():  # what a graph computes cannot raise
            return latents, lengths
        low, high = torch.stack(torch.aminmax(zero_padding(latents.detach(), lengths))).tolist()
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError("latents hold NaN or infinite values: give finite ones")
        return latents, lengths

    def _checked(self, wav: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        wav = self.checked_wav(wav)
        if lengths is None:
            return wav, None
        return wav, checked_lengths(lengths, wav, "samples")


def _full_lengths(batch: Tensor) -> Tensor:
    return torch.full((batch.shape[0],), batch.shape[1], device=batch.device)


def check_dtype(dtype: torch.dtype) -> None:
    """Check the dtype of weights. Raises ValueError for another than float32, bfloat16 and float16."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype={dtype}: give torch.float32, torch.bfloat16 or torch.float16")


def checked_device(device: str | torch.device) -> torch.device:
    """Return `device` as torch names it. Raises ValueError where this machine has none such, and for "meta"."""
    try:
        known = torch.device(device)
        torch.empty(0, device=known)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"device={device}: this machine or this torch has none; cpu always works") from None
    if known.type == "cpu" and known.index:
        raise ValueError(f"device={device}: torch has one cpu for all cores; give cpu")
    if known.type == "meta":
        raise ValueError("device=meta holds no weights: load to cpu, or build Tokenizer(config) for shapes alone")
    return known


def _keep_freed_memory() -> None:
    """Make glibc keep some 60 MB of freed memory, on which a tenth of the time depends.

    It gives back to the system what exceeds twice the largest block below 32 MB that it has seen freed, and layers of a
    10 s clip would meet fresh pages again and again. The block here is never touched, so that it costs no memory.
    """
    torch.empty(30 << 20, dtype=torch.uint8)


def _name_of(source: str | Path | None, folder: Path) -> str:
    if source is None:
        return "mimotok-default"
    return folder.resolve().name if Path(source).is_dir() else str(source)
