"""What all metrics share: their interfaces, how their figures are read, and how a user names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from eval.codecs.base import Codec, Frames
from eval.testlists import LabelledClip
from mimotok.io.clips.clip import Clip

MISSING = float("nan")
AUTO = "auto"  # the default model of a metric


class Column(NamedTuple):
    """One figure of a metric.

    Attributes:
        name: its key in results.json.
        title: its name in tables.
        method: how it was computed, in a line for the report.
        higher_is_better: its direction.
        pooled: the names of a numerator and a denominator, where the figure of a corpus is the ratio of their sums,
            as for error rates.
        digits: decimal places in tables.
        headline: whether the main table and the pictures show it.
        labelled: whether it is measured on the clips with phone labels instead of the test list.
        joint: whether a clip's figure depends on the other clips, so that only whole lists can be compared.
    """

    name: str
    title: str
    method: str
    higher_is_better: bool = True
    pooled: tuple[str, str] | None = None
    digits: int = 3
    headline: bool = False
    labelled: bool = False
    joint: bool = False


class Metric(Protocol):
    """Measures reconstructions against originals, clip by clip.

    Attributes:
        identity: all that its figures depend on, as JSON.
        columns: the figures, in the report's order.
    """

    identity: dict[str, Any]
    columns: tuple[Column, ...]

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: Clip) -> dict[str, float]:
        """Measure one clip.

        Args:
            original: float32 [T] at the protocol's rate.
            reconstruction: float32 [T], aligned with `original`.
            clip: what is known of the recording.

        Returns:
            A value for every column and for both parts of each pooled one; NaN where there is no figure.
        """
        ...


class FrameMetric(Protocol):
    """Measures what a codec's frames hold, over all clips that have phone labels.

    Attributes:
        identity: all that its figures depend on besides the clips, as JSON.
        columns: the figures, in the report's order.
    """

    identity: dict[str, Any]
    columns: tuple[Column, ...]

    def measure_frames(self, clips: Sequence[LabelledClip], frames: Sequence[Frames]) -> list[dict[str, float]]:
        """Measure all clips together.

        Args:
            clips: recordings with phone labels.
            frames: the frames of each.

        Returns:
            For each clip what `Metric.measure` returns.
        """
        ...


class TokenMetric(Protocol):
    """Measures what a codec's tokens do, clip by clip.

    Attributes:
        identity: all that its figures depend on besides the codec, as JSON.
        columns: the figures, in the report's order.
    """

    identity: dict[str, Any]
    columns: tuple[Column, ...]

    def measure_tokens(self, codec: Codec, original: np.ndarray, clip: Clip) -> dict[str, float]:
        """Measure one clip.

        Args:
            codec: one with tokens.
            original: float32 [T] at the protocol's rate.
            clip: what is known of the recording.

        Returns:
            What `Metric.measure` returns.
        """
        ...


class CodesMetric(Protocol):
    """Measures the codes of all clips together.

    Attributes:
        identity: all that its figures depend on besides the codes, as JSON.
        columns: the figures, in the report's order.
    """

    identity: dict[str, Any]
    columns: tuple[Column, ...]

    def measure_codes(
        self, codes: Sequence[np.ndarray], seconds: Sequence[float], sizes: Sequence[int]
    ) -> list[dict[str, float]]:
        """Measure all clips together.

        Args:
            codes: of each clip, int [n_q, F].
            seconds: length of each.
            sizes: entries of each codebook.

        Returns:
            For each clip what `Metric.measure` returns.
        """
        ...


AnyMetric = Metric | FrameMetric | TokenMetric | CodesMetric


class MetricSpec(NamedTuple):
    """A metric as a user names it.

    Attributes:
        kind: its name.
        model: the model that computes it, AUTO for the default.
        optional: whether it may be left out where a package is missing, since the user did not name it.
    """

    kind: str
    model: str = AUTO
    optional: bool = False


def missing_figures(columns: Sequence[Column]) -> dict[str, float]:
    """Return the figures of a clip that cannot be measured: NaN for every column and for the parts of pooled ones."""
    names = {column.name for column in columns}
    parts = {part for column in columns for part in column.pooled or ()}
    return dict.fromkeys(sorted(names | parts), MISSING)
