"""DistillMOS: the quality that a listener would give, predicted from the reconstruction alone."""

from __future__ import annotations

import contextlib
import io
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import torch

from eval.metrics.base import MISSING, Column
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from mimotok.io.clips.clip import Clip

RATE = 16000  # Hz
INSTALL = "pip install --no-deps distillmos xls-r-sqa"


class DistilMos:
    """DistillMOS (Stahl and Gamper 2025, arXiv 2502.05356), with the weights in package distillmos."""

    columns: tuple[Column, ...] = (Column("distillmos", "DistillMOS", "package distillmos", digits=2, headline=True),)

    def __init__(self) -> None:
        """Load the model. Raises ImportError naming the command that installs it, where it is missing."""
        self._model = _load_model()
        self.identity: dict[str, Any] = {"kind": "distillmos", "release": version("distillmos")}

    @torch.no_grad()
    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Rate the reconstruction, as `Metric.measure`. Silence has no figure."""
        if np.abs(reconstruction).max() < SILENCE:
            return {"distillmos": MISSING}
        wav = torch.from_numpy(resample(reconstruction, SAMPLE_RATE, RATE))[None]
        return {"distillmos": float(self._model(wav))}


def _load_model() -> torch.nn.Module:
    # the package imports torchaudio for its own command line only, which reads sound files; the model does without
    stand_in = {} if "torchaudio" in sys.modules else {"torchaudio": ModuleType("torchaudio")}
    sys.modules.update(stand_in)
    try:
        from distillmos import ConvTransformerSQAModel
    except ImportError as error:
        raise ImportError(f"DistillMOS needs: {INSTALL} ({error})") from error
    finally:
        for name in stand_in:
            del sys.modules[name]
    # it prints where its weights lie
    with contextlib.redirect_stdout(io.StringIO()):
        return ConvTransformerSQAModel().eval()
