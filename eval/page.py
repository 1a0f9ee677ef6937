"""The files of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.report import main_table, save_results, write_report


def write_all(out: Path, results: dict[str, Any]) -> str:
    """Writes the report into `out`; returns its main table."""
    save_results(out / "results.json", results)
    write_report(out / "report.md", results, [])
    return main_table(results)
