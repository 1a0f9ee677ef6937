"""Neural codecs from transformers: EnCodec, Mimi, DAC, X-Codec and whatever else encodes to `audio_codes` there."""

from __future__ import annotations

import inspect
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.codecs import CodecResult, CodecSpec, timed

PROBE_SECONDS = 10  # long enough that a last frame's padding does not show in the frame rate


class HuggingFaceCodec:
    """A codec by its hub id or folder, with all its codebooks (EnCodec: at its highest bandwidth) or the first n_q.

    Its file is a plain .npz of the codes, as uint16.
    """

    def __init__(self, spec: CodecSpec, source: str, device: str) -> None:
        """Raises ImportError without transformers, OSError or ValueError where this is no codec's folder or id."""
        try:
            from transformers import AutoFeatureExtractor, AutoModel
        except ImportError as error:
            raise ImportError("codecs of transformers need: pip install 'mimotok[hf]'") from error
        self.extractor: Any = AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(source, trust_remote_code=False, weights_only=True)
        self.model: Any = model.to(device).eval()
        if not (hasattr(self.model, "encode") and hasattr(self.model, "decode")):
            raise ValueError(f"{source}: a {self.model.config.model_type} model, which is no codec")
        self.device, self.config = device, self.model.config
        self.label, self.sample_rate = spec.label, int(self.extractor.sampling_rate)
        self.n_q: int | None = spec.n_q
        codes = _flat(self._encode(np.zeros(PROBE_SECONDS * self.sample_rate, np.float32))["audio_codes"])
        if spec.n_q is not None and not 1 <= spec.n_q <= len(codes):
            raise ValueError(f"n_q={spec.n_q}, but this codec has {len(codes)} codebooks")
        self.n_q = len(codes) if spec.n_q is None else spec.n_q
        self.codebook_sizes: tuple[int, ...] = (int(self.config.codebook_size),) * self.n_q
        self.bits_per_frame = sum(math.log2(size) for size in self.codebook_sizes)
        self.nominal_bitrate: float | None = codes.shape[1] / PROBE_SECONDS * self.bits_per_frame
        self.identity: dict[str, Any] = {
            "kind": "transformers",
            "model": source,
            "revision": getattr(self.config, "_commit_hash", None),
            "n_q": self.n_q,
        }

    @torch.no_grad()
    def encode_decode(self, wav: np.ndarray) -> CodecResult:
        """wav: [T] at the model's rate."""
        with timed() as encoding:
            coded = self._encode(wav)
            codes = _flat(coded["audio_codes"])
        with timed() as decoding:
            decoded = self._decode(coded)
        bits = codes.shape[1] * self.bits_per_frame
        # frames are whole: what the last one reaches beyond the recording is not the recording's
        return CodecResult(decoded[: len(wav)], codes, bits, _file_bits(codes), encoding.seconds, decoding.seconds)

    def encode(self, wav: np.ndarray) -> np.ndarray:
        """wav: [T] at the model's rate -> codes [n_q, F]."""
        return _flat(self._encode(wav)["audio_codes"])

    @torch.no_grad()
    def _encode(self, wav: np.ndarray) -> dict[str, Any]:
        """What the model's decode will want of what its encode gives, codes cut to n_q codebooks."""
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
        # a continuous representation, where decode would take it too, would bypass the codes
        given = {name: value for name, value in coded.items() if name.startswith("audio_") or "pad" in name}
        result = self.model.decode(**_accepted(self.model.decode, given))
        values = result["audio_values"].float().cpu().numpy()
        return values.reshape(-1, values.shape[-1]).mean(0)


def _accepted(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


def _flat(codes: torch.Tensor) -> np.ndarray:
    """[B = 1, n_q, F] or, of codecs that work in chunks, [chunks, 1, n_q, F] -> [n_q, all F]."""
    chunks = codes[None] if codes.dim() == 3 else codes
    return torch.cat([chunk[0] for chunk in chunks], dim=-1).cpu().numpy()


def _file_bits(codes: np.ndarray) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codes.npz")
        np.savez(path, codes=codes.astype(np.uint16))
        return 8 * path.stat().st_size
