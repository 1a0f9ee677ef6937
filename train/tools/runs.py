"""The list of runs: step, hours heard and best figures of each, from the run.json in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHOWN = 6  # figures of a run


def list_runs(root: str | Path) -> str:
    """Return a table of the runs at and below a folder, the latest first.

    Raises ValueError where the folder is missing or holds no run.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give --root the folder of the runs")
    runs = []
    for path in [root / "run.json", *root.glob("*/run.json"), *root.glob("*/*/run.json")]:
        record = _record(path)
        if record is not None:
            runs.append((str(record.get("started", "")), path.parent.relative_to(root).as_posix(), record))
    if not runs:
        raise ValueError(
            f"{root}: no run with a run.json in it; `python -m train fit --name NAME` makes one in runs/NAME"
        )
    rows = [["run", "started", "step", "hours", "best on dev"]]
    for started, name, record in sorted(runs, reverse=True, key=lambda run: run[:2]):
        hours = record.get("audio_hours", 0.0)
        rows.append([name, started[:16], str(record.get("step", "")), f"{hours:.2f}", _figures(record.get("best"))])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    hours = record.get("audio_hours", 0.0) if isinstance(record, dict) else None
    return record if isinstance(hours, int | float) else None


def _figures(best: Any) -> str:
    if not isinstance(best, dict):
        return ""
    # the figures of the quantized sound before those of the continuous latents
    names = sorted(best, key=lambda name: (name.startswith("unquantized"), name))
    figures = [f"{name} {best[name]['value']:.3g} (step {best[name]['step']})" for name in names[:SHOWN]]
    return ", ".join(figures)
