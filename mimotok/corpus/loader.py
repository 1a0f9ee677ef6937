"""A DataLoader over `TokenDataset` that stops and continues exactly, whatever its workers have read ahead."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from mimotok.corpus.dataset import TokenDataset
from mimotok.corpus.sequences import Lane, SequenceBatch, collate
from mimotok.io.terminal.workers import end_with_parent
from mimotok.model.lengths import frames_needed


class _Lanes(IterableDataset[Any]):
    """Batches that the workers collate, each with its lane and the dataset's state after it."""

    def __init__(self, dataset: TokenDataset, batch_size: int, states: dict[int, dict[str, Any]], first: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.states = states
        self.first = first

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any], SequenceBatch]]:
        number, lanes = Lane.current()
        # the DataLoader asks its workers in turn, from worker 0 on, wherever the last run stopped
        lane = (self.first + number) % lanes
        dataset = copy.copy(self.dataset)
        dataset.lane = lane
        if lane in self.states:
            dataset.load_state_dict(self.states[lane])
        if dataset.epoch > self.dataset.epoch:
            return  # this lane had already come to the epoch's end
        items = []
        for item in dataset:
            items.append(item)
            if len(items) == self.batch_size:
                yield lane, dataset.state_dict(), collate(items)
                items = []
        if items:
            yield lane, dataset.state_dict(), collate(items)


class TokenLoader:
    """Padded batches of a `TokenDataset`, one epoch an iteration, with `state_dict` for an exact resume.

    The last batch of each worker may be smaller: nothing is dropped. With DDP every rank has its own loader and state.

    Args:
        dataset: read from its current epoch on.
        batch_size: sequences in a batch.
        num_workers: processes, 0 for none.
        pin_memory: as of DataLoader.

    Yields:
        `SequenceBatch`: codes int64 [B, n_q, F] with their lengths [B].

    Raises:
        ValueError: for a batch_size below 1 or a negative num_workers.

    Example:
        >>> loader = TokenLoader(TokenDataset("tokens/"), batch_size=8)  # doctest: +SKIP
        >>> batch = next(iter(loader))  # doctest: +SKIP
        >>> state = loader.state_dict()  # doctest: +SKIP
    """

    def __init__(
        self, dataset: TokenDataset, batch_size: int, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size={batch_size}, num_workers={num_workers}: give 1 or more, and 0 or more")
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._states: dict[int, dict[str, Any]] = {}
        self._next = 0  # the lane whose turn it is

    def __len__(self) -> int:
        """Return the batches of a whole epoch, wherever reading is."""
        counts = self.dataset.count_sequences(max(1, self.num_workers))
        return sum(frames_needed(count, self.batch_size) for count in counts)

    def __iter__(self) -> Iterator[SequenceBatch]:
        lanes = max(1, self.num_workers)
        data = _Lanes(self.dataset, self.batch_size, dict(self._states), self._next)
        loader: DataLoader[Any] = DataLoader(
            data,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            worker_init_fn=end_with_parent,
        )
        for lane, state, batch in loader:
            self._states[lane] = state
            self._next = (lane + 1) % lanes
            yield batch
        self.dataset.set_epoch(self.dataset.epoch + 1)
        self._states = {}
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place of reading, after the last batch that was handed out."""
        shape = {"batch_size": self.batch_size, "num_workers": self.num_workers}
        return shape | {"dataset": self.dataset.state_dict(), "lanes": dict(self._states), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the place of `state`. Raises ValueError where the loader has other settings."""
        for name in ("batch_size", "num_workers"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the state is of a loader with {name}={state[name]}, not {getattr(self, name)}")
        self.dataset.load_state_dict(state["dataset"])
        self._states = dict(state["lanes"])
        self._next = state["next"]
