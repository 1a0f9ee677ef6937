"""Workers of a DataLoader end with the process that started them."""

from __future__ import annotations

import subprocess

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


def test_workers_end_when_their_parent_is_killed_at_once() -> None:
    """Its output is at its end as soon as no process holds it open."""
    done = subprocess.run([warm_python(), "-c", KILLED], capture_output=True, text=True, timeout=120)
    assert done.returncode < 0
    assert "Traceback" not in done.stderr
