"""Speaker similarity: the cosine between embeddings of an original and its reconstruction."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.metrics import AUTO, MISSING, Column
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from eval.testlists import Clip

RATE = 16000  # Hz: of all the speaker models here
DEFAULT = "resemblyzer"
Embed = Callable[[np.ndarray], np.ndarray]


class SpeakerSimilarity:
    """SIM by a named speaker model."""

    def __init__(self, model: str = DEFAULT, device: str = "cpu") -> None:
        """model: "resemblyzer", "wavlm:FILE" (Seed-TTS-Eval's wavlm_large_finetune.pth), or a transformers x-vector
        model's id or folder. Raises ImportError or ValueError where it cannot be had.
        """
        if model in (DEFAULT, AUTO):
            self._embed, name, self.identity = _resemblyzer(device)
        elif model.startswith("wavlm:"):
            self._embed, name, self.identity = _wavlm_ecapa(Path(model.removeprefix("wavlm:")), device)
        else:
            self._embed, name, self.identity = _x_vector(model, device)
        method = f"cosine of embeddings of original and reconstruction, {name}"
        self.columns: tuple[Column, ...] = (Column("sim", f"SIM ({name.partition(',')[0]})", method, headline=True),)
        self._last: tuple[str, np.ndarray | None] = ("", None)

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:
        """As `Metric.measure`. No figure for silence, or where the speaker model hears no voice."""
        if self._last[0] != clip.id:
            self._last = (clip.id, self._embedding(original))
        ours, theirs = self._last[1], self._embedding(reconstruction)
        if ours is None or theirs is None:
            return {"sim": MISSING}
        return {"sim": float(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)))}

    def _embedding(self, wav: np.ndarray) -> np.ndarray | None:
        if np.abs(wav).max() < SILENCE:
            return None
        embedding = self._embed(resample(wav, SAMPLE_RATE, RATE))
        return embedding if np.isfinite(embedding).all() and embedding.any() else None


def _resemblyzer(device: str) -> tuple[Embed, str, dict[str, Any]]:
    from importlib.metadata import version

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pkg_resources, from webrtcvad
            from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError as error:
        raise ImportError(f"SIM by Resemblyzer needs: pip install 'mimotok[eval]' ({error})") from error
    encoder = VoiceEncoder(device, verbose=False)

    def embed(wav: np.ndarray) -> np.ndarray:
        voiced = preprocess_wav(wav)  # shortens silences and lifts quiet recordings, as its authors do
        return encoder.embed_utterance(voiced) if len(voiced) else np.zeros(1)

    release = version("resemblyzer")
    return embed, f"Resemblyzer, release {release}", {"kind": "sim", "model": DEFAULT, "release": release}


def _x_vector(model_id: str, device: str) -> tuple[Embed, str, dict[str, Any]]:
    try:
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector
    except ImportError as error:
        raise ImportError("x-vector models need: pip install 'mimotok[hf]'") from error
    extractor = AutoFeatureExtractor.from_pretrained(model_id, trust_remote_code=False)
    loaded = AutoModelForAudioXVector.from_pretrained(model_id, trust_remote_code=False, weights_only=True)
    model = loaded.to(device).eval()

    @torch.no_grad()
    def embed(wav: np.ndarray) -> np.ndarray:
        inputs = extractor(wav, sampling_rate=RATE, return_tensors="pt").to(device)
        return model(**inputs).embeddings[0].float().cpu().numpy()

    revision = getattr(model.config, "_commit_hash", None)
    return embed, f"x-vectors of {model_id}", {"kind": "sim", "model": model_id, "revision": revision}


def _wavlm_ecapa(path: Path, device: str) -> tuple[Embed, str, dict[str, Any]]:
    from eval.store import file_hash
    from eval.wavlm_ecapa import load_wavlm_ecapa

    model = load_wavlm_ecapa(path).to(device)

    @torch.no_grad()
    def embed(wav: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(wav)[None].to(device))[0].float().cpu().numpy()

    sha256 = file_hash(path)
    name = f"WavLM-large + ECAPA-TDNN, weights {sha256[:12]}"
    return embed, name, {"kind": "sim", "model": "wavlm-ecapa", "sha256": sha256}
