"""Predicted quality: DNSMOS and DistillMOS rate recordings, and no silence."""

import sys

import numpy as np
import pytest

from eval.metrics.base import MetricSpec
from eval.metrics.registry import make_metric
from tests.helpers.evaluation_speech import CLIP, noisy, speech

pytestmark = pytest.mark.slow


def test_dnsmos_rates_a_recording_and_no_silence() -> None:
    pytest.importorskip("speechmos", reason="speechmos is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    metric = make_metric(MetricSpec("mos", "dnsmos"))
    figures = metric.measure(speech(), speech(), CLIP)
    assert set(figures) == {column.name for column in metric.columns}
    assert all(1 <= value <= 5 for value in figures.values())
    assert all(np.isnan(v) for v in metric.measure(speech(), np.zeros(24000, np.float32), CLIP).values())


def test_distillmos_rates_a_recording_whatever_its_level_and_no_silence() -> None:
    pytest.importorskip("xls_r_sqa", reason="distillmos is not installed (pip install --no-deps distillmos xls-r-sqa)")
    metric = make_metric(MetricSpec("distilmos"))
    loud, soft, noise = (
        metric.measure(speech(), wav, CLIP)["distillmos"] for wav in (speech(), 0.3 * speech(), noisy(speech(), 5))
    )
    assert 1 <= loud <= 5
    assert soft == pytest.approx(loud, abs=1e-3)
    assert noise != pytest.approx(loud, abs=1e-2)
    assert np.isnan(metric.measure(speech(), np.zeros(24000, np.float32), CLIP)["distillmos"])
    # the package imports torchaudio, which the model does not need: no empty module may remain in its place
    assert getattr(sys.modules.get("torchaudio"), "__spec__", 1) is not None


def test_a_missing_distillmos_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distillmos", None)
    with pytest.raises(ImportError, match="pip install --no-deps distillmos xls-r-sqa"):
        make_metric(MetricSpec("distilmos"))
    assert getattr(sys.modules.get("torchaudio"), "__spec__", 1) is not None
