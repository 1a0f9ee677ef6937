"""Metrics by name: what they measure on a pair of recordings, and how their figures are to be read."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from eval.testlists import Clip

MISSING = float("nan")
AUTO = "auto"  # the first model that is installed


class Column(NamedTuple):
    """One figure of a metric.

    method: how it was computed, in a line for the report. higher_is_better: direction. pooled: the names of a
    numerator and a denominator, where the figure of a corpus is their sums' ratio, as error rates are.
    digits: of its precision in tables. headline: whether the main table and the pictures show it.
    """

    name: str
    title: str
    method: str
    higher_is_better: bool = True
    pooled: tuple[str, str] | None = None
    digits: int = 3
    headline: bool = False


class Metric(Protocol):
    """Measures reconstructions against originals.

    identity: all that its figures depend on, as JSON. columns: the figures, in the report's order.
    """

    identity: dict[str, Any]
    columns: tuple[Column, ...]

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:
        """original, reconstruction: float32 [T] at the protocol's rate. NaN where there is no figure.

        Returns a value for every column, and for the two parts of each pooled one.
        """
        ...


class MetricSpec(NamedTuple):
    """A metric as a user names it: its kind, and which model is to do it, AUTO for the one at hand."""

    kind: str
    model: str = ""


def make_metric(spec: MetricSpec, device: str = "cpu") -> Metric:
    """The metric of a spec, ready to use.

    Raises ImportError naming what to install, and ValueError for a model that does not exist.
    """
    if spec.kind == "signal":
        from eval.metrics.signal import SignalMetrics

        return SignalMetrics()
    if spec.kind == "sim":
        from eval.metrics.speaker import SpeakerSimilarity

        return SpeakerSimilarity(spec.model, device)
    if spec.kind == "asr":
        from eval.metrics.asr import ErrorRate

        return ErrorRate(spec.model, device)
    if spec.kind == "mos":
        from eval.metrics.mos import make_mos

        return make_mos(spec.model)
    raise ValueError(f"metric {spec.kind!r}: there are signal, sim, asr and mos")
