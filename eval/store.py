"""The recordings of a report: originals and reconstructions, as they are played and measured."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import soundfile

from eval.protocol import SAMPLE_RATE
from mimotok.io.files import atomic_path

ORIGINAL = "original"


def audio_path(out: Path, codec: str, clip_id: str) -> Path:
    """Where a recording lies; codec: a label, or ORIGINAL."""
    return out / "audio" / slug(codec) / f"{slug(clip_id)}.flac"


def slug(name: str) -> str:
    """`name` as a file name: readable, and different for different names."""
    plain = re.sub(r"[^A-Za-z0-9.=-]+", "-", name).strip("-.")
    return plain if plain and plain == name else f"{plain[-60:]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def save_wav(path: Path, wav: np.ndarray) -> str:
    """Writes float32 [T] as 16-bit FLAC at the protocol's rate, clipped; returns the file's SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, np.clip(wav, -1, 1), SAMPLE_RATE, "PCM_16", format="FLAC")
    return file_hash(path)


def load_wav(path: Path) -> np.ndarray:
    """float32 [T] of a file that `save_wav` wrote."""
    return soundfile.read(path, dtype="float32")[0]


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hex, "" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
