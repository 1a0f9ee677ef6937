"""Killed at any moment and run again, a corpus ends with every clip exactly once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.corpus_tools import CLIPS, MODEL, SHARD_HOURS, assert_complete
from tests.helpers.paths import ROOT
from tests.helpers.warm_python import warm_python

pytestmark = pytest.mark.slow

# One process that loads the model once, and forks a child for each run. A child kills itself as it makes a shard
# durable, at the n-th time; or it is killed from outside after a random part of the time that a whole run takes.
KILLED = """
import os, random, signal, sys, time
import torch
from mimotok import Tokenizer
from mimotok.corpus import ledger, tokenize_corpus

torch.set_num_threads(1)
manifest, root, out, model, hours, kills = sys.argv[1:]
tokenizer = Tokenizer.from_pretrained(model)
to_disk, rng = ledger._to_disk, random.Random(0)

def die_at(count):
    def counted(descriptor):
        nonlocal count
        count -= 1
        if count == 0 and rng.random() < 0.5:
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 7))
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        to_disk(descriptor)
    return counted

def run(out, workers, count=0, delay=None):
    start, child = time.monotonic(), os.fork()
    if child == 0:
        ledger._to_disk = die_at(count)
        tokenize_corpus(manifest, out, tokenizer, root=root, workers=workers, shard_hours=float(hours), batch_seconds=1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return time.monotonic() - start, status == signal.SIGKILL

whole, _ = run(out + "-whole", 0)
killed = sum(run(out, k % 2, count=1 + k % 3)[1] for k in range(int(kills)))
killed += sum(run(out, k % 2, delay=rng.random() * whole)[1] for k in range(int(kills)))
run(out, 1)
print(killed)
"""


def test_killed_at_any_moment(sounds, tmp_path: Path) -> None:
    out, kills = tmp_path / "tokens", 4
    arguments = [sounds.manifest, sounds.folder, out, MODEL, SHARD_HOURS, kills]
    command = [warm_python(), "-c", KILLED, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= kills // 2
    for folder in (out, tmp_path / "tokens-whole"):
        assert_complete(folder, sounds.codes)
    assert len(sounds.codes) == CLIPS
