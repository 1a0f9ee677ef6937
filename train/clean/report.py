"""The report of a cleaning: one page without anything from elsewhere, with a histogram of each estimate."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_BINS = 40
_WIDTH = 520
_HEIGHT = 140
_STYLE = (
    "body{font:15px/1.4 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}"
    "svg{max-width:100%;height:auto}.kept{fill:#2a7ab0}.left{fill:#d9a05b}line{stroke:#c00}text{font-size:12px}"
)


class Histogram(NamedTuple):
    """What is drawn: a title, the field of a segment, and the limit, None for none."""

    title: str
    field: str
    limit: float | None


def write_page(
    segments: Sequence[Mapping[str, Any]],
    histograms: Sequence[Histogram],
    facts: Sequence[tuple[str, str]],
    skipped: Mapping[str, str],
) -> str:
    """Return the page as HTML.

    Args:
        segments: all of them; `reason` says why one is left out, None where it is kept.
        histograms: which estimates to show.
        facts: names and values for the table at the top.
        skipped: recordings that could not be heard, with the reason.
    """
    reasons = Counter(segment["reason"] for segment in segments if segment["reason"] is not None)
    rows = [*facts, *((f"left out: {name}", f"{count} segments") for name, count in sorted(reasons.items()))]
    table = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    pictures = "".join(_picture(segments, histogram) for histogram in histograms)
    lost = "".join(f"<li>{html.escape(f'{name}: {reason}')}</li>" for name, reason in skipped.items())
    problems = f"<h2>Recordings not heard</h2><ul>{lost}</ul>" if lost else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Cleaned audio</title><style>{_STYLE}</style>'
        f"<h1>Cleaned audio</h1><table>{table}</table>"
        f"<p>Blue segments are kept, orange ones are left out; a red line is a limit.</p>{pictures}{problems}</html>\n"
    )


def _picture(segments: Sequence[Mapping[str, Any]], histogram: Histogram) -> str:
    known = [segment for segment in segments if segment.get(histogram.field) is not None]
    title = f"<h2>{html.escape(histogram.title)}</h2>"
    if not known:
        return f"{title}<p>not measured</p>"
    values = np.array([segment[histogram.field] for segment in known], float)
    kept = np.array([segment["reason"] is None for segment in known])
    shown = values if histogram.limit is None else np.append(values, histogram.limit)
    low = float(shown.min())
    high = float(max(shown.max(), low + 1e-6))
    all_counts = np.histogram(values, _BINS, (low, high))[0]
    kept_counts = np.histogram(values[kept], _BINS, (low, high))[0]
    unit = _HEIGHT / all_counts.max()
    step = _WIDTH / _BINS
    parts = []
    for number, (count, good) in enumerate(zip(all_counts, kept_counts, strict=True)):
        for kind, top, size in (("kept", good, good), ("left", count, count - good)):
            if size:
                parts.append(
                    f'<rect class="{kind}" x="{number * step:.1f}" y="{_HEIGHT - top * unit:.1f}" '
                    f'width="{step - 1:.1f}" height="{size * unit:.1f}"/>'
                )
    if histogram.limit is not None:
        place = (histogram.limit - low) / (high - low) * _WIDTH
        parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{_HEIGHT}"/>')
    label = f'<text x="0" y="{_HEIGHT + 16}">{low:.4g}</text>'
    label += f'<text x="{_WIDTH}" y="{_HEIGHT + 16}" text-anchor="end">{high:.4g}</text>'
    return f'{title}<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 20}" width="{_WIDTH}">{"".join(parts)}{label}</svg>'
