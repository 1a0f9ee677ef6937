"""DNSMOS: the quality that a listener would give, predicted from the reconstruction alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.metrics.base import AUTO, Column, Metric, missing_figures
from eval.metrics.distilmos import DistilMos
from eval.protocol import SAMPLE_RATE, SILENCE, resample
from mimotok.io.clips.clip import Clip

RATE = 16000  # Hz


def make_mos(model: str = AUTO) -> Metric:
    """Make a predictor by its name.

    Args:
        model: "dnsmos", or "distillmos", which is also the metric "distilmos".

    Raises:
        ImportError: it is not installed.
        ValueError: there is no such predictor.
    """
    if model in (AUTO, "dnsmos"):
        return Dnsmos()
    if model == "distillmos":
        return DistilMos()
    raise ValueError(f"mos {model!r}: give dnsmos or distillmos")


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
        """Load the models. Raises ImportError where speechmos is missing."""
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise ImportError(f"DNSMOS needs: pip install 'mimotok[eval]' (speechmos, onnxruntime: {error})") from error
        from importlib.metadata import version

        self._run: Any = dnsmos.run
        self.identity: dict[str, Any] = {"kind": "dnsmos", "release": version("speechmos")}

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:  # noqa: ARG002
        """Rate the reconstruction, as `Metric.measure`. Silence has no figures."""
        if np.abs(reconstruction).max() < SILENCE:
            return missing_figures(self.columns)
        # resampling can overshoot what was clipped
        scores = self._run(np.clip(resample(reconstruction, SAMPLE_RATE, RATE), -1, 1), RATE)
        names = ("ovrl", "sig", "bak", "p808")
        return {f"dnsmos_{name}": float(scores[f"{name}_mos"]) for name in names}
