"""Reading back: every clip exactly once an epoch, whoever reads; a resumed stream equals one without a break."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from mimotok.corpus import TokenDataset, TokenLoader, collate, sequences
from mimotok.corpus.sequences import Sequence
from tests.helpers.corpus_tools import FAKE, fake_corpus

pytestmark = pytest.mark.slow

CUTTING = [{}, {"length": 7, "mode": "cut"}, {"length": 11, "mode": "pack"}]
corpora = st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=8), min_size=1, max_size=6)


def as_worker(monkeypatch: pytest.MonkeyPatch, number: int, count: int) -> None:
    monkeypatch.setattr(sequences, "get_worker_info", lambda: SimpleNamespace(id=number, num_workers=count))


def frames_heard(items: list[Sequence]) -> dict[str, np.ndarray]:
    """Codes by clip, put together from sequences; each frame must come once."""
    heard: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for item in items:
        for segment, (key, start) in enumerate(zip(item.keys, item.starts, strict=True)):
            heard[key].append((start, item.codes[:, item.segments == segment].numpy()))
    joined = {}
    for key, parts in heard.items():
        parts.sort(key=lambda part: part[0])
        sizes = np.cumsum([0, *(part.shape[1] for _, part in parts)])
        assert [start for start, _ in parts] == sizes[:-1].tolist(), "a frame is missing, or there twice"
        joined[key] = np.concatenate([part for _, part in parts], axis=1)
    return joined


def assert_all_heard(items: list[Sequence], codes: dict[str, np.ndarray]) -> None:
    heard = frames_heard(items)
    assert heard.keys() == codes.keys()
    for key in codes:
        np.testing.assert_array_equal(heard[key], codes[key])


def same(one: list[Sequence], other: list[Sequence]) -> bool:
    return [(a.keys, a.starts, a.codes.tolist()) for a in one] == [(b.keys, b.starts, b.codes.tolist()) for b in other]


@pytest.mark.parametrize("cutting", CUTTING, ids=["whole", "cut", "pack"])
@settings(deadline=None, max_examples=15)
@given(
    shards=corpora,
    ranks=st.integers(1, 3),
    workers=st.integers(1, 3),
    mix=st.integers(1, 3),
    shuffle=st.booleans(),
    epoch=st.integers(0, 2),
)
def test_every_clip_once_whoever_reads(
    cutting: dict[str, Any], shards: list[list[int]], ranks: int, workers: int, mix: int, shuffle: bool, epoch: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        codes = fake_corpus(Path(folder) / "t", shards)
        items: list[Sequence] = []
        shares = []
        for rank in range(ranks):
            for worker in range(workers):
                as_worker(monkeypatch, worker, workers)
                options = {"rank": rank, "world_size": ranks, "mix": mix, "shuffle": shuffle, **cutting}
                data = TokenDataset(Path(folder) / "t", **options)
                data.set_epoch(epoch)
                expected = data.count_sequences(workers)[worker]
                mine = list(data)
                assert len(mine) == expected
                items += mine
                shares.append(len(frames_heard(mine)))
                if cutting.get("mode") == "pack":
                    assert all(item.codes.shape[1] == 11 for item in mine[:-1])
        assert_all_heard(items, codes)
        assert max(shares) - min(shares) <= 1
        limit = cutting.get("length") or 20
        assert all(item.codes.shape[1] <= limit for item in items)


@pytest.mark.parametrize("cutting", CUTTING, ids=["whole", "cut", "pack"])
@settings(deadline=None, max_examples=15)
@given(shards=corpora, stop=st.integers(0, 60), mix=st.integers(1, 3))
def test_resumed_equals_uninterrupted(cutting: dict[str, Any], shards: list[list[int]], stop: int, mix: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fake_corpus(Path(folder) / "t", shards)

        def fresh() -> TokenDataset:
            return TokenDataset(Path(folder) / "t", seed=3, mix=mix, **cutting)

        whole = fresh()
        expected = [list(whole), list(whole)]
        stopped = fresh()
        before = list(islice(stopped, stop))
        resumed = fresh()
        resumed.load_state_dict(stopped.state_dict())
        after = list(resumed)
        if len(before) < stop:  # it had come to the epoch's end, and is in the next
            assert same(before, expected[0])
            assert same(after, expected[1])
        else:
            assert same(before + after, expected[0])
            assert same(list(resumed), expected[1])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("corpus") / "t"
    rng = np.random.default_rng(0)
    return folder, fake_corpus(folder, [rng.integers(1, 30, 7).tolist() for _ in range(5)])


@pytest.mark.parametrize("cutting", CUTTING, ids=["whole", "cut", "pack"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_resumes_exactly_with_workers(
    corpus: tuple[Path, dict[str, np.ndarray]], cutting, workers: int
) -> None:
    folder, codes = corpus

    def fresh(rank: int = 0) -> TokenLoader:
        return TokenLoader(TokenDataset(folder, rank=rank, world_size=2, **cutting), 3, num_workers=workers)

    loader = fresh()
    expected = [[batch.items for batch in loader] for _ in range(2)]
    both = [item for rank in range(2) for batch in fresh(rank) for item in batch.items]
    assert_all_heard(both, codes)
    first, second = ([item for items in epoch for item in items] for epoch in expected)
    assert not same(first, second)
    # workers, which take long to start, change only who reads: the stops are tried without them
    stops = (1,) if workers else (0, 1, len(expected[0]) // 2, len(expected[0]) - 1)
    for stop in stops:
        stopped, batches = fresh(), []
        for batch in islice(stopped, stop):
            batches.append(batch.items)
        resumed = fresh()
        resumed.load_state_dict(stopped.state_dict())
        batches += [batch.items for batch in resumed]
        assert len(batches) == len(expected[0])
        assert all(same(a, b) for a, b in zip(batches, expected[0], strict=True))
        if stop == 1:
            assert all(same(a.items, b) for a, b in zip(resumed, expected[1], strict=True))


def test_padding(corpus: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, codes = corpus
    for batch in TokenLoader(TokenDataset(folder, length=9), 4):
        assert batch.codes.shape == (len(batch.items), 3, int(batch.lengths.max()))
        for row, item in enumerate(batch.items):
            size = int(batch.lengths[row])
            assert (batch.codes[row, :, :size] == item.codes).all()
            assert not batch.codes[row, :, size:].any()
            assert item.metadata[0]["text"] == item.keys[0] in codes


def test_a_plain_dataloader_and_epochs(corpus: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, codes = corpus
    data = TokenDataset(folder)
    loader = DataLoader(data, batch_size=None, num_workers=2, collate_fn=lambda item: item)
    first = list(loader)
    assert_all_heard(first, codes)
    data.set_epoch(1)
    assert not same(first, list(loader))
    data.set_epoch(0)
    assert same(first, list(loader))


def test_batches_are_pinned_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch asks a batch of a class of its own for it; only an accelerator's driver can do it."""
    fake_corpus(tmp_path / "t", [[5, 20]])
    batch = next(iter(TokenLoader(TokenDataset(tmp_path / "t"), 2)))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor + 1)
    _, pinned = pin_memory((0, batch))
    for name in ("codes", "segments", "lengths"):
        assert torch.equal(getattr(pinned, name), getattr(batch, name) + 1)
    assert pinned.items is batch.items


