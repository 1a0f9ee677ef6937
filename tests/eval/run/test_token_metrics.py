"""Metrics of tokens within a run: of codecs that have tokens, cached, and a clip that fails is reported."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eval.codecs.base import CodecSpec
from eval.metrics import code_lm
from eval.metrics.base import MetricSpec
from eval.metrics.code_lm import LMBudget
from eval.report.summary import results_of
from eval.report.tables import full_table
from eval.run.runner import Settings, evaluate
from eval.testlists import read_test_list
from tests.helpers.evaluation_speech import no_progress

CODEC = """
import numpy as np

class Counted:
    sample_rate = 24000
    bitrate = None
    codebook_sizes = (4,)
    frame_size = 480
    calls = 0
    trouble = False

    def encode(self, wav):
        Counted.calls += 1
        frames = len(wav) // 480
        # the originals have other lengths than the stretches that are changed and encoded again
        if Counted.trouble and frames == 99:
            raise KeyError("a clip")
        return (np.arange(frames) % 4)[None]

    def decode(self, codes):
        return np.repeat(codes[0] / 8, 480)
"""


@pytest.fixture
def settings(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "counted_codec.py").write_text(CODEC)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code_lm, "LMBudget", partial(LMBudget, steps=3, frames=16))
    return Settings(
        tuple(read_test_list(corpus)),
        (CodecSpec("counted_codec:Counted"), CodecSpec("copy")),
        (MetricSpec("stability"), MetricSpec("code_lm")),
        tmp_path / "out",
    )


def measured(settings: Settings) -> dict:
    done = evaluate(settings, notify=lambda _: None, progress=no_progress)
    return results_of(done, "python -m eval")


@pytest.mark.slow
def test_tokens_are_measured_where_there_are_some_and_once(settings: Settings) -> None:
    from counted_codec import Counted

    first = measured(settings)
    assert first["failures"] == []
    counted, copy = first["codecs"]
    # codes that do not look at the sound change by a whole frame's shift alone
    assert counted["summary"]["changed_gain"]["mean"] == 0
    assert counted["summary"]["changed_frame"]["mean"] == 1
    assert counted["summary"]["changed_frame"]["clips"] == 3
    # no more than the frequencies of four equal codes need, 50 times a second
    assert 0 < counted["summary"]["code_lm_bitrate"]["mean"] < 110
    assert copy["summary"]["changed_gain"]["clips"] == copy["summary"]["code_lm_bitrate"]["clips"] == 0
    assert any(row[:2] == ["copy", "code LM bit/s"] for row in full_table(first).rows)
    before = Counted.calls
    assert measured(settings)["codecs"] == first["codecs"]
    assert Counted.calls - before == 1, "only the warming up: figures come from the cache"


def test_a_clip_that_fails_is_reported_and_the_others_have_figures(settings: Settings, monkeypatch) -> None:
    from counted_codec import Counted

    monkeypatch.setattr(Counted, "trouble", True)
    results = measured(replace(settings, metrics=(MetricSpec("stability"),)))
    (line,) = results["failures"]
    assert line == (
        "counted_codec:Counted: c.wav: stability: codec 'counted_codec:Counted': encode: KeyError: 'a clip'"
    )
    assert results["codecs"][0]["summary"]["changed_mp3"]["clips"] == 2
    assert not np.isnan(results["codecs"][0]["summary"]["changed_mp3"]["mean"])
