"""ViSQOL: the quality that a listener would give, from spectrograms of an original and its reconstruction."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

import numpy as np

from eval.metrics.base import MISSING, Column
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from mimotok.io.clips.clip import Clip

RATE = 16000  # Hz, of ViSQOL's mode for speech
MIN_SECONDS = 1.0  # below it there are hardly any patches to compare


class Visqol:
    """ViSQOL v3 for speech (Chinen et al. 2020, arXiv 2004.09584), with the weights in package visqol-python.

    Its mapping to opinion scores is the lattice of the original in C++: without the runtime of that network the package
    would fall back on a polynomial that rates a point or two higher.
    """

    columns: tuple[Column, ...] = (
        Column(
            "visqol",
            "ViSQOL",
            f"ViSQOL v3 for speech, 1 to 5, at {RATE // 1000} kHz with the lattice network, package visqol-python; "
            f"clips of {MIN_SECONDS:g} s at least",
            digits=2,
        ),
    )

    def __init__(self) -> None:
        """Load the model. Raises ImportError where the package or its runtime is missing."""
        try:
            import ai_edge_litert  # noqa: F401
            from visqol import VisqolApi
        except ImportError as error:
            raise ImportError(f"ViSQOL needs: pip install 'visqol-python[lattice]' ({error})") from error
        logging.getLogger("visqol").setLevel(logging.ERROR)
        self._api: Any = VisqolApi()
        self._api.create(mode="speech", use_lattice_model=True)
        releases = {name: version(name) for name in ("visqol-python", "ai-edge-litert")}
        self.identity: dict[str, Any] = {"kind": "visqol", **releases}

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Measure one clip, as `Metric.measure`. Silence on either side and short clips have no figure."""
        silent = min(np.abs(original).max(), np.abs(reconstruction).max()) < SILENCE
        if silent or len(original) < MIN_SECONDS * SAMPLE_RATE:
            return {"visqol": MISSING}
        pair = [resample(wav, SAMPLE_RATE, RATE).astype(np.float64) for wav in (original, reconstruction)]
        return {"visqol": float(self._api.measure_from_arrays(*pair, RATE).moslqo)}
