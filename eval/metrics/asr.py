"""WER and CER: what a speech recogniser still understands, against the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from eval.local_files import local_files
from eval.metrics.base import AUTO, MISSING, Column, missing_figures
from eval.metrics.normalizers import PACKAGE, WhisperNormalizers, load_whisper_normalizers
from eval.protocol import SAMPLE_RATE, resample
from eval.whisper import BASE, PRECISIONS, RATE, load_whisper
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.languages import language_code
from mimotok.text import ErrorCounts, error_counts, normalize_text

TRANSFORMERS = "transformers:"
ENGLISH = frozenset({"en"})
# without this Whisper may repeat a word without end, a hundred errors in a sentence of nine words
UNREPEATED = {"no_repeat_ngram_size": 3}


class Recognizer(NamedTuple):
    """A speech recogniser.

    Attributes:
        recognize: turns wav, float32 [T] at 16 kHz, and its language, None if unknown, into text.
        name: its name in reports.
        languages: codes of the languages that it knows; None where it does not say.
        identity: all that its results depend on, as JSON.
    """

    recognize: Callable[[np.ndarray, str | None], str]
    name: str
    languages: frozenset[str] | None
    identity: dict[str, Any]


class ErrorRate:
    """WER and CER of a recogniser's text of a reconstruction, against what was said.

    The text must be a human's, and the recogniser must know its language.
    """

    def __init__(self, model: str = AUTO, device: str = "cpu") -> None:
        """Load the recogniser.

        Args:
            model: "whisper-base" or "whisper-tiny.en", which come in packages; a faster-whisper model's name, hub id
                or folder; or "transformers:" and the hub id or folder of any recogniser there.
            device: where the model runs.

        Raises:
            ImportError: its package is missing.
            ValueError: there is no such model.
        """
        self.recognizer = make_recognizer(BASE if model == AUTO else model, device)
        self.normalizers = load_whisper_normalizers()
        self.identity = self.recognizer.identity
        name = self.recognizer.name
        method = f"against human text, lower case without punctuation, by {name}; pooled over the corpus"
        words = ("word_errors", "words")
        chars = ("char_errors", "chars")
        self.columns: tuple[Column, ...] = (
            Column("wer", f"WER ({name})", method, higher_is_better=False, pooled=words, headline=True),
            Column("cer", f"CER ({name})", method, higher_is_better=False, pooled=chars),
        )
        if self.normalizers is not None:
            self.columns += _normalized_columns(name, self.normalizers)
            self.identity = {**self.identity, "normalizer": f"{PACKAGE} {self.normalizers.release}"}

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Measure one clip, as `Metric.measure`."""
        language = language_code(clip.language)
        known = self.recognizer.languages
        foreign = language is not None and known is not None and language not in known
        if clip.text is None or clip.machine_text or foreign or not normalize_text(clip.text):
            return missing_figures(self.columns)
        text = self.recognizer.recognize(resample(reconstruction, SAMPLE_RATE, RATE), language)
        counts = error_counts(clip.text, text)
        figures = {
            **counts._asdict(),
            "wer": counts.word_errors / counts.words,
            "cer": counts.char_errors / counts.chars,
        }
        if self.normalizers is None:
            return figures
        # a recogniser that knows English alone was asked because the text is English
        normalize = self.normalizers.of("en" if known == ENGLISH else language)
        return figures | _normalized_figures(error_counts(clip.text, text, normalize=normalize))


def _normalized_columns(name: str, normalizers: WhisperNormalizers) -> tuple[Column, ...]:
    method = (
        f"against human text, both after Whisper's text normaliser (package {PACKAGE} {normalizers.release}: the "
        f"English one, elsewhere the basic one), as in most publications, by {name}; pooled over the corpus"
    )
    return tuple(
        Column(f"{kind}_whisper", f"{kind.upper()} ({name}, Whisper's normaliser)", method, False, pooled)
        for kind, pooled in (
            ("wer", ("whisper_word_errors", "whisper_words")),
            ("cer", ("whisper_char_errors", "whisper_chars")),
        )
    )


def _normalized_figures(counts: ErrorCounts) -> dict[str, float]:
    """Name the figures of `_normalized_columns`; a text of mere fillers, which the normaliser drops, has none."""
    figures = {f"whisper_{name}": float(value) for name, value in counts._asdict().items()}
    figures |= {"wer_whisper": MISSING, "cer_whisper": MISSING}
    if counts.words:
        figures["wer_whisper"] = counts.word_errors / counts.words
        figures["cer_whisper"] = counts.char_errors / counts.chars
    return figures


def make_recognizer(model: str, device: str) -> Recognizer:
    """Load a recogniser; arguments and errors as in `ErrorRate`."""
    if model.startswith(TRANSFORMERS):
        return _transformers(model.removeprefix(TRANSFORMERS), device)
    return _faster_whisper(model, device)


def _faster_whisper(name: str, device: str) -> Recognizer:
    model = load_whisper(name, device)
    multilingual = model.model.is_multilingual

    def recognize(wav: np.ndarray, language: str | None) -> str:
        # greedy, and no second tries at higher temperatures, which draw at random
        segments, _ = model.transcribe(
            wav,
            language=language if multilingual else "en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            **UNREPEATED,
        )
        return " ".join(segment.text.strip() for segment in segments)

    kind = "cuda" if device.startswith("cuda") else "cpu"
    identity = {
        "kind": "asr",
        "model": name,
        "library": "faster-whisper",
        "device": kind,
        "precision": PRECISIONS[kind],
        **UNREPEATED,
        **local_files(name),
    }
    languages = frozenset(model.supported_languages) if multilingual else ENGLISH
    return Recognizer(recognize, name, languages, identity)


def _transformers(name: str, device: str) -> Recognizer:
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
    identity = {"kind": "asr", "model": name, "library": "transformers", "revision": revision, **local_files(name)}
    if whisper:
        identity |= UNREPEATED
    return Recognizer(recognize, name, ENGLISH if whisper and not multilingual else None, identity)
