"""python -m examples.transcribe out.wav ...: what the small Whisper that eval uses hears in sound files."""

from __future__ import annotations

from pathlib import Path

from examples.training import run


def main(paths: list[Path]) -> None:
    """Print what is heard in each file."""
    from eval.whisper import RATE, TINY_EN, load_whisper
    from mimotok import load_audio

    model = load_whisper(TINY_EN)
    for path in paths:
        segments, _ = model.transcribe(load_audio(path, RATE)[0].numpy(), language="en", beam_size=1, temperature=0.0)
        print(f"{path}: {' '.join(segment.text.strip() for segment in segments)}")


if __name__ == "__main__":
    run(main)
