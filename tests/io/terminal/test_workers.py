"""Workers of a DataLoader end with the process that started them, and a worker that dies is reported."""

from __future__ import annotations

import os
import subprocess

import pytest

from mimotok.io.terminal.workers import map_in_processes
from tests.helpers.warm_python import warm_python

# the worker is still being set up when its parent is killed: what torch watches then is another process
KILLED = """
import os, signal, time
from torch.utils.data import DataLoader
from mimotok.io.terminal.workers import end_with_parent

def slowly(worker):
    time.sleep(1)
    end_with_parent(worker)

batches = iter(DataLoader(range(8), num_workers=2, worker_init_fn=slowly))
os.kill(os.getpid(), signal.SIGKILL)
"""


def end_at_three(number: int) -> int:
    if number == 3:
        os._exit(1)
    return 2 * number


def test_what_a_process_dies_of_is_one_line() -> None:
    assert list(map_in_processes(2, __name__, end_at_three, range(3))) == [0, 2, 4]
    with pytest.raises(ValueError, match="one of 2 worker processes died"):
        list(map_in_processes(2, __name__, end_at_three, range(5)))


def test_workers_end_when_their_parent_is_killed_at_once() -> None:
    """Its output is at its end as soon as no process holds it open."""
    done = subprocess.run([warm_python(), "-c", KILLED], capture_output=True, text=True, timeout=120)
    assert done.returncode < 0
    assert "Traceback" not in done.stderr
