"""What a training step frees is there for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

SCRIPT = """
import importlib.util, resource
spec = importlib.util.spec_from_file_location("memory", "train/run/memory.py")
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
print(memory.keep_freed_memory())
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"x" * (8 << 20) for _ in range(10)]
    del held
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Counted in pages that the second of two equal steps has to fetch."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, first, second = done.stdout.split()
    if kept == "False":
        pytest.skip("not glibc")
    assert int(first) > 10_000
    assert int(second) < int(first) / 10
