"""Processes that work beside this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

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
