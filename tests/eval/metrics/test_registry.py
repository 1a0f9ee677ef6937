"""Which metrics a run measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.metrics.registry import KINDS, SLOW_KINDS, checked_kinds

LABELS = Path("labels.jsonl")


@pytest.mark.parametrize("names", [None, []])
def test_slow_metrics_are_measured_only_where_they_are_named(names: list[str] | None) -> None:
    assert SLOW_KINDS == ("visqol", "stability", "code_lm")
    usual = checked_kinds(names, LABELS)
    assert set(usual) == set(KINDS) - set(SLOW_KINDS)
    assert set(checked_kinds(names, None)) == set(usual) - {"phones"}
    for kind in SLOW_KINDS:
        assert checked_kinds([kind, "signal"], None) == [kind, "signal"]


@pytest.mark.parametrize(("name", "message"), [("nonsense", "give signal, visqol"), ("phones", "needs --labels")])
def test_a_metric_that_cannot_be_measured_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_kinds([name], None)
