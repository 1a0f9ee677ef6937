"""Processes that work beside this one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mimotok.io.terminal.streams import begin_worker

# The one that starts a process in milliseconds, where the system has it, and the one that every system has.
SERVER = "forkserver"
ANEW = "spawn"


def process_pool(workers: int, *modules: str, initializer: Callable[[], None] = begin_worker) -> ProcessPoolExecutor:
    """Make a pool of processes that are no copies of this one, in which threads of torch may hold a lock.

    Args:
        workers: number of processes.
        modules: what they need. A server imports it, once for all processes of this program's first pool, and the
            processes are copies of the server.
        initializer: called first in each process; it should call `begin_worker`, as the default does.
    """
    if SERVER not in multiprocessing.get_all_start_methods():
        return ProcessPoolExecutor(workers, multiprocessing.get_context(ANEW), initializer=initializer)
    context = multiprocessing.get_context(SERVER)
    context.set_forkserver_preload(list(modules))
    return ProcessPoolExecutor(workers, context, initializer=initializer)


def map_in_processes(
    workers: int, module: str, function: Callable[..., Any], *arguments: Iterable[Any]
) -> Iterator[Any]:
    """Yield what `map(function, *arguments)` would, in its order, computed by a pool of processes.

    Args:
        workers: number of processes.
        module: what they need, see `process_pool`.
        function: defined at the top level of a module.
        arguments: as of `map`.

    Raises:
        ValueError: where a process dies.
    """
    with process_pool(workers, module) as pool:
        try:
            yield from pool.map(function, *arguments)
        except BrokenProcessPool as error:
            raise ValueError(
                f"one of {workers} worker processes died, perhaps for want of memory; use fewer workers"
            ) from error


def end_with_parent(worker: int) -> None:
    """End this worker of a DataLoader as soon as the process that started it ends, however that ends.

    To be given to a DataLoader as `worker_init_fn`. Torch's own watch begins when a worker is set up, and takes the
    process that it then finds as its parent for the one that started it: a worker whose parent was killed a moment
    earlier would wait for ever, and hold its output open.
    """
    del worker
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process is no worker"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
