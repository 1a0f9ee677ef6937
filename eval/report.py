"""Reports to read: `report.md`, and the tables that the README and model cards take from a `results.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.summary import FORMAT
from mimotok.io.files import atomic_path, open_regular

Results = dict[str, Any]


def save_results(path: Path, results: Results) -> None:
    """Writes results.json, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(_readable(results) + "\n", encoding="utf-8")


def _readable(value: Any, depth: int = 0) -> str:
    """JSON with whatever holds no further lists or objects, such as a recording's figures, on a line of its own."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(child, (dict, list)) for child in children):
        # NaN is no JSON: better no file than one that others cannot read
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, dict):
        lines = [f"{json.dumps(str(k), ensure_ascii=False)}: {_readable(v, depth + 1)}" for k, v in value.items()]
    else:
        lines = [_readable(child, depth + 1) for child in value]
    inner, outer = "\n" + " " * (depth + 1), "\n" + " " * depth
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + inner + f",{inner}".join(lines) + outer + closing


def load_results(path: Path) -> Results:
    """Reads results.json. Raises ValueError where it is none, or of another format."""
    try:
        with open_regular(path) as file:
            results = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as results.json ({error})") from None
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ValueError(f"{path}: not a results.json of format {FORMAT}")
    return results


def write_report(path: Path, results: Results, pictures: list[str]) -> None:
    """Writes report.md; pictures: names of files beside it."""
    clips = results["clips"]
    parts = [
        "# Codec evaluation",
        f"`{results['command']}`",
        f"{len(clips)} recordings, {sum(clip['seconds'] for clip in clips) / 60:.1f} minutes. Each figure is a mean "
        "over clips with its 95 % bootstrap interval; error rates are pooled over the corpus.",
        main_table(results),
        "## Bits and speed",
        rate_table(results),
        _rate_notes(results),
        *[f"![{name}]({name})" for name in pictures],
        "## All figures",
        full_table(results),
        "## Metrics",
        "\n".join(f"- **{m['title']}** ({_arrow(m)}): {m['method']}" for m in results["metrics"]),
        "## Protocol",
        "\n".join(f"- {rule}" for rule in results["protocol"]["rules"]),
        "## Problems",
        "\n".join(f"- {line}" for line in results["failures"] + results["notes"]) or "None.",
        "## Versions",
        ", ".join(f"{name} {number}" for name, number in results["versions"].items())
        + f"; seed {results['seed']}, {results['workers']} worker(s), device {results['device']}",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def headline_metrics(results: Results) -> list[Results]:
    """The metrics of the main table and the pictures."""
    return [metric for metric in results["metrics"] if metric["headline"]]


def main_table(results: Results) -> str:
    """One row per codec: bitrate, and the headline metrics' means with their intervals."""
    return table(*main_rows(results))


def main_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `main_table`."""
    metrics = headline_metrics(results)
    header = ["codec", "bit/s", *[f"{m['title']} {_arrow(m)}" for m in metrics]]
    rows = [
        [codec["label"], _bits(bitrate(codec)), *[_with_interval(codec["summary"][m["name"]], m) for m in metrics]]
        for codec in results["codecs"]
    ]
    return header, rows


def rate_table(results: Results) -> str:
    """One row per codec: the bitrates, code usage, and time that coding takes."""
    header = ["codec", "nominal", "stream", "file", "entropy", "code usage", "encode RTF", "decode RTF"]
    rows = []
    for codec in results["codecs"]:
        rates, speed = codec["rates"], codec["speed"]
        kinds = ("stream_bitrate", "file_bitrate", "entropy_bitrate")
        usage = rates.get("code_usage")
        rows.append(
            [
                codec["label"],
                _bits(codec["nominal_bitrate"]),
                *[_bits(rates.get(kind)) for kind in kinds],
                f"{sum(usage) / len(usage):.0%}" if usage else "",
                *[_number(speed[side], 3) if speed[side] else "" for side in ("encode", "decode")],
            ]
        )
    return table(header, rows)


def _rate_notes(results: Results) -> str:
    return (
        "bit/s over all recordings. Stream: the coded speech itself, without container; file: as written, container "
        "included; entropy: what an ideal coder of independent codes would need, estimated on these codes and so too "
        "low for few recordings. Code usage: the share of codebook entries that occur, mean over codebooks. RTF: "
        f"seconds of work on one thread per second of sound ({results['device']}), tools' start-up and files included."
    )


def full_table(results: Results) -> str:
    """One row per codec and metric: mean, median, interval, clips that count, clips without a value."""
    rows = []
    for codec in results["codecs"]:
        for metric in results["metrics"]:
            s, digits = codec["summary"][metric["name"]], metric["digits"]
            figures = [_number(s[name], digits) for name in ("mean", "median", "low", "high")]
            rows.append([codec["label"], metric["title"], *figures, str(s["clips"]), str(s["missing"])])
    return table(["codec", "metric", "mean", "median", "low", "high", "clips", "missing"], rows)


def bitrate(codec: Results) -> float | None:
    """bit/s that a codec stands at in tables and curves: of its stream as measured."""
    return codec["rates"].get("stream_bitrate")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column text and the others figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def _with_interval(summary: Results, metric: Results) -> str:
    if summary["mean"] is None:
        return "–"
    mean, low, high = (_number(summary[name], metric["digits"]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if low else mean


def _arrow(metric: Results) -> str:
    return "↑" if metric["higher_is_better"] else "↓"


def _bits(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0f}"


def figure_text(value: float | None, metric: Results) -> str:
    """A figure of a metric with its digits, "–" where there is none."""
    return "–" if value is None else _number(value, metric["digits"])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
