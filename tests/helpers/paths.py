"""Where the tests find what they read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "fixtures" / "parity"
CONFIGS = ROOT / "train" / "configs"
SAMPLE = ROOT / "examples" / "sample.flac"
