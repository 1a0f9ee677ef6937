"""Work on several threads gives what it gives on one, and leaves torch's settings alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from mimotok import Tokenizer
from mimotok.batching import side_by_side


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_of_their_own() -> None:
    def work(item: int) -> tuple[int, int, bool]:
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    assert side_by_side(work, range(5)) == [(item, 1, False) for item in range(5)]
    assert torch.get_num_threads() == 2


def test_an_error_arrives_and_the_threads_are_given_back() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("item=3")
        return item

    with pytest.raises(ValueError, match="item=3"):
        side_by_side(work, range(5))
    assert torch.get_num_threads() == 2


def test_autocast_is_not_lost() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = side_by_side(lambda x: x @ x, [torch.ones(2, 2)] * 3)
    assert {part.dtype for part in parts} == {torch.bfloat16}


def test_a_batch_gives_what_each_clip_gives(
    streamable: Callable[..., Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimotok.tokenizer.GROUP_SECONDS", 1)
    tokenizer = streamable()
    wavs = [0.3 * torch.randn(size) for size in (9_000, 30_000, 1, 24_000, 12_345)]
    codes, frames = tokenizer.encode(pad_sequence(wavs, batch_first=True), torch.tensor([len(wav) for wav in wavs]))
    decoded, samples = tokenizer.decode(codes, frames)
    for row, wav in enumerate(wavs):
        alone = tokenizer.encode(wav[None])
        assert torch.equal(codes[row : row + 1, :, : frames[row]], alone)
        assert not codes[row, :, frames[row] :].any()
        torch.testing.assert_close(decoded[row : row + 1, : samples[row]], tokenizer.decode(alone), atol=1e-5, rtol=0)
