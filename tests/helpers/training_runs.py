"""What tests train on: a little made-up speech, and the repository's configs pointed at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import yaml

from tests.helpers.paths import CONFIGS


def make_speech(root: Path) -> Path:
    """A manifest of twelve short clips of harmonic noise with texts, two of them for validation."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        time_axis = np.arange(int(24_000 * rng.uniform(1.0, 2.5))) / 24_000
        harmonics = [np.sin(2 * np.pi * (100 + 10 * i) * k * time_axis) / k for k in range(1, 9)]
        wav = np.sum(harmonics, axis=0)
        wav = 0.05 * (wav + 0.1 * rng.standard_normal(len(wav)))
        soundfile.write(root / f"{i}.wav", wav, 24_000)
        row = {"audio": f"{i}.wav", "duration": len(wav) / 24_000, "text": f"clip {i}", "source": "made"}
        rows.append(row | {"split": "dev" if i >= 10 else "train", "speaker": "s", "language": "en"})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def configure(run: Path, speech: Path, base: str, **init_args: Any) -> Path:
    """The base config with all its paths below `run`, written there."""
    values = yaml.safe_load((CONFIGS / base).read_text())
    values["data"] |= {"manifest": str(speech / "manifest.jsonl"), "root": str(speech)}
    values["trainer"]["default_root_dir"] = str(run)
    values["model"]["init_args"] |= init_args
    run.mkdir(parents=True, exist_ok=True)
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_train(*arguments: object) -> int:
    """Run `python -m train` in this process. Returns its exit code."""
    from train.__main__ import main

    with mock.patch("sys.argv", ["train", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0
