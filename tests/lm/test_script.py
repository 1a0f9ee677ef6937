"""A model that speaks a script takes every unit of it, in order, and nothing else."""

from __future__ import annotations

import pytest
import torch

from mimotok.lm import SpecialIds
from mimotok.lm.script import Script

SPECIAL = SpecialIds(audio=5, start=6, end=7)
EAGER = torch.tensor([0.0, 0, 0, 0, 0, 0, 9.0, 0])
SLOW = torch.zeros(8)


def test_one_that_is_eager_speaks_after_each_unit() -> None:
    script = Script([[1, 2], [3], [4]], SPECIAL, 8)
    last, said = 0, []
    while not script.said or last != SPECIAL.end:
        chosen = script.follow(last, EAGER)
        # it speaks a patch
        last = chosen if chosen is not None else SPECIAL.audio if last == SPECIAL.start else SPECIAL.end
        said.append(last)
    assert said == [1, 2, 6, 5, 7, 3, 6, 5, 7, 4, 6, 5, 7]


def test_one_that_is_slow_speaks_when_nothing_is_left() -> None:
    script = Script([[1, 2], [3], [4]], SPECIAL, 8)
    said = [0]
    while said[-1] != SPECIAL.start:
        assert not script.said or said[-1] == 4
        chosen = script.follow(said[-1], SLOW)
        assert chosen is not None
        said.append(chosen)
    assert said == [0, 1, 2, 3, 4, 6]
    assert script.follow(SPECIAL.start, SLOW) is None
    assert script.said


@pytest.mark.parametrize("units", [[], [[1], []]])
def test_an_empty_script_is_refused(units: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="give at least one"):
        Script(units, SPECIAL, 8)


@pytest.mark.parametrize("id", [-1, 8, *SPECIAL])
def test_ids_that_are_no_text_are_refused_by_position(id: int) -> None:
    with pytest.raises(ValueError, match=rf"script\[1\]\[0\]={id}: give text ids of 0 to 7"):
        Script([[1, 2], [id]], SPECIAL, 8)
