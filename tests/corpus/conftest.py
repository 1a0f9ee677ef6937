"""A small corpus of sounds, a small model, and what single clips give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mimotok import Tokenizer, load_audio
from tests.helpers.corpus_tools import CLIPS, MODEL, Sounds

pytest.importorskip("pyarrow", reason="needs: pip install 'mimotok[tokenize]'")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="session")
def sounds(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Sounds:
    """Clips of several formats, rates and lengths with a manifest, and the codes of each alone."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    codes: dict[str, np.ndarray] = {}
    for i in range(CLIPS):
        suffix, rate = [("wav", 24000), ("flac", 16000), ("ogg", 22050), ("wav", 8000)][i % 4]
        path = folder / "audio" / f"s{i % 3}" / f"clip {i:02d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = rng.uniform(-0.5, 0.5, int(rng.integers(1, rate // 2)))
        soundfile.write(path, samples, rate)
        key = path.relative_to(folder / "audio").as_posix()
        rows.append(
            {"audio": key, "duration": len(samples) / rate, "text": f"text {i}", "speaker": f"s{i % 3}", "n": i}
        )
        codes[key] = tokenizer.encode(load_audio(path, tokenizer.sample_rate))[0].numpy()
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Sounds(folder / "audio", manifest, {row["audio"]: row for row in rows}, codes)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tokens"
