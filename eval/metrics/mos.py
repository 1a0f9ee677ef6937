"""Quality as a listener would rate it, predicted from the reconstruction alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from eval.metrics.base import AUTO, MISSING, Column, Metric
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from eval.testlists import Clip

RATE = 16000  # Hz: of both predictors


def make_mos(model: str = AUTO) -> Metric:
    """model: "dnsmos" or "distillmos". Raises ImportError where it is not installed, ValueError for another."""
    if model in (AUTO, "dnsmos"):
        return Dnsmos()
    if model == "distillmos":
        return DistillMos()
    raise ValueError(f"mos {model!r}: there are dnsmos and distillmos")


class Dnsmos:
    """DNSMOS P.835 and P.808 (Reddy et al. 2022, arXiv 2110.01763), with the weights in package speechmos."""

    columns: tuple[Column, ...] = (
        Column(
            "dnsmos_ovrl", "DNSMOS OVRL", "DNSMOS P.835 overall quality, package speechmos", digits=2, headline=True
        ),
        Column("dnsmos_sig", "DNSMOS SIG", "DNSMOS P.835 speech quality, package speechmos", digits=2),
        Column("dnsmos_bak", "DNSMOS BAK", "DNSMOS P.835 background quality, package speechmos", digits=2),
        Column("dnsmos_p808", "DNSMOS P.808", "DNSMOS P.808 overall quality, package speechmos", digits=2),
    )

    def __init__(self) -> None:
        """Raises ImportError without speechmos."""
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise ImportError(f"DNSMOS needs: pip install 'mimotok[eval]' (speechmos, onnxruntime: {error})") from error
        from importlib.metadata import version

        self._run: Any = dnsmos.run
        self.identity: dict[str, Any] = {"kind": "dnsmos", "release": version("speechmos")}

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """As `Metric.measure`."""
        if np.abs(reconstruction).max() < SILENCE:
            return dict.fromkeys((column.name for column in self.columns), MISSING)
        # resampling can overshoot what was clipped
        scores = self._run(np.clip(resample(reconstruction, SAMPLE_RATE, RATE), -1, 1), RATE)
        names = ("ovrl", "sig", "bak", "p808")
        return {f"dnsmos_{name}": float(scores[f"{name}_mos"]) for name in names}


class DistillMos:
    """DistillMOS (Stahl and Gamper 2025, arXiv 2502.05356), with the weights in package distillmos."""

    columns: tuple[Column, ...] = (Column("distillmos", "DistillMOS", "package distillmos", digits=2, headline=True),)

    def __init__(self) -> None:
        """Raises ImportError without distillmos, or where the torchaudio that it imports does not fit torch."""
        try:
            import distillmos
        except (ImportError, OSError) as error:
            raise ImportError(
                f"DistillMOS needs: pip install distillmos, and torchaudio for your torch ({error})"
            ) from error
        from importlib.metadata import version

        self._model = distillmos.ConvTransformerSQAModel().eval()
        self.identity: dict[str, Any] = {"kind": "distillmos", "release": version("distillmos")}

    @torch.no_grad()
    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """As `Metric.measure`."""
        if np.abs(reconstruction).max() < SILENCE:
            return {"distillmos": MISSING}
        wav = torch.from_numpy(resample(reconstruction, SAMPLE_RATE, RATE))[None]
        return {"distillmos": float(self._model(wav))}
