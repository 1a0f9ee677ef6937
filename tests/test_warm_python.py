"""The server of warm Pythons outlives what it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.warm_python import warm_python


def test_processes_that_end_together_each_give_their_code() -> None:
    """A server that waited for its processes in a signal's handler would die of two that end at once."""
    if warm_python() == sys.executable:
        pytest.skip("no server runs here: it needs Linux and a short path of temporary files")
    for _ in range(10):
        started = [subprocess.Popen([warm_python(), "-c", f"import sys; sys.exit({code})"]) for code in range(6)]
        assert [process.wait() for process in started] == list(range(6))


def test_a_client_that_is_killed_takes_nothing_with_it() -> None:
    with subprocess.Popen([warm_python(), "-c", "import time; time.sleep(0.5)"]) as process:
        process.kill()
    assert subprocess.run([warm_python(), "-c", "import time; time.sleep(1)"], check=True).returncode == 0
