"""How long does `mimotok encode` of one second of sound take, process start to exit, beside `import torch`?

python -m bench.cold --repeats 7

CPU time of the process, which other programs do not lengthen; one thread; medians of interleaved turns.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from jsonargparse import CLI

from bench.tables import Table
from mimotok.io.audio import save_audio

SAMPLE_RATE = 24000


def cpu_seconds(command: list[str]) -> float:
    """CPU time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(repeats: int = 7) -> None:
    """Prints both and their ratio.

    Args:
        repeats: timed turns after one that fills the disk cache.
    """
    with tempfile.TemporaryDirectory() as name:
        wav = Path(name) / "in.wav"
        codes = Path(name) / "out.npz"
        save_audio(wav, 0.1 * torch.randn(1, SAMPLE_RATE), SAMPLE_RATE)
        encode = [sys.executable, "-m", "mimotok", "encode", str(wav), str(codes), "--overwrite"]
        commands = {"import torch": [sys.executable, "-c", "import torch"], "mimotok encode": encode}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(repeats + 1):
            for name, command in commands.items():
                seconds = cpu_seconds(command)
                if turn:
                    times[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    table = Table("", ["command", "CPU time in s", "against import torch"])
    for name, median in medians.items():
        table.add(name, f"{median:.2f}", f"{median / medians['import torch']:.2f}")
    print(table)


if __name__ == "__main__":
    CLI(main, as_positional=False)
