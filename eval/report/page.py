"""The files to read and hear: `report.md`, and `index.html`, which plays every recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from eval.report import tables
from eval.report.schema import Results
from eval.run.store import ORIGINAL, audio_path
from mimotok.io.files import atomic_path

TEMPLATES = Path(__file__).parent / "templates"


class Cell(NamedTuple):
    """A recording in the table to listen to: its name, its file, None if it failed, and its figures."""

    name: str
    source: str | None
    figures: str


class ListenRow(NamedTuple):
    """All versions of one recording."""

    id: str
    text: str
    cells: list[Cell]


def write_report(path: Path, results: Results, pictures: list[str]) -> None:
    """Write report.md; pictures: names of files beside it."""
    _write(path, "report.md.j2", results, pictures)


def write_page(path: Path, results: Results, pictures: list[str]) -> None:
    """Write index.html, which plays the recordings that lie beside it; pictures: names of files beside it."""
    labels = [codec["label"] for codec in results["codecs"]]
    _write(
        path,
        "index.html.j2",
        results,
        pictures,
        headline=tables.headline_metrics(results),
        shown=tables.clip_metrics(results),
        listen_header=["recording", ORIGINAL, *labels],
        listen_rows=[_listen_row(path.parent, results, clip) for clip in results["clips"]],
    )


def _write(path: Path, template: str, results: Results, pictures: list[str], **more: Any) -> None:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
    except ImportError as error:
        raise ImportError("reports need: pip install 'mimotok[eval]' (jinja2)") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        # names of recordings are not markup
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": tables.markdown, "arrow": tables.arrow}
    clips = results["clips"]
    text = environment.get_template(template).render(
        results=results,
        pictures=pictures,
        summary=f"{len(clips)} recordings, {tables.total_minutes(clips):.1f} minutes.",
        main=tables.main_table(results),
        rates=tables.rate_table(results),
        full=tables.full_table(results),
        **more,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _listen_row(out: Path, results: Results, clip: Results) -> ListenRow:
    metrics = tables.clip_metrics(results)
    cells = [Cell(f"{clip['id']}, {ORIGINAL}", _source(out, ORIGINAL, clip["id"]), "")]
    for codec in results["codecs"]:
        name = f"{clip['id']}, {codec['label']}"
        row = codec["clips"].get(clip["id"])
        if row is None:
            cells.append(Cell(name, None, ""))
            continue
        figures = " · ".join(tables.figure_text(row.get(metric["name"]), metric) for metric in metrics)
        cells.append(Cell(name, _source(out, codec["label"], clip["id"]), figures))
    return ListenRow(clip["id"], clip["text"] or "", cells)


def _source(out: Path, codec: str, clip_id: str) -> str:
    return audio_path(out, codec, clip_id).relative_to(out).as_posix()
