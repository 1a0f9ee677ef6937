"""Work on several threads gives what it gives on one, and leaves torch's settings alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Thread

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from mimotok import Tokenizer
from mimotok.batching import map_in_groups, map_in_threads


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_of_their_own() -> None:
    def work(item: int) -> tuple[int, int, bool]:
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    assert map_in_threads(work, range(5)) == [(item, 1, False) for item in range(5)]
    assert torch.get_num_threads() == 2


def test_an_error_arrives_and_the_threads_are_given_back() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("item=3")
        return item

    with pytest.raises(ValueError, match="item=3"):
        map_in_threads(work, range(5))
    assert torch.get_num_threads() == 2


def test_autocast_is_not_lost() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = map_in_threads(lambda x: x @ x, [torch.ones(2, 2)] * 3)
    assert {part.dtype for part in parts} == {torch.bfloat16}


@pytest.mark.slow
def test_a_batch_gives_what_each_clip_gives(
    streamable: Callable[..., Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimotok.tokenizer.GROUP_SECONDS", 1)
    tokenizer = streamable()
    wavs = [0.3 * torch.randn(size) for size in (7_000, 16_000, 1, 12_000, 6_345)]
    codes, frames = tokenizer.encode(pad_sequence(wavs, batch_first=True), torch.tensor([len(wav) for wav in wavs]))
    decoded, samples = tokenizer.decode(codes, frames)
    for row, wav in enumerate(wavs):
        alone = tokenizer.encode(wav[None])
        assert torch.equal(codes[row : row + 1, :, : frames[row]], alone)
        assert not codes[row, :, frames[row] :].any()
        torch.testing.assert_close(decoded[row : row + 1, : samples[row]], tokenizer.decode(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("threads", "groups"),
    [
        (1, [((3, 3), [2, 3, 3]), ((1, 8), None)]),
        (2, [((2, 3), [2, 3]), ((1, 8), None), ((1, 3), None)]),
    ],
)
def test_groups_are_of_similar_length_and_hold_every_item(
    threads: int, groups: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    seen = []

    def double(part: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        seen.append((tuple(part.shape[:2]), None if lengths is None else lengths.tolist()))
        return part.repeat_interleave(2, 1)

    given = torch.arange(1.0, 5)[:, None].expand(4, 8)
    with torch.no_grad():
        result = map_in_groups(double, given, torch.tensor([8, 2, 3, 3]), limit=9, size=16)
    assert sorted(seen, key=lambda group: group[0], reverse=True) == groups
    assert [row[: 2 * size].tolist() for row, size in zip(result, (8, 2, 3, 3), strict=True)] == [
        [1.0] * 16,
        [2.0] * 4,
        [3.0] * 6,
        [4.0] * 6,
    ]


def test_threads_of_others_keep_their_number() -> None:
    """One that first asks torch while a batch is at work."""
    seen: list[int] = []

    def work(_: int) -> int:
        if not seen:
            seen.append(0)
            # it goes on when the caller has set its own number again
            time.sleep(0.2)
            other = Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()
        return torch.get_num_threads()

    assert map_in_threads(work, range(4)) == [1] * 4
    assert seen == [0, 2]


def test_threads_that_cannot_be_started_leave_none_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Thread.start
    count = []

    def start_one(thread: Thread) -> None:
        count.append(thread)
        if len(count) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        map_in_threads(str, range(4))
    assert torch.get_num_threads() == 2
