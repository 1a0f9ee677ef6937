"""Speaker similarity: the cosine between embeddings of an original and its reconstruction."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from eval.local_files import local_files
from eval.metrics.base import AUTO, MISSING, Column
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from mimotok.io.clips.clip import Clip
from mimotok.weights import require_source, sha256_of_file

RATE = 16000  # Hz, of all the speaker models here
DEFAULT = "resemblyzer"
# wav [T] at 16 kHz -> embedding [D]
Embed = Callable[[np.ndarray], np.ndarray]


class SpeakerModel(NamedTuple):
    """A function that embeds a voice, its name for the report, and all that its results depend on."""

    embed: Embed
    name: str
    identity: dict[str, Any]


class SpeakerSimilarity:
    """SIM: how much a reconstruction sounds like the same speaker, by a named speaker model."""

    def __init__(self, model: str = DEFAULT, device: str = "cpu") -> None:
        """Load the speaker model.

        Args:
            model: "resemblyzer", "wavlm:FILE" (Seed-TTS-Eval's wavlm_large_finetune.pth), or the id or folder of an
                x-vector model of transformers.
            device: where the model runs.

        Raises:
            ImportError: its package is missing.
            ValueError: there is no such model.
        """
        if model in (DEFAULT, AUTO):
            speaker = _resemblyzer(device)
        elif model.startswith("wavlm:"):
            speaker = _wavlm_ecapa(Path(model.removeprefix("wavlm:")), device)
        else:
            speaker = _x_vector(model, device)
        self._embed = speaker.embed
        self.identity = speaker.identity
        method = f"cosine of embeddings of original and reconstruction, {speaker.name}"
        title = f"SIM ({speaker.name.partition(',')[0]})"
        self.columns: tuple[Column, ...] = (Column("sim", title, method, headline=True),)
        # the original's embedding serves all codecs, which are measured one after another on the same clip
        self._last_original = np.zeros(0)
        self._last_embedding: np.ndarray | None = None

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Measure one clip, as `Metric.measure`. Silence, and sound without a voice, have no figure."""
        # by its samples: another run may call another recording so
        if not np.array_equal(self._last_original, original):
            self._last_original = original
            self._last_embedding = self._embedding(original)
        before = self._last_embedding
        after = self._embedding(reconstruction)
        if before is None or after is None:
            return {"sim": MISSING}
        return {"sim": float(before @ after / (np.linalg.norm(before) * np.linalg.norm(after)))}

    def _embedding(self, wav: np.ndarray) -> np.ndarray | None:
        if np.abs(wav).max() < SILENCE:
            return None
        embedding = self._embed(resample(wav, SAMPLE_RATE, RATE))
        return embedding if np.isfinite(embedding).all() and embedding.any() else None


def _resemblyzer(device: str) -> SpeakerModel:
    from importlib.metadata import version

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # webrtcvad warns about pkg_resources
            from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError as error:
        raise ImportError(f"SIM by Resemblyzer needs: pip install 'mimotok[eval]' ({error})") from error
    encoder = VoiceEncoder(device, verbose=False)

    def embed(wav: np.ndarray) -> np.ndarray:
        voiced = preprocess_wav(wav)  # it shortens silences and amplifies quiet recordings, as its authors do
        return encoder.embed_utterance(voiced) if len(voiced) else np.zeros(1)

    release = version("resemblyzer")
    return SpeakerModel(embed, f"Resemblyzer, release {release}", {"kind": "sim", "model": DEFAULT, "release": release})


def _x_vector(model_id: str, device: str) -> SpeakerModel:
    try:
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector
    except ImportError as error:
        raise ImportError("x-vector models need: pip install 'mimotok[hf]'") from error
    require_source(model_id)
    extractor = AutoFeatureExtractor.from_pretrained(model_id, trust_remote_code=False)
    options: dict[str, Any] = {"trust_remote_code": False, "weights_only": True}
    model = AutoModelForAudioXVector.from_pretrained(model_id, **options).to(device).eval()

    @torch.no_grad()
    def embed(wav: np.ndarray) -> np.ndarray:
        inputs = extractor(wav, sampling_rate=RATE, return_tensors="pt").to(device)
        return model(**inputs).embeddings[0].float().cpu().numpy()

    revision = getattr(model.config, "_commit_hash", None)
    identity = {"kind": "sim", "model": model_id, "revision": revision, **local_files(model_id)}
    return SpeakerModel(embed, f"x-vectors of {model_id}", identity)


def _wavlm_ecapa(path: Path, device: str) -> SpeakerModel:
    from eval.metrics.wavlm_ecapa import load_wavlm_ecapa

    model = load_wavlm_ecapa(path).to(device)

    @torch.no_grad()
    def embed(wav: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(wav)[None].to(device))[0].float().cpu().numpy()

    sha256 = sha256_of_file(path)
    name = f"WavLM-large + ECAPA-TDNN, weights {sha256[:12]}"
    return SpeakerModel(embed, name, {"kind": "sim", "model": "wavlm-ecapa", "sha256": sha256})
