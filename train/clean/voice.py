"""Voice activity by Silero VAD, whose ONNX weights the package faster-whisper carries."""

from __future__ import annotations

import numpy as np

from train.clean.segments import Span
from train.clean.settings import Hearing

RATE = 16000  # Hz, of the detector


def find_speech(wav: np.ndarray, hearing: Hearing) -> list[Span]:
    """Find the stretches of speech in a recording, in order.

    Args:
        wav: float32 [T] at 16 kHz.
        hearing: thresholds.

    Raises:
        ImportError: the detector's package is missing.
    """
    try:
        from faster_whisper.vad import VadOptions, get_speech_timestamps
    except ImportError as error:
        raise ImportError(f"voice activity needs: pip install 'mimotok[clean]' (faster-whisper; {error})") from error
    options = VadOptions(
        threshold=hearing.voice_threshold,
        min_speech_duration_ms=100,
        min_silence_duration_ms=round(1000 * hearing.pause),
        speech_pad_ms=0,
    )
    found = get_speech_timestamps(wav, options, sampling_rate=RATE)
    return [Span(span["start"] / RATE, min(span["end"], len(wav)) / RATE) for span in found]
