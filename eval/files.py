"""The files of a report, and the tables that other documents take from its figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from eval.page import write_page
from eval.pictures import draw_pictures
from eval.report import full_table, main_table, rate_table, save_results, write_report
from mimotok.io.files import atomic_path

TABLES = {"main": main_table, "rates": rate_table, "full": full_table}


def write_report_files(out: Path, results: dict[str, Any]) -> str:
    """Writes results.json, pictures, report.md and index.html into `out`; returns the main table.

    Without matplotlib there are no pictures, and the report says so.
    """
    try:
        pictures = draw_pictures(out, results)
    except ImportError as error:
        pictures, results["notes"] = [], [*results["notes"], str(error)]
    save_results(out / "results.json", results)
    write_report(out / "report.md", results, pictures)
    write_page(out, results, pictures)
    return main_table(results)


def fill_tables(document: Path, results: dict[str, Any]) -> int:
    """Puts a report's tables into a Markdown document; returns how many places there were.

    A place is all between `<!-- eval: NAME -->` and `<!-- /eval -->`, where NAME is main, rates or full.
    Raises ValueError where the document has none, or names another table.
    """
    text = document.read_text(encoding="utf-8")

    def filled(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"{document}: no table {match[2]!r}; there are {', '.join(TABLES)}")
        return f"{match[1]}\n{TABLES[match[2]](results)}\n{match[3]}"

    pattern = re.compile(r"(<!-- eval: (\S+) -->).*?(<!-- /eval -->)", re.DOTALL)
    text, count = pattern.subn(filled, text)
    if not count:
        raise ValueError(f"{document}: no place for a table; write <!-- eval: main --> and <!-- /eval --> there")
    with atomic_path(document) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return count
