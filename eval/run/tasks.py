"""Many independent tasks over worker processes; a task that fails does not lose the others' results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch

from mimotok.io.terminal.streams import begin_worker, error_line
from mimotok.io.terminal.workers import process_pool

Item = TypeVar("Item")


class Failed(NamedTuple):
    """Why a task has no result, in one line."""

    reason: str


def run_tasks(
    function: Callable[[Item], Any], items: Sequence[Item], workers: int, *, isolated: bool = False
) -> Iterator[tuple[Item, Any]]:
    """Apply a function to many items.

    Args:
        function: defined at the top level of a module, since it is sent to other processes.
        items: its arguments.
        workers: processes; with one, everything happens in this process, which dies with a task that kills it.
        isolated: let one worker be a process of its own, too.

    Yields:
        (item, function(item)) in the order in which they finish; the result is a `Failed` where the function raised
        an error or its process died.
    """
    if workers == 1 and isolated:
        yield from _run_one_by_one(function, items)
        return
    if workers == 1:
        yield from _run_here(function, items)
        return
    orphans: list[Item] = []
    with _pool(workers) as pool:
        futures: dict[Future[Any], Item] = {pool.submit(_guarded, function, item): item for item in items}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                orphans.append(futures[future])
    # a dying worker loses all tasks in flight: repeat them one at a time to find the one that kills it
    yield from _run_one_by_one(function, orphans)


def _run_one_by_one(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
    """Apply a function in one process, and in another from the next item on where an item kills it."""
    done = 0
    while done < len(items):
        with _pool(1) as pool:
            futures = [pool.submit(_guarded, function, item) for item in items[done:]]
            for future in futures:
                try:
                    result = future.result()
                except BrokenProcessPool:
                    # one process takes them in order: this is the one that it died of
                    result = Failed("the worker process died; was there enough memory?")
                yield items[done], result
                done += 1
                if isinstance(result, Failed) and future.exception() is not None:
                    break


def _run_here(function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
    with one_thread():
        for item in items:
            yield item, _guarded(function, item)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Make a pool that waits at its end for what is running, and not for what has yet to begin."""
    pool = process_pool(workers, "eval.run.steps", initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    _use_one_thread()
    begin_worker()


def _use_one_thread() -> None:
    # the order of a sum depends on the number of threads: with one, figures do not depend on the machine
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, so that figures do not depend on the machine."""
    threads = torch.get_num_threads()
    _use_one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _guarded(function: Callable[[Item], Any], item: Item) -> Any:
    try:
        return function(item)
    except Exception as error:  # codecs and metrics may raise any error, and none of them may stop a run
        return Failed(error_line(error))
