"""Runs an entry point's reader on seeded inputs, each in a process of its own, with limits on memory and time."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.fuzz.entries import Entry
from tests.fuzz.found import FOUND

MEMORY = 1 << 30  # bytes above what the process holds before it reads
CPU_SECONDS = 20
# of the clock: only for what waits without working, such as a pipe
WALL_SECONDS = 120
RESULT = "result.json"


class Outcome(NamedTuple):
    """What became of one input. kind: read, refused, or a fault (traceback, hang, excess, death)."""

    kind: str
    message: str

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("read", "refused")


@dataclass
class Report:
    """What became of all inputs of one entry point. faults: by their message, the seeds that repeat them."""

    entry: str
    inputs: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add(self, seed: str, outcome: Outcome) -> None:
        self.inputs += 1
        if outcome.is_fault:
            self.faults.setdefault(f"{outcome.kind}: {outcome.message}", []).append(seed)
        elif outcome.kind == "read":
            self.read += 1
        else:
            self.refused[outcome.message] += 1

    def lines(self) -> Iterable[str]:
        """The report in words: counts, refusals by message, and each fault with the seeds that repeat it."""
        refused = self.refused.total()
        yield f"{self.entry}: {self.inputs} inputs, {self.read} read, {refused} refused, {len(self.faults)} faults"
        yield from (f"  {count:7} {message}" for message, count in self.refused.most_common())
        for message, seeds in self.faults.items():
            yield f"FAULT {len(seeds)} times; python -m tests.fuzz --entry {self.entry} --repeat {seeds[0]}"
            yield from (f"    {line}" for line in message.splitlines())


def run_entry(entry: Entry, *, seed: str, seconds: float = float("inf"), inputs: float = float("inf")) -> Report:
    """Run what was a fault once, and then inputs until the time or their number is over.

    Input i of a seed is the same on every machine.
    """
    report = Report(entry.name)
    end = time.monotonic() + seconds
    known = FOUND.get(entry.name, ())
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        for own in chain(known, (f"{seed}.{number}" for number in count())):
            if report.inputs >= len(known) + inputs or time.monotonic() > end:
                break
            report.add(own, run_input(entry, own, Path(scratch, "input")))
    return report


def run_input(entry: Entry, seed: str, folder: Path) -> Outcome:
    """Make the input of a seed in a folder, and read it in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    child = os.fork()
    if child == 0:
        _read_and_exit(entry, seed, folder)
    status, usage = _wait(child)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = "hang" if number in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM) else "death"
        return Outcome(kind, signal.Signals(number).name)
    try:
        outcome = Outcome(*json.loads((folder / RESULT).read_text()))
    except (OSError, ValueError):
        return Outcome("death", f"exit code {os.waitstatus_to_exitcode(status)}")
    grown = usage.ru_maxrss * 1024 - _status("VmHWM")
    if grown > MEMORY and not outcome.is_fault:
        return Outcome("excess", f"more than {MEMORY >> 20} MB; {outcome.message}")
    return outcome


def _wait(child: int) -> tuple[int, resource.struct_rusage]:
    end = time.monotonic() + WALL_SECONDS
    pause = 0.0005
    while time.monotonic() < end:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage


def _read_and_exit(entry: Entry, seed: str, folder: Path) -> NoReturn:
    """In the child: read the input, write what became of it, and end without any of the parent's clearing up."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        entry.make(random.Random(f"{entry.name} {seed}"), folder)
        unlimited = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + MEMORY, unlimited[1]))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        outcome = _outcome(entry, folder)
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    except BaseException as error:
        outcome = Outcome("death", f"the campaign itself failed: {_in_one_line(error)}")
    (folder / RESULT).write_text(json.dumps(outcome))
    os._exit(0)


def _outcome(entry: Entry, folder: Path) -> Outcome:
    try:
        entry.read(folder)
    except ValueError as error:
        message = str(error)
        if "\n" in message or len(message) > 2000 or not message.strip():
            return Outcome(
                "traceback", f"a refusal of {len(message)} characters or of several lines: {message[:300]!r}"
            )
        # a ValueError that no code of ours raised tells nobody what to do
        if not _is_ours(error):
            return Outcome("traceback", _in_one_line(error))
        return Outcome("refused", _general(message, folder))
    except MemoryError as error:
        return Outcome("excess", f"more than {MEMORY >> 20} MB: {_in_one_line(error)}")
    except BaseException as error:
        return Outcome("traceback", _in_one_line(error))
    return Outcome("read", "")


def _is_ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(part in frames[-1].filename for part in ("/mimotok/", "/train/", "/eval/", "/tests/"))


def _in_one_line(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/fuzz/" not in frame.filename]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-4:]]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}\n" + "\n".join(places)


def _general(message: str, folder: Path) -> str:
    """A message without what differs from input to input: paths, quotations, numbers."""
    message = message.replace(str(folder), "")
    message = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "'…'", message)
    message = re.sub(r"[^\x20-\x7e…]+", "?", message)
    return re.sub(r"\d[\d.e+]*", "N", message)[:160]


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def is_possible() -> bool:
    """Whether this system has what the campaign needs: fork, limits on data, and Linux's account of memory."""
    return sys.platform == "linux" and hasattr(os, "fork")
