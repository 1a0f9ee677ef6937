"""The files to read and hear: `report.md`, and `index.html`, which plays every recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from eval.report import tables
from eval.report.schema import Results
from eval.run.store import ORIGINAL, audio_path
from mimotok.io.files import atomic_path
from mimotok.page.files import site_folder

TEMPLATES = Path(__file__).parent / "templates"


# The same files as on the page on which the codec runs: mimotok's `site` folder.
SCRIPTS = ("table.js", "player.js")


class Column(NamedTuple):
    """A column of a table: its head, and what its figures mean."""

    name: str
    meaning: str


class Cell(NamedTuple):
    """A version of a recording: its file, None if it failed, its figures, and the first of them, which sorts."""

    source: str | None
    figures: str
    key: str


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
    shown = ", ".join(metric["title"] for metric in tables.clip_metrics(results))
    figures = f"figures of each recording: {shown}; sorted by the first" if shown else "to listen to"
    listen_columns = [
        Column("recording", "name and text of the recording"),
        Column(ORIGINAL, "the recording as the codecs were given it"),
        *[Column(label, f"as decoded by {label}; {figures}") for label in labels],
    ]
    _write(
        path,
        "index.html.j2",
        results,
        pictures,
        columns=_main_columns(results),
        shown=shown,
        scripts="\n".join((site_folder() / "js" / name).read_text(encoding="utf-8") for name in SCRIPTS),
        listen_columns=listen_columns,
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
        prediction=tables.prediction_table(results),
        full=tables.full_table(results),
        **more,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _main_columns(results: Results) -> list[Column]:
    """Say what the columns of the main table mean."""
    metrics = tables.headline_metrics(results)
    directions = ["higher" if metric["higher_is_better"] else "lower" for metric in metrics]
    meanings = [
        "name of the codec in this evaluation",
        "bits a second of the coded speech, without container",
        *[f"{metric['method']}; {way} is better" for metric, way in zip(metrics, directions, strict=True)],
    ]
    return [Column(*pair) for pair in zip(tables.main_table(results).header, meanings, strict=True)]


def _listen_row(out: Path, results: Results, clip: Results) -> ListenRow:
    metrics = tables.clip_metrics(results)
    cells = [Cell(_source(out, ORIGINAL, clip["id"]), "", "")]
    for codec in results["codecs"]:
        label = codec["label"]
        row = codec["clips"].get(clip["id"])
        if row is None:
            cells.append(Cell(None, "", ""))
            continue
        figures = [tables.figure_text(row.get(metric["name"]), metric) for metric in metrics]
        cells.append(Cell(_source(out, label, clip["id"]), " · ".join(figures), "".join(figures[:1])))
    return ListenRow(clip["id"], clip["text"] or "", cells)


def _source(out: Path, codec: str, clip_id: str) -> str:
    return audio_path(out, codec, clip_id).relative_to(out).as_posix()
