"""Metrics by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.metrics.base import AnyMetric, MetricSpec

# in the report's order
KINDS = ("signal", "visqol", "pitch", "sim", "asr", "mos", "distilmos", "stability", "code_lm", "phones")
FRAME_KINDS = ("phones",)
# what is measured of tokens, and of the codes of all clips, of codecs that have them
TOKEN_KINDS = ("stability",)
CODES_KINDS = ("code_lm",)
# each takes longer than most others together, so they are measured only where they are named
SLOW_KINDS = ("visqol", "stability", "code_lm")


def make_metric(spec: MetricSpec, device: str = "cpu") -> AnyMetric:
    """Make the metric of a spec, ready to use.

    Args:
        spec: what the user named.
        device: where models run.

    Raises:
        ImportError: a package is missing; the message says what to install.
        ValueError: there is no such metric or model.
    """
    if spec.kind == "signal":
        from eval.metrics.signal import SignalMetrics

        return SignalMetrics()
    if spec.kind == "visqol":
        from eval.metrics.visqol import Visqol

        return Visqol()
    if spec.kind == "pitch":
        from eval.metrics.pitch import PitchMetrics

        return PitchMetrics()
    if spec.kind == "sim":
        from eval.metrics.speaker import SpeakerSimilarity

        return SpeakerSimilarity(spec.model, device)
    if spec.kind == "asr":
        from eval.metrics.asr import ErrorRate

        return ErrorRate(spec.model, device)
    if spec.kind == "mos":
        from eval.metrics.mos import make_mos

        return make_mos(spec.model)
    if spec.kind == "distilmos":
        from eval.metrics.distilmos import DistilMos

        return DistilMos()
    if spec.kind == "stability":
        from eval.metrics.stability import TokenStability

        return TokenStability()
    if spec.kind == "code_lm":
        from eval.metrics.code_lm import CodeLMBits

        return CodeLMBits()
    if spec.kind == "phones":
        from eval.metrics.phones import PhoneMetrics

        return PhoneMetrics()
    raise ValueError(f"metric {spec.kind!r}: give {', '.join(KINDS)}")


def checked_kinds(names: Sequence[str] | None, labels: Path | None) -> list[str]:
    """Check what a user named, or choose all metrics that can be measured in reasonable time.

    Args:
        names: kinds of metrics. If None, all but `SLOW_KINDS`, and those of frames where there are labels.
        labels: file of phone labels, if there is one.

    Raises:
        ValueError: a metric does not exist, or needs labels.
    """
    if not names:
        usual = [kind for kind in KINDS if kind not in SLOW_KINDS]
        return [kind for kind in usual if labels or kind not in FRAME_KINDS]
    for name in names:
        if name not in KINDS:
            raise ValueError(f"metric {name!r}: give {', '.join(KINDS)}")
        if name in FRAME_KINDS and labels is None:
            raise ValueError(f"metric {name}: needs --labels, a file that `python -m train align` writes")
    return list(names)
