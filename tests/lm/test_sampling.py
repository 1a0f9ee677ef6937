"""Sampling: greedy at temperature 0 and at the smallest top_p, and never outside the nucleus."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mimotok.lm.sampling import Sampling, sample


@given(st.integers(0, 50), st.integers(1, 12))
def test_greedy_at_temperature_zero_and_at_the_smallest_top_p(seed, size) -> None:
    logits = torch.randn(5, size, generator=torch.Generator().manual_seed(seed))
    for sampling in (Sampling(temperature=0.0, top_p=0.5), Sampling(top_p=1e-9)):
        assert torch.equal(sample(logits, sampling), logits.argmax(-1))


@given(st.integers(0, 50), st.floats(0.1, 1), st.floats(0.2, 3))
@example(20, 0.7467977953543772, 0.7467977953543772)
def test_only_the_fewest_ids_that_reach_top_p_are_drawn(seed, top_p, temperature) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, generator=generator)
    drawn = sample(logits.expand(300, -1), Sampling(temperature, top_p), generator).unique()
    probability, order = (logits / temperature).softmax(0).sort(descending=True)
    # a sum that misses top_p by less than float32 tells from it may or may not need one more
    count = int((probability.cumsum(0) < top_p + 1e-6).sum()) + 1
    assert set(drawn.tolist()) <= set(order[:count].tolist())


def test_frequencies_follow_the_temperature() -> None:
    logits = torch.tensor([0.0, 1.0, float("-inf")]).expand(4000, -1)
    drawn = sample(logits, Sampling(temperature=0.5), torch.Generator().manual_seed(0))
    expected = torch.tensor([0.0, 2.0]).softmax(0)
    torch.testing.assert_close(drawn.bincount(minlength=3)[:2] / 4000, expected, atol=0.03, rtol=0)
    assert int(drawn.max()) == 1


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match="="):
        Sampling(**settings)
