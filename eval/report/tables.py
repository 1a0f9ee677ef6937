"""Tables of a report, in Markdown and as rows for the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.report.schema import Results
from mimotok.io.files import atomic_path

NO_FIGURE = "–"


class Table(NamedTuple):
    """A header and rows of text; the first column is words, the others are figures."""

    header: list[str]
    rows: list[list[str]]


def markdown(table: Table) -> str:
    """Write a table in Markdown."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [table.header, rule, *table.rows])


def headline_metrics(results: Results) -> list[Results]:
    """List the metrics of the main table and the pictures."""
    return [metric for metric in results["metrics"] if metric["headline"]]


def clip_metrics(results: Results) -> list[Results]:
    """List the headline metrics that have a figure for every recording of the test list."""
    return [m for m in headline_metrics(results) if not m["pooled"] and not m.get("labelled")]


def main_table(results: Results) -> Table:
    """Make a row for each codec: bitrate, and the headline metrics' means with their intervals."""
    metrics = headline_metrics(results)
    header = ["codec", "bit/s", *[f"{m['title']} {arrow(m)}" for m in metrics]]
    rows = [
        [
            codec["label"],
            _bits(bitrate(codec)),
            *[with_interval(codec["summary"].get(m["name"]), m["digits"]) for m in metrics],
        ]
        for codec in results["codecs"]
    ]
    return Table(header, rows)


def short_table(results: Results) -> Table:
    """Make a row for each codec: bitrate, and the means of PESQ-WB and of speaker similarity."""
    metrics = [metric for metric in headline_metrics(results) if metric["name"] in ("pesq_wb", "sim")]
    rows = [
        [codec["label"], _bits(bitrate(codec)), *[_mean(codec, metric) for metric in metrics]]
        for codec in results["codecs"]
    ]
    return Table(["codec", "bit/s", *[f"{m['title']} {arrow(m)}" for m in metrics]], rows)


def codebook_table(results: Results) -> Table:
    """Make a row for each measured number of codebooks: nominal bitrate, the headline metrics' means, and the speed."""
    metrics = headline_metrics(results)
    rows = [
        [
            codec["label"],
            _bits(codec["nominal_bitrate"]),
            *[_mean(codec, metric) for metric in metrics],
            *[_number(codec["speed"][side] or None, 3) for side in ("encode", "decode")],
        ]
        for codec in results["codecs"]
        if "n_q" in codec["identity"]
    ]
    header = ["codebooks", "bit/s", *[f"{m['title']} {arrow(m)}" for m in metrics], "encode RTF ↓", "decode RTF ↓"]
    return Table(header, rows)


def rate_table(results: Results) -> Table:
    """Make a row for each codec: the bitrates, code usage, and the time that coding takes."""
    header = ["codec", "nominal", "stream", "file", "entropy", "code usage", "encode RTF", "decode RTF"]
    rows = []
    for codec in results["codecs"]:
        rates = codec["rates"]
        usage = rates.get("code_usage")
        rows.append(
            [
                codec["label"],
                _bits(codec["nominal_bitrate"]),
                *[_bits(rates.get(kind)) for kind in ("stream_bitrate", "file_bitrate", "entropy_bitrate")],
                f"{sum(usage) / len(usage):.0%}" if usage else "",
                *[_number(codec["speed"][side] or None, 3) for side in ("encode", "decode")],
            ]
        )
    return Table(header, rows)


def prediction_table(results: Results) -> Table | None:
    """Make a row for each codec with a model of its codes: bits and perplexities. None where there is no such codec."""
    found = [codec for codec in results["codecs"] if "model_bitrate" in codec["rates"]]
    if not found:
        return None
    books = max(len(codec["rates"]["model_perplexity"]) for codec in found)
    rows = []
    for codec in found:
        perplexity = [f"{value:.1f}" for value in codec["rates"]["model_perplexity"]]
        rows.append(
            [
                codec["label"],
                *[_bits(bits) for bits in (codec["nominal_bitrate"], codec["rates"]["model_bitrate"])],
                *perplexity,
                *[""] * (books - len(perplexity)),
            ]
        )
    return Table(["codec", "nominal", "code model", *[f"book {book + 1}" for book in range(books)]], rows)


def full_table(results: Results) -> Table:
    """Make a row for each codec and metric: mean, median, interval, clips with and without a value."""
    rows = []
    for codec in results["codecs"]:
        for metric in results["metrics"]:
            summary = codec["summary"][metric["name"]]
            figures = [_number(summary[name], metric["digits"]) for name in ("mean", "median", "low", "high")]
            rows.append([codec["label"], metric["title"], *figures, str(summary["clips"]), str(summary["missing"])])
    return Table(["codec", "metric", "mean", "median", "low", "high", "clips", "missing"], rows)


TABLES: dict[str, Callable[[Results], Table]] = {
    "main": main_table,
    "short": short_table,
    "codebooks": codebook_table,
    "rates": rate_table,
    "full": full_table,
}


def fill_tables(document: Path, results: Results, *, only: str | None = None) -> int:
    """Put a report's tables into a Markdown document.

    A place for a table is all between `<!-- eval: NAME -->` and `<!-- /eval -->`, where NAME is one of TABLES.

    Args:
        document: the file, which is rewritten.
        results: the report's figures.
        only: the name of the tables to write; others keep what they hold. None writes all.

    Returns:
        How many tables were written.

    Raises:
        ValueError: there is no table `only`, or the document has no place for it or names another table.
    """
    if only is not None and only not in TABLES:
        raise ValueError(f"no table {only!r}; give {', '.join(TABLES)}")
    text = document.read_text(encoding="utf-8")

    def filled(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"{document}: no table {match[2]!r}; give {', '.join(TABLES)}")
        return f"{match[1]}\n{markdown(TABLES[match[2]](results))}\n{match[3]}"

    name = r"\S+" if only is None else only
    pattern = re.compile(rf"(<!-- eval: ({name}) -->).*?(<!-- /eval -->)", re.DOTALL)
    text, count = pattern.subn(filled, text)
    if not count:
        example = only or "main"
        raise ValueError(f"{document}: no place for a table; write <!-- eval: {example} --> and <!-- /eval --> there")
    with atomic_path(document) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return count


def bitrate(codec: Results) -> float | None:
    """Return the bit/s of a codec in tables and curves: of its stream as measured, nominal where nothing was coded."""
    measured: float | None = codec["rates"].get("stream_bitrate")
    return codec["nominal_bitrate"] if measured is None else measured


def with_interval(summary: Results | None, digits: int) -> str:
    """Write a mean with its interval, where it has one."""
    if summary is None or summary["mean"] is None:
        return NO_FIGURE
    mean, low, high = (_number(summary[name], digits) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if low else mean


def figure_text(value: float | None, metric: Results) -> str:
    """Write a figure of a metric with its digits, or a dash where there is none."""
    return NO_FIGURE if value is None else _number(value, metric["digits"])


def _mean(codec: Results, metric: Results) -> str:
    """Write the mean of a metric over all recordings."""
    summary = codec["summary"].get(metric["name"])
    return figure_text(None if summary is None else summary["mean"], metric)


def arrow(metric: Results) -> str:
    """Return an arrow in the direction that is better."""
    return "↑" if metric["higher_is_better"] else "↓"


def total_minutes(clips: Sequence[Results]) -> float:
    """Sum up the length of recordings in minutes."""
    return sum(clip["seconds"] for clip in clips) / 60


def _bits(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
