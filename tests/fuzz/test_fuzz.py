"""A short campaign: no reader answers a damaged or forged input with anything but a result or a refusal of one line."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.found import FOUND
from tests.fuzz.mutations import changed_value, damaged
from tests.helpers.paths import ROOT

INPUTS = 6


@pytest.mark.slow
def test_no_input_of_a_short_campaign_is_a_fault() -> None:
    pytest.importorskip("lhotse", reason="needs: pip install 'mimotok[tokenize]'")
    pytest.importorskip("constriction", reason="needs: pip install 'mimotok[entropy]'")
    from tests.fuzz.campaign import is_possible

    if not is_possible():
        pytest.skip("limits of memory and the account of it are Linux's")
    # in a process of its own: each input forks it, and this one has threads
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(INPUTS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    ran = {name: int(number) for name, number in re.findall(r"^(\w+): (\d+) inputs, ", done.stdout, re.M)}
    assert len(ran) == 8
    assert ran == {name: INPUTS + len(FOUND.get(name, ())) for name in ran}


@pytest.mark.slow
def test_a_fault_is_found_and_named_with_the_seed_that_repeats_it(tmp_path: Path) -> None:
    """The campaign's own judgement, on readers that fail in every way there is."""
    command = [sys.executable, "-c", PLANTED]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert found == {
        "fine": "read",
        "refused": "refused",
        "several-lines": "traceback",
        "type-error": "traceback",
        "foreign-value-error": "traceback",
        "memory": "excess",
        "touched-memory": "excess",
        "endless": "hang",
        "dead": "death",
        "left": "death",
    }, done.stderr


# entries is not imported: it takes seconds, and nothing of it is wanted here
PLANTED = """
import os, sys, types
from pathlib import Path
from typing import NamedTuple

class Entry(NamedTuple):
    name: str
    make: object
    read: object

stub = types.ModuleType("tests.fuzz.entries")
stub.Entry = Entry
sys.modules["tests.fuzz.entries"] = stub
from tests.fuzz import campaign

campaign.CPU_SECONDS = 1
campaign.MEMORY = 100 << 20

def refuse(_):
    raise own_error("no sound in it")

def own_error(text):
    return ValueError(text)

def several(_):
    raise ValueError("two\\nlines")

def take(size):
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])

def touch(_):
    import mmap
    held = mmap.mmap(-1, 200 << 20)
    for place in range(0, len(held), 4096):
        held[place] = 1

def spin(_):
    while True:
        pass

code = compile("def refuse(_):\\n    raise ValueError('no sound in it')", "/tests/x.py", "exec")
names = {}
exec(code, names)
READERS = {
    "fine": lambda folder: (folder / "input").read_text(),
    "refused": names["refuse"],
    "several-lines": several,
    "type-error": lambda _: None + 1,
    "foreign-value-error": lambda _: int("x"),
    "memory": lambda _: take(300 << 20),
    "touched-memory": touch,
    "endless": spin,
    "dead": lambda _: os.abort(),
    "left": lambda _: os._exit(0),
}
for name, read in READERS.items():
    entry = Entry(name, lambda rng, folder: (folder / "input").write_text("x"), read)
    print(name, campaign.run_input(entry, "0", Path("input")).kind, flush=True)
"""


def test_damage_follows_from_its_seed() -> None:
    data = bytes(range(256)) * 4
    value = {"a": [1, {"b": None}], "c": "text", "d": 2.5}
    same = [damaged(random.Random(i), data, [data[::-1]]) for i in range(200)]
    assert same == [damaged(random.Random(i), data, [data[::-1]]) for i in range(200)]
    assert len(set(same)) > 150
    values = [repr(changed_value(random.Random(i), value)) for i in range(200)]
    assert values == [repr(changed_value(random.Random(i), value)) for i in range(200)]
    assert len(set(values)) > 80
    assert value == {"a": [1, {"b": None}], "c": "text", "d": 2.5}
