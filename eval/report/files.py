"""All files of a report."""

from __future__ import annotations

from pathlib import Path

from eval.report.page import write_page, write_report
from eval.report.pictures import draw_pictures
from eval.report.schema import Results, save_results
from eval.report.tables import main_table, markdown


def write_report_files(out: Path, results: Results) -> str:
    """Write results.json, pictures, report.md and index.html into `out`.

    Without matplotlib there are no pictures, and the report says so.

    Returns:
        The main table, in Markdown.
    """
    pictures: list[str] = []
    try:
        pictures = draw_pictures(out, results)
    except ImportError as error:
        results["notes"] = [*results["notes"], str(error)]
    save_results(out / "results.json", results)
    write_report(out / "report.md", results, pictures)
    write_page(out / "index.html", results, pictures)
    return markdown(main_table(results))
