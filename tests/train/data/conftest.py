"""A small corpus with bad files in it: on disk, prepared, behind a data module, and as Lhotse cuts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.helpers.speech_corpus import BAD, RATE, speech
from train.data.cache import prepare
from train.data.manifest import read_manifest
from train.data.module import SpeechDataModule


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of WAV files and its manifest: 30 whole clips, 2 long ones, 4 bad ones, 4 for validation."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for k in range(36):
        rate, seconds = (16000, 24000)[k % 2], 9.0 if k in (30, 31) else float(rng.uniform(0.6, 3.0))
        sf.write(root / f"{k}.wav", speech(seconds, rate, k), rate, subtype="PCM_16")
        text = None if k % 5 == 0 or k == 31 else f"text of {k}"
        split, source = "dev" if k > 31 else "train", "wide" if k % 2 else "narrow"
        rows.append({"audio": f"{k}.wav", "duration": seconds, "text": text, "split": split, "source": source})
    (root / "corrupt.wav").write_bytes(b"RIFF, but no more")
    sf.write(root / "silent.wav", np.zeros(RATE), RATE)
    sf.write(root / "short.wav", speech(0.2, RATE, 99), RATE)
    for name in BAD:
        rows.append({"audio": name, "duration": 0.2 if name == "short.wav" else 1.0, "text": "bad"})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="session")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cache folder, with the corpus in it."""
    folder = str(tmp_path_factory.mktemp("cache"))
    prepare(str(corpus / "manifest.jsonl"), str(corpus), folder)
    return folder


@pytest.fixture
def module(corpus: Path, prepared: str):
    """Makes data modules over the corpus: small batches, prepared clips."""

    def make(**changes) -> SpeechDataModule:
        files = {"manifest": str(corpus / "manifest.jsonl"), "root": str(corpus), "cache_dir": prepared}
        sizes = {"batch_seconds": 6.0, "max_seconds": 4.0, "crop_seconds": (1.0, 2.0)}
        return SpeechDataModule(**{**files, **sizes, **changes})

    return make


@pytest.fixture(scope="session")
def cuts(corpus: Path):
    """The corpus's good training clips as a Lhotse CutSet."""
    lhotse = pytest.importorskip("lhotse")
    cuts = []
    for clip in read_manifest(str(corpus / "manifest.jsonl"), str(corpus)):
        if clip.split == "train" and clip.id not in BAD:
            recording = lhotse.Recording.from_file(clip.audio, recording_id=clip.id)
            segment = lhotse.SupervisionSegment(clip.id, clip.id, 0.0, recording.duration, text=clip.text)
            cut = recording.to_cut()
            cut.id, cut.supervisions, cut.custom = clip.id, [segment], {"source": clip.source}
            cuts.append(cut)
    return lhotse.CutSet.from_cuts(cuts)
