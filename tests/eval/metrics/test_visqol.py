"""ViSQOL: noise lowers it, level does not; silence and short clips have no figure, and a missing package is named."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from eval.metrics.visqol import Visqol
from tests.helpers.evaluation_speech import CLIP, noisy, speech


@pytest.mark.slow
def test_noise_lowers_it_and_level_does_not() -> None:
    pytest.importorskip("visqol", reason="visqol-python is not installed")
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    metric = Visqol()
    wav = speech(1.0)
    same, soft, little, much = (
        metric.measure(wav, other, CLIP)["visqol"] for other in (wav, 0.3 * wav, noisy(wav, 30), noisy(wav, 10))
    )
    assert 1 <= much < little < same <= 5
    assert soft == pytest.approx(same, abs=0.2)
    for pair in ((wav, np.zeros_like(wav)), (wav[:9000], wav[:9000])):
        assert np.isnan(metric.measure(*pair, CLIP)["visqol"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ImportError, match=r"pip install 'visqol-python\[lattice\]'"):
        Visqol()
