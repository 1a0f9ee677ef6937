"""python -m examples.transcribe out.wav ...: what the small Whisper that eval uses hears in sound files."""

from __future__ import annotations

from pathlib import Path

from examples.training import run


def main(paths: list[Path]) -> None:
    """Print what is heard in each file."""
    from faster_whisper import WhisperModel

    from eval.metrics.asr import RATE, bundled_whisper
    from mimotok import load_audio

    model = WhisperModel(str(bundled_whisper()), device="cpu", compute_type="int8", cpu_threads=1)
    for path in paths:
        segments, _ = model.transcribe(load_audio(path, RATE)[0].numpy(), language="en", beam_size=1, temperature=0.0)
        print(f"{path}: {' '.join(segment.text.strip() for segment in segments)}")


if __name__ == "__main__":
    run(main)
