"""The command line of the campaign: `make fuzz`, or `python -m tests.fuzz --seconds 60 --entry config`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.campaign import run_entry, run_input
from tests.fuzz.entries import ENTRIES, warm_up


def main() -> int:
    """Run the campaign and print its report. Returns 1 where it found a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--entry", nargs="*", choices=list(ENTRIES), default=list(ENTRIES), help="entry points; all")
    parser.add_argument("--seconds", type=float, default=600, help="budget of each entry point (600)")
    parser.add_argument("--inputs", type=float, default=float("inf"), help="inputs of each entry point; no limit")
    parser.add_argument("--seed", default="0", help="of the inputs (0); others give other inputs")
    parser.add_argument("--repeat", metavar="SEED", help="run one input, and leave it in fuzz-input/")
    given = parser.parse_args()
    warm_up()
    if given.repeat:
        folder = Path("fuzz-input").absolute()
        print(*run_input(ENTRIES[given.entry[0]], given.repeat, folder), sep="\n")
        return 0
    faults = 0
    for name in given.entry:
        report = run_entry(ENTRIES[name], seed=given.seed, seconds=given.seconds, inputs=given.inputs)
        print("\n".join(report.lines()), flush=True)
        faults += len(report.faults)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
