"""Models of this package as codecs, with and without quantization."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.codecs.base import CodecResult, CodecSpec, Frames, OwnModel, Timer
from mimotok.code_models import find_code_model
from mimotok.identity import digest_of
from mimotok.io.codes_file import CodesFile, save_codes
from mimotok.tokenizer import Tokenizer


class MimoCodec:
    """A model of ours, or the official one, with its first `n_q` codebooks."""

    def __init__(self, spec: CodecSpec, source: str | None, device: str) -> None:
        """Load the model.

        Args:
            spec: names the codec in reports and says how many codebooks to use.
            source: folder or hub id, None for the embedded checkpoint.
            device: where the model runs.

        Raises:
            ValueError: `source` is not a model, or has fewer codebooks.
        """
        self.tokenizer = Tokenizer.from_pretrained(source, device=device)
        self.n_q = self.tokenizer.config.checked_n_q(spec.n_q)
        self.label = spec.label
        self.sample_rate = self.tokenizer.sample_rate
        self.frame_size = float(self.tokenizer.frame_size)
        self.codebook_sizes = self.tokenizer.codebook_sizes[: self.n_q]
        self.nominal_bitrate: float | None = self.tokenizer.bitrate(self.n_q)
        self.model_identity = self.tokenizer.identity
        self.identity: dict[str, Any] = {"kind": "mimotok", **_settings(self.tokenizer), "n_q": self.n_q}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Code wav [T] and reconstruct it, as `Codec.encode_decode`."""
        with Timer() as encoding:
            codes = self._encode(wav).cpu()
        with Timer() as decoding:
            decoded = self.tokenizer.decode(codes, length=len(wav))[0].cpu().numpy()
        bits = codes.shape[2] * sum(math.log2(size) for size in self.codebook_sizes)
        file_bits = self._file_bits(codes[0].numpy(), len(wav))
        return CodecResult(decoded, codes[0].numpy(), bits, file_bits, encoding.seconds, decoding.seconds)

    def frames(self, wav: np.ndarray) -> Frames:
        """Encode wav [T] into codes and the quantized vectors that they stand for."""
        codes = self._encode(wav)
        vectors = self.tokenizer.dequantize(codes)[0].float().cpu().numpy()
        return Frames(vectors, codes[0].cpu().numpy(), self.tokenizer.frame_rate)

    def tokens(self, wav: np.ndarray) -> np.ndarray:
        """Encode wav [T] into codes [n_q, F]."""
        return self._encode(wav)[0].cpu().numpy()

    def own_model(self) -> OwnModel | None:
        """Return the model of codes beside the weights, and the frames of a second, as .mimo files have them."""
        model = find_code_model(self.tokenizer)
        if model is None:
            return None
        return OwnModel(model, max(1, self.tokenizer.sample_rate // self.tokenizer.frame_size))

    def _encode(self, wav: np.ndarray) -> torch.Tensor:
        """Encode wav [T] into codes [1, n_q, F]."""
        return self.tokenizer.encode(torch.from_numpy(wav)[None], n_q=self.n_q)

    def _file_bits(self, codes: np.ndarray, num_samples: int) -> int:
        model = self.tokenizer
        contents = CodesFile(
            codes=codes.astype(np.uint16),
            num_samples=num_samples,
            sample_rate=model.sample_rate,
            frame_rate=model.frame_rate,
            codebook_sizes=self.codebook_sizes,
            model_name=self.model_identity.name,
            model_sha256=self.model_identity.sha256,
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "codes.npz")
            save_codes(path, contents)
            return 8 * path.stat().st_size


class VocoderCodec:
    """A model of ours without quantization: its decoder receives the continuous latents."""

    nominal_bitrate: float | None = None
    codebook_sizes: tuple[int, ...] = ()

    def __init__(self, spec: CodecSpec, source: str | None, device: str) -> None:
        """Load the model; arguments and errors as in `MimoCodec`."""
        self.tokenizer = Tokenizer.from_pretrained(source, device=device)
        self.label = spec.label
        self.sample_rate = self.tokenizer.sample_rate
        self.identity: dict[str, Any] = {"kind": "vocoder", **_settings(self.tokenizer)}

    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Encode wav [T] and reconstruct it, as `Codec.encode_decode`."""
        with Timer() as encoding:
            # .cpu() waits for the device, so that each side's time is its own
            latents = self._latents(wav).cpu()
        with Timer() as decoding:
            decoded = self.tokenizer.decode_latents(latents.to(self.tokenizer.device), length=len(wav)).values
            decoded_wav = decoded[0].cpu().numpy()
        return CodecResult(decoded_wav, None, None, None, encoding.seconds, decoding.seconds)

    def frames(self, wav: np.ndarray) -> Frames:
        """Encode wav [T] into latents."""
        return Frames(self._latents(wav)[0].float().cpu().numpy(), None, self.tokenizer.frame_rate)

    def _latents(self, wav: np.ndarray) -> torch.Tensor:
        return self.tokenizer.encode_latents(torch.from_numpy(wav)[None]).values


def _settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a model's codes and sound depend on: its weights, and its configuration as a digest."""
    return {"sha256": tokenizer.weights_sha256, "config": digest_of(tokenizer.config.to_official())}
