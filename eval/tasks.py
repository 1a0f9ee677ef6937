"""Many independent tasks over worker processes, none of which can lose the others' results."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeVar

import torch

from mimotok.io.terminal import end_on_signals

Item = TypeVar("Item")


class Failed(NamedTuple):
    """Why a task has no result, in one line."""

    reason: str


def run_tasks(function: Callable[[Item], Any], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Any]]:
    """Yields (item, function(item)) as they are done; the result is a `Failed` where the function raised or died.

    function: top-level, since it goes to other processes. With one worker everything happens in this process.
    """
    if workers == 1:
        yield from _run_here(function, items)
        return
    orphans: list[Item] = []
    pool = _pool(workers)
    try:
        futures: dict[Future[Any], Item] = {pool.submit(_guarded, function, item): item for item in items}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                orphans.append(futures[future])
    finally:
        pool.shutdown(cancel_futures=True)
    # a dying worker takes all that was in flight with it: one at a time tells which one it was
    for item in orphans:
        with _pool(1) as alone:
            try:
                yield item, alone.submit(_guarded, function, item).result()
            except BrokenProcessPool:
                yield item, Failed("the worker process died; was there enough memory?")


def _run_here(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
    threads = torch.get_num_threads()
    _one_thread()
    try:
        for item in items:
            yield item, _guarded(function, item)
    finally:
        torch.set_num_threads(threads)


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawn: a forked copy of torch's thread pool can hang
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    end_on_signals()
    _one_thread()


def _one_thread() -> None:
    # the order of a sum depends on the number of threads: with one, figures do not depend on the machine
    torch.set_num_threads(1)


def _guarded(function: Callable[[Item], Any], item: Item) -> Any:
    try:
        return function(item)
    except Exception as error:  # codecs and metrics raise whatever they like, and none may stop a run
        return Failed(" ".join(str(error).split())[:300] or type(error).__name__)
