"""`index.html`: the tables and pictures of a report, and every recording to be heard, original and reconstructions."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from eval.report import figure_text, headline_metrics, main_rows
from eval.store import ORIGINAL, audio_path
from mimotok.io.files import atomic_path

Results = dict[str, Any]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left; max-width: 26rem }
thead th { position: sticky; top: 0; background: #fff }
img { max-width: 100%; height: auto }
button { cursor: pointer } button.on { background: #0072B2; color: #fff }
small { color: #666; display: block } .wide { overflow-x: auto }
"""
# one player for the whole page: hundreds of them would each open their file
SCRIPT = """
const player = new Audio(); let on = null;
const stop = () => { player.pause(); if (on) on.classList.remove("on"); on = null; };
player.onended = stop;
player.onerror = () => { if (on) on.textContent = "no file"; stop(); };
document.addEventListener("click", event => {
  const button = event.target.closest("button[data-src]");
  if (!button) return;
  const same = button === on; stop();
  if (same) return;
  on = button; on.classList.add("on"); player.src = button.dataset.src; player.play();
});
"""


def write_page(out: Path, results: Results, pictures: list[str]) -> None:
    """Writes index.html into `out`; it plays the recordings that lie beside it. pictures: names of files there."""
    clips = results["clips"]
    minutes = sum(clip["seconds"] for clip in clips) / 60
    body = [
        "<h1>Codec evaluation</h1>",
        f"<p>{len(clips)} recordings, {minutes:.1f} minutes. <code>{html.escape(results['command'])}</code></p>",
        _html_table(*main_rows(results)),
        *[f'<p><img src="{name}" alt="{name}"></p>' for name in pictures],
        "<h2>Listen</h2>",
        f"<p>Click to play, click again to stop. Figures: {html.escape(_legend(results))}.</p>",
        _listening_table(out, results),
    ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Codec evaluation</title>'
        f"<style>{STYLE}</style><body>{''.join(body)}<script>{SCRIPT}</script></body></html>\n"
    )
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _html_table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _shown(results: Results) -> list[Results]:
    return [metric for metric in headline_metrics(results) if not metric["pooled"]]


def _legend(results: Results) -> str:
    return ", ".join(metric["title"] for metric in _shown(results)) or "none"


def _listening_table(out: Path, results: Results) -> str:
    codecs = results["codecs"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("recording", ORIGINAL, *[c["label"] for c in codecs]))
    rows = []
    for clip in results["clips"]:
        said = html.escape(clip["text"] or "")
        columns = [
            f"<td>{html.escape(clip['id'])}<small>{said}</small></td>",
            f"<td>{_button(out, ORIGINAL, clip['id'])}</td>",
        ]
        for codec in codecs:
            figures = codec["clips"].get(clip["id"])
            if figures is None:
                columns.append("<td>failed</td>")
                continue
            told = " · ".join(figure_text(figures.get(metric["name"]), metric) for metric in _shown(results))
            columns.append(f"<td>{_button(out, codec['label'], clip['id'])}<small>{told}</small></td>")
        rows.append(f"<tr>{''.join(columns)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _button(out: Path, codec: str, clip_id: str) -> str:
    source = audio_path(out, codec, clip_id).relative_to(out).as_posix()
    return f'<button data-src="{html.escape(source)}">play</button>'
