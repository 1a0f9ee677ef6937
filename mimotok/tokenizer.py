"""Tokenizer: wav to codes and back, at 25 codes per second and codebook by default."""

from __future__ import annotations

from pathlib import Path
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimotok.chunking import Run, decoder_context, encoder_context, grouped, piece_frames, pieces
from mimotok.codes import check_entries, check_form
from mimotok.config import TokenizerConfig
from mimotok.model.decoder import Decoder
from mimotok.model.encoder import Encoder
from mimotok.model.lengths import ceil_div, checked_lengths, code_frames, mel_frames, valid_mask, zero_padding
from mimotok.model.mel import log_mel
from mimotok.weights import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    load_state,
    resolve_folder,
    save_state,
    sha256_of_file,
    sha256_of_model,
)

# Segments encoded in one go: bounds memory on hours of audio.
SEGMENTS_AT_ONCE = 4
# Of a batch at once on a CPU: enough to fill a core, little enough for its cache.
GROUP_SECONDS = 10


class Tokenizer(nn.Module):
    """A MiMo-Audio-Tokenizer (Xiaomi, 2025), official or ours.

    wav is float32 [B, T] in [-1, 1] at `sample_rate`; codes are int64 [B, n_q, F] at `frame_rate`. With `lengths`
    the clips of a padded batch give what each gives alone, and methods return (result, its lengths).
    Raises ValueError for wrong shapes, dtypes, lengths, and codes out of range.

    name: what codes files call the model; folder: where its weights were read, None where nowhere.
    """

    def __init__(self, config: TokenizerConfig, *, name: str = "unnamed") -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.folder: Path | None = None
        self._sha256: str | None = None
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
        """The embedded checkpoint (None), a folder with config.json and model.safetensors, or a hub id at `revision`.

        Reads safetensors only. Raises ValueError where the source does not exist or does not make a model.
        """
        device = checked_device(device)
        folder = resolve_folder(source, revision)
        config = TokenizerConfig.load(folder / CONFIG_NAME)
        with torch.device("meta"):
            model = cls(config, name=_name_of(source, folder))
        load_state(folder, model, device=device, dtype=dtype)
        _let_freed_memory_stay()
        model.folder = folder
        return model

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Writes config.json and model.safetensors, in the official layout; weights as `dtype`, codebooks in fp32."""
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
        """Nominal bit/s at `n_q` codebooks."""
        return self.config.bitrate(n_q)

    def num_frames(self, num_samples: int) -> int:
        """Code frames of a clip of `num_samples` samples."""
        return code_frames(num_samples, self.config.hop_length, self.config.frame_stride)

    @property
    def weights_sha256(self) -> str:
        """Hex SHA-256 of the weights file, or of the tensors where the model came from no file."""
        if self._sha256 is None:
            here = self.folder
            self._sha256 = sha256_of_model(self) if here is None else sha256_of_file(here / WEIGHTS_NAME)
        return self._sha256

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype; codebooks are always float32."""
        return next(self.parameters()).dtype

    @overload
    def encode(self, wav: Tensor, lengths: None = None, *, n_q: int | None = None) -> Tensor: ...
    @overload
    def encode(self, wav: Tensor, lengths: Tensor, *, n_q: int | None = None) -> tuple[Tensor, Tensor]: ...
    @torch.no_grad()
    def encode(
        self, wav: Tensor, lengths: Tensor | None = None, *, n_q: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """wav: [B, T], lengths: [B] samples. Returns codes int64 [B, n_q, F], with lengths also theirs [B].

        Codes past an item's length are 0.
        """
        n_q = self.config.checked_n_q(n_q)
        wav, lengths = self._checked(wav, lengths)

        def run(wav: Tensor, lengths: Tensor | None) -> Tensor:
            return self.quantize(self._latents(wav, lengths), n_q=n_q).transpose(1, 2)

        frames = self._frames(lengths)
        codes = zero_padding(self._grouped_encoder(run, wav, lengths), frames).transpose(1, 2)
        return codes if frames is None else (codes, frames)

    @overload
    def encode_latents(self, wav: Tensor, lengths: None = None) -> Tensor: ...
    @overload
    def encode_latents(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]: ...
    @torch.no_grad()
    def encode_latents(self, wav: Tensor, lengths: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """wav: [B, T]. Returns the continuous latents [B, F, D] before the quantizer, with lengths also theirs [B]."""
        latents, frames = self.forward_encoder(wav, lengths)
        return latents if frames is None else (latents, frames)

    @torch.no_grad()
    def quantize(self, latents: Tensor, lengths: Tensor | None = None, *, n_q: int | None = None) -> Tensor:
        """latents: [B, F, D], lengths: [B] code frames. Returns codes int64 [B, n_q, F], 0 past an item's length."""
        codes = self.encoder.quantizer.encode(latents, self.config.checked_n_q(n_q))
        return codes if lengths is None else codes * valid_mask(lengths, codes.shape[2])[:, None, :]

    @torch.no_grad()
    def dequantize(self, codes: Tensor) -> Tensor:
        """codes: int64 [B, n_q, F] with n_q up to all codebooks. Returns quantized float32 [B, F, D]."""
        self._check_codes(codes)
        return self.encoder.quantizer.decode(codes.to(self.device))

    @overload
    def decode(self, codes: Tensor, lengths: None = None, *, length: int | None = None) -> Tensor: ...
    @overload
    def decode(self, codes: Tensor, lengths: Tensor, *, length: int | None = None) -> tuple[Tensor, Tensor]: ...
    @torch.no_grad()
    def decode(
        self, codes: Tensor, lengths: Tensor | None = None, *, length: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """codes: int64 [B, n_q, F], lengths: [B] code frames. Returns wav float32 [B, T], with lengths also theirs [B].

        length: samples to keep, at most F * frame_size. wav past an item's length is 0.
        """
        quantized = self.dequantize(codes)
        return self.decode_latents(quantized, lengths, length=length)

    @overload
    def decode_latents(self, latents: Tensor, lengths: None = None, *, length: int | None = None) -> Tensor: ...
    @overload
    def decode_latents(
        self, latents: Tensor, lengths: Tensor, *, length: int | None = None
    ) -> tuple[Tensor, Tensor]: ...
    @torch.no_grad()
    def decode_latents(
        self, latents: Tensor, lengths: Tensor | None = None, *, length: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """latents: [B, F, D], quantized or not, lengths: [B] code frames. Returns as `decode`."""
        wav, samples = self.forward_decoder(latents, lengths, length=length)
        return wav if samples is None else (wav, samples)

    def reconstruct(self, wav: Tensor, *, n_q: int | None = None) -> Tensor:
        """wav: [B, T] -> what decoding its codes gives, [B, T]."""
        return self.decode(self.encode(wav, n_q=n_q), length=wav.shape[-1])

    def checked_wav(self, wav: Tensor) -> Tensor:
        """wav: [B, T] as float32 on the model's device. Raises ValueError where it is not finite floating samples."""
        if wav.dim() != 2:
            raise ValueError(f"wav has shape {list(wav.shape)}: give [batch, samples]")
        if wav.shape[0] == 0 or wav.shape[1] == 0:
            raise ValueError(f"wav has shape {list(wav.shape)}: give at least one clip and one sample")
        if not wav.is_floating_point():
            raise ValueError(f"wav has dtype {wav.dtype}: give floating point samples in [-1, 1]")
        low, high = torch.aminmax(wav)  # NaN if there is one; a fifteenth of isfinite's time
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise ValueError("wav holds NaN or infinite samples: clean it first")
        return wav.to(self.device, torch.float32)

    def forward_encoder(self, wav: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What `encode_latents` returns, with gradients, and always a pair: None without `lengths`."""
        wav, lengths = self._checked(wav, lengths)
        frames = self._frames(lengths)
        return zero_padding(self._grouped_encoder(self._latents, wav, lengths), frames), frames

    def forward_decoder(
        self, latents: Tensor, lengths: Tensor | None = None, *, length: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What `decode_latents` returns, with gradients, and always a pair: None without `lengths`."""
        size = latents.shape[1] * self.frame_size
        if length is not None and not 0 < length <= size:
            raise ValueError(f"length={length} samples, but {latents.shape[1]} frames give 1 to {size}")
        if lengths is None:
            return self._waveform(latents, None)[:, :length], None
        lengths = checked_lengths(lengths.to(latents.device), latents.shape[0], latents.shape[1], "frames")
        wav = self._waveform(latents, lengths)[:, :length]
        samples = (lengths * self.frame_size).clamp(max=wav.shape[1])
        return wav * valid_mask(samples, wav.shape[1]), samples

    def _waveform(self, latents: Tensor, lengths: Tensor | None) -> Tensor:
        limit, steps = round(GROUP_SECONDS * self.frame_rate), latents.shape[1] * self.frame_size
        return self._grouped(self._decoded, latents, lengths, limit=limit, steps=steps)

    def _checked(self, wav: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        wav = self.checked_wav(wav)
        if lengths is None:
            return wav, None
        return wav, checked_lengths(lengths.to(wav.device), wav.shape[0], wav.shape[1], "samples")

    def _frames(self, lengths: Tensor | None) -> Tensor | None:
        if lengths is None:
            return None
        return ceil_div(mel_frames(lengths, self.config.hop_length), self.config.frame_stride)

    def _grouped_encoder(self, run: Run, wav: Tensor, lengths: Tensor | None) -> Tensor:
        limit = GROUP_SECONDS * self.sample_rate
        return self._grouped(run, wav, lengths, limit=limit, steps=self.num_frames(wav.shape[1]))

    def _latents(self, wav: Tensor, lengths: Tensor | None) -> Tensor:
        return self._encoded(*log_mel(wav, lengths, self.config))

    def _encoded(self, mel: Tensor, frames: Tensor | None) -> Tensor:
        stride, size = self.config.frame_stride, piece_frames(self.config)
        if mel.shape[1] > size * stride and not self.config.encoder_is_bounded:
            return self._segmented(mel, frames)

        def run(part: Tensor, valid: Tensor | None) -> Tensor:
            return self.encoder(part, valid)[0]

        context = encoder_context(self.config)
        return torch.cat(list(pieces(run, mel, frames, size=size, context=context, taken=stride)), 1)

    def _segmented(self, mel: Tensor, frames: Tensor | None) -> Tensor:
        """As the official pipeline: unlimited attention never sees more than one segment."""
        stride = self.config.frame_stride
        size = piece_frames(self.config) * stride
        batch, count = mel.shape[0], -(-mel.shape[1] // size)
        given = torch.full((batch,), mel.shape[1], device=mel.device) if frames is None else frames
        padded = F.pad(mel, (0, 0, 0, count * size - mel.shape[1]))
        rows = padded.view(batch * count, size, -1)
        starts = torch.arange(count, device=mel.device) * size
        valid = (given[:, None] - starts).clamp(0, size).flatten()
        latents = mel.new_zeros(batch * count, size // stride, self.config.d_model, dtype=self.dtype)
        for part in valid.nonzero().flatten().split(SEGMENTS_AT_ONCE):
            latents[part] = self.encoder(rows[part], valid[part])[0]
        return latents.view(batch, count * size // stride, -1)[:, : -(-mel.shape[1] // stride)]

    def _decoded(self, latents: Tensor, lengths: Tensor | None) -> Tensor:
        if not self.config.decoder_is_bounded:
            return self.decoder(latents, lengths)
        size, context = piece_frames(self.config), decoder_context(self.config)
        return torch.cat(
            list(pieces(self.decoder, latents, lengths, size=size, context=context, made=self.frame_size)), 1
        )

    def _grouped(self, run: Run, given: Tensor, lengths: Tensor | None, *, limit: int, steps: int) -> Tensor:
        """Groups on a CPU, where a large batch leaves the cache; elsewhere, and in training, all at once."""
        if len(given) == 1 or self.device.type != "cpu" or torch.is_grad_enabled():
            return run(given, lengths)
        return grouped(run, given, lengths, limit=limit, steps=steps)

    def _check_codes(self, codes: Tensor) -> None:
        check_form(codes)
        n_q = self.config.checked_n_q(codes.shape[1])
        check_entries(codes, self.codebook_sizes[:n_q])


def checked_device(device: str | torch.device) -> torch.device:
    """`device` as torch names it. Raises ValueError where this machine has none such."""
    try:
        known = torch.device(device)
        torch.empty(0, device=known)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"device={device}: this machine or this torch has none; cpu always works") from None
    return known


def _let_freed_memory_stay() -> None:
    """Makes glibc keep some 60 MB of freed memory, on which a tenth of the time depends.

    It gives back to the system what exceeds twice the largest block below 32 MB that it has seen freed, and layers of a
    10 s clip would meet fresh pages again and again. The block here is never touched, so that it costs no memory.
    """
    torch.empty(30 << 20, dtype=torch.uint8)


def _name_of(source: str | Path | None, folder: Path) -> str:
    if source is None:
        return "mimotok-default"
    return folder.resolve().name if Path(source).is_dir() else str(source)