def test_several_folders(corpus: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    folder, codes = corpus
    fake_corpus(tmp_path / "more", [[4, 5]])
    more = list(TokenDataset([folder, tmp_path / "more"]))
    assert len(more) == len(codes) + 2
    fake_corpus(tmp_path / "other", [[4, 5]], replace(FAKE, sha256="1" * 64))
    with pytest.raises(ValueError, match="do not go together: sha256"):
        TokenDataset([folder, tmp_path / "other"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "cut"}, "length=None"),
        ({"mode": "whole", "length": 3}, "length=3"),
        ({"length": 0}, "length=0"),
        ({"mode": "slice", "length": 3}, "mode=slice"),
        ({"mix": 0}, "mix=0"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
    ],
)
def test_bad_options(corpus: tuple[Path, dict[str, np.ndarray]], options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenDataset(corpus[0], **options)


def test_a_state_of_another_dataset_is_refused(corpus: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    folder, _ = corpus
    state = TokenDataset(folder, seed=1).state_dict()
    with pytest.raises(ValueError, match="seed 1, not 2"):
        TokenDataset(folder, seed=2).load_state_dict(state)
    loader = TokenLoader(TokenDataset(folder), 2)
    with pytest.raises(ValueError, match="batch_size=2, not 3"):
        TokenLoader(TokenDataset(folder), 3).load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match="no folder of tokens"):
        TokenDataset(tmp_path)


@pytest.mark.parametrize("cutting", CUTTING, ids=["whole", "cut", "pack"])
@pytest.mark.parametrize("workers", [0, 2])
def test_lengths_are_reported_beforehand(cutting: dict[str, Any], workers: int, tmp_path: Path) -> None:
    """Also from a ledger of an earlier version, which does not say the frames of each clip."""
    folder = tmp_path / "t"
    fake_corpus(folder, [[5, 20, 9], [1, 14], [8]])
    ledger = folder / "ledger.jsonl"
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [row.pop("clip_frames") for row in rows] == [[5, 20, 9], [1, 14], [8]]
    counts = []
    for _ in range(2):
        data = TokenDataset(folder, **cutting)
        loader = TokenLoader(data, 2, num_workers=workers)
        counts.append((len(data), len(loader)))
        assert len(data) == len(list(TokenDataset(folder, **cutting)))
        assert len(loader) == len(list(loader))
        ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert counts[0] == counts[1]


def test_a_plain_dataloader_pads(tmp_path: Path) -> None:
    fake_corpus(tmp_path / "t", [[5, 20, 9], [1]])
    batches = list(DataLoader(TokenDataset(tmp_path / "t", shuffle=False), batch_size=3, collate_fn=collate))
    assert [batch.codes.shape[2] for batch in batches] == [20, 1]
    assert batches[0].lengths.tolist() == [5, 20, 9]
