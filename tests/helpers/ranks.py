"""Processes that train together."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from tests.helpers.paths import ROOT
from tests.helpers.warm_python import warm_python


def run_ranks(worker: Callable[..., None], folder: object, *arguments: object, ranks: int = 2) -> None:
    """Call worker(rank, folder, *arguments) of a test module in a process for each rank, the folder as a string."""
    given = (str(folder), *arguments)
    code = f"from {worker.__module__} import {worker.__name__} as worker; worker({{}}, *{given!r})"
    commands = [[warm_python(), "-c", code.format(rank)] for rank in range(ranks)]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in started:
        _, printed = process.communicate()
        assert process.returncode == 0, printed[-3000:]
