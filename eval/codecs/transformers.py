"""Neural codecs of transformers: EnCodec, Mimi, DAC, X-Codec and any other that encodes to `audio_codes`."""

from __future__ import annotations

import inspect
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.codecs.base import CodecResult, CodecSpec, Frames, Timer
from eval.local_files import local_files
from mimotok.weights import require_source

PROBE_SECONDS = 10  # long enough that a last frame's padding does not show in the frame rate
# model types whose quantizer takes codes as [n_q, B, F]; the others take [B, n_q, F]
CODEBOOKS_FIRST = ("encodec", "xcodec")


class HuggingFaceCodec:
    """A codec by its hub id or folder, with all its codebooks (EnCodec: at its highest bandwidth) or the first n_q.

    Its file is a plain .npz of the codes, as uint16.
    """

    def __init__(self, spec: CodecSpec, source: str, device: str) -> None:
        """Load the model.

        Args:
            spec: names the codec in reports and says how many codebooks to use.
            source: hub id or folder.
            device: where the model runs.

        Raises:
            ImportError: transformers is missing.
            OSError: there is no such model.
            ValueError: the model is not a codec, or has fewer codebooks.
        """
        try:
            from transformers import AutoFeatureExtractor, AutoModel
        except ImportError as error:
            raise ImportError("codecs of transformers need: pip install 'mimotok[hf]'") from error
        require_source(source)
        self.extractor: Any = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(source, trust_remote_code=False, weights_only=True)
        self.model: Any = model.to(device).eval()
        if not (hasattr(self.model, "encode") and hasattr(self.model, "decode")):
            raise ValueError(f"{source}: a {self.model.config.model_type} model, which is not a codec")
        self.device = device
        self.config = self.model.config
        self.label = spec.label
        self.sample_rate = int(self.extractor.sampling_rate)
        # all codebooks, until it is known how many there are
        self.n_q: int | None = None
        codes = _flat(self._encode(np.zeros(PROBE_SECONDS * self.sample_rate, np.float32))["audio_codes"])
        if spec.n_q is not None and not 1 <= spec.n_q <= len(codes):
            raise ValueError(f"n_q={spec.n_q}, but this codec has {len(codes)} codebooks")
        self.n_q = len(codes) if spec.n_q is None else spec.n_q
        self.codebook_sizes: tuple[int, ...] = (int(self.config.codebook_size),) * self.n_q
        self.bits_per_frame = sum(math.log2(size) for size in self.codebook_sizes)
        self.frame_rate = codes.shape[1] / PROBE_SECONDS
        self.frame_size = self.sample_rate / self.frame_rate
        self.nominal_bitrate: float | None = self.frame_rate * self.bits_per_frame
        self.identity: dict[str, Any] = {
            "kind": "transformers",
            "model": source,
            "revision": getattr(self.config, "_commit_hash", None),
            "n_q": self.n_q,
            **local_files(source),
        }

    @torch.no_grad()
    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """Code wav [T] and reconstruct it, as `Codec.encode_decode`."""
        with Timer() as encoding:
            coded = self._encode(wav)
            codes = _flat(coded["audio_codes"])
        with Timer() as decoding:
            decoded = self._decode(coded)
        bits = codes.shape[1] * self.bits_per_frame
        # frames are whole: cut what the last one adds to the recording
        return CodecResult(decoded[: len(wav)], codes, bits, _file_bits(codes), encoding.seconds, decoding.seconds)

    @torch.no_grad()
    def frames(self, wav: np.ndarray) -> Frames:
        """Encode wav [T] into codes and the quantized vectors that they stand for."""
        codes = _flat(self._encode(wav)["audio_codes"])
        batch = torch.from_numpy(codes)[None].to(self.device)
        quantizer = self.model.quantizer
        if hasattr(quantizer, "from_codes"):
            vectors = quantizer.from_codes(batch)[0]
        else:
            first = self.config.model_type in CODEBOOKS_FIRST
            vectors = quantizer.decode(batch.transpose(0, 1) if first else batch)
        return Frames(vectors[0].T.float().cpu().numpy(), codes, self.frame_rate)

    @torch.no_grad()
    def tokens(self, wav: np.ndarray) -> np.ndarray:
        """Encode wav [T] into codes [n_q, F]."""
        return _flat(self._encode(wav)["audio_codes"])

    @torch.no_grad()
    def _encode(self, wav: np.ndarray) -> dict[str, Any]:
        """Collect what the model's decode needs: the results of its encode, cut to n_q codebooks."""
        channels = getattr(self.config, "audio_channels", 1)
        raw = wav if channels == 1 else np.stack([wav] * channels)
        inputs = self.extractor(raw, sampling_rate=self.sample_rate, return_tensors="pt").to(self.device)
        options = _accepted(self.model.encode, dict(inputs))
        if "bandwidth" in inspect.signature(self.model.encode).parameters:
            options["bandwidth"] = max(self.config.target_bandwidths)
        coded = {**options, **self.model.encode(**options)}
        coded["audio_codes"] = coded["audio_codes"][..., : self.n_q, :]
        return coded

    def _decode(self, coded: dict[str, Any]) -> np.ndarray:
        # a continuous representation, which some models decode instead, would bypass the codes
        given = {name: value for name, value in coded.items() if name.startswith("audio_") or "pad" in name}
        result = self.model.decode(**_accepted(self.model.decode, given))
        values = result["audio_values"].float().cpu().numpy()
        return values.reshape(-1, values.shape[-1]).mean(0)


def _accepted(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that a function has parameters for."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


def _flat(codes: torch.Tensor) -> np.ndarray:
    """Reshape codes [B = 1, n_q, F], or [chunks, 1, n_q, F] of codecs that work in chunks, to [n_q, all F]."""
    chunks = codes[None] if codes.dim() == 3 else codes
    return torch.cat([chunk[0] for chunk in chunks], dim=-1).cpu().numpy()


def _file_bits(codes: np.ndarray) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codes.npz")
        np.savez(path, codes=codes.astype(np.uint16))
        return 8 * path.stat().st_size
