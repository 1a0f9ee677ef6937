"""Pictures of a report: rate against quality, the spread over clips, and spectrograms to look at."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.protocol import SAMPLE_RATE
from eval.report.schema import Results
from eval.report.tables import bitrate, clip_metrics, headline_metrics
from eval.run.store import ORIGINAL, audio_path, load_wav

# Okabe and Ito's colours, which colour-blind readers can distinguish
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
DPI = 100
SHOWN_CODECS = 5  # beside the original, in the spectrograms
SHOWN_SECONDS = 5.0
DYNAMIC_RANGE = 80.0  # dB


class _Point(NamedTuple):
    rate: float
    mean: float
    low: float
    high: float


def draw_pictures(out: Path, results: Results) -> list[str]:
    """Draw all pictures into `out`. Returns their names. Raises ImportError where matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError("pictures need: pip install 'mimotok[eval]' (matplotlib)") from error
    mpl.use("Agg")
    drawn = {
        "rate_distortion.png": _rate_distortion(results),
        "distributions.png": _distributions(results),
        "spectrograms.png": _spectrograms(out, results),
    }
    names = []
    for name, figure in drawn.items():
        if figure is not None:
            # without the version in its metadata, the same figures give the same file
            figure.savefig(out / name, dpi=DPI, metadata={"Software": None})
            names.append(name)
    return names


def _rate_distortion(results: Results) -> Any:
    """Draw each headline metric over bit/s: a line for each model, points for single codecs, levels without a rate."""
    metrics = headline_metrics(results)
    if not metrics or all(bitrate(codec) is None for codec in results["codecs"]):
        return None
    figure, axes = _panels(len(metrics), "Quality at a bitrate")
    families: dict[str, list[Results]] = {}
    for codec in results["codecs"]:
        families.setdefault(_family(codec), []).append(codec)
    for metric, axis in zip(metrics, axes, strict=False):
        for index, (family, codecs) in enumerate(families.items()):
            style = {"color": COLOURS[index % len(COLOURS)], "label": family}
            _draw_family(axis, codecs, metric["name"], style, MARKERS[index % len(MARKERS)])
        axis.set_xscale("log")
        axis.set_xlabel("bit/s of the coded speech")
        axis.set_title(_wrapped(_titled(metric), 3.6))
        axis.grid(True, which="both", alpha=0.25)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(f"{value:g}")[0] in "25" else "")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    return figure


def _family(codec: Results) -> str:
    """Name the line that a codec's point belongs to."""
    kind: str = codec["identity"]["kind"]
    return kind if kind in ("opus", "codec2", "speex") else codec["name"]


def _draw_family(axis: Any, codecs: list[Results], name: str, style: dict[str, str], marker: str) -> None:
    """Draw a line through the codecs that have a bitrate, or the level of each where none has one."""
    measured = [codec for codec in codecs if codec["summary"][name]["mean"] is not None]
    points = sorted((_point(codec, name) for codec in measured if bitrate(codec) is not None), key=lambda p: p.rate)
    if points:
        errors = [[p.mean - p.low for p in points], [p.high - p.mean for p in points]]
        means = [p.mean for p in points]
        axis.errorbar([p.rate for p in points], means, errors, marker=marker, ms=5, lw=1.4, capsize=2.5, **style)
        return
    for codec in measured:
        axis.axhline(codec["summary"][name]["mean"], ls="--", lw=1, **style)


def _point(codec: Results, name: str) -> _Point:
    summary = codec["summary"][name]
    mean = summary["mean"]
    # one clip has no interval
    low, high = (mean if summary[side] is None else summary[side] for side in ("low", "high"))
    return _Point(bitrate(codec) or 0.0, mean, low, high)


def _distributions(results: Results) -> Any:
    """Draw each headline metric's values over clips, a box for each codec."""
    metrics = clip_metrics(results)
    codecs = [codec for codec in results["codecs"] if codec["name"] != "copy" and codec["clips"]]
    if not metrics or not codecs:
        return None
    figure, axes = _panels(len(metrics), "Spread over recordings", height=1.2 + 0.32 * len(codecs))
    for metric, axis in zip(metrics, axes, strict=False):
        values = [
            [row[metric["name"]] for row in codec["clips"].values() if row.get(metric["name"]) is not None]
            for codec in codecs
        ]
        axis.boxplot(values, orientation="horizontal", widths=0.6, showfliers=False, medianprops={"color": COLOURS[1]})
        for position, points in enumerate(values, 1):
            scatter = np.random.default_rng(0).uniform(-0.25, 0.25, len(points))
            axis.plot(points, position + scatter, ".", ms=2.5, alpha=0.5, color=COLOURS[0])
        axis.set_yticks(range(1, len(codecs) + 1), [codec["label"] for codec in codecs], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(_wrapped(_titled(metric), 3.6))
        axis.grid(True, axis="x", alpha=0.25)
    return figure


def ranked_clips(results: Results) -> tuple[str, dict[str, str]] | None:
    """Find the best, the median and the worst clip of the first codec, by the first headline metric.

    Of a model at several numbers of codebooks the one with most bits counts.

    Returns:
        The codec's label, and the clips' ids by rank; None where nothing can be ranked.
    """
    metrics = clip_metrics(results)
    coding = [codec for codec in results["codecs"] if bitrate(codec) is not None]
    if not metrics or not coding:
        return None
    first = max((codec for codec in coding if codec["name"] == coding[0]["name"]), key=lambda c: bitrate(c) or 0.0)
    name = metrics[0]["name"]
    sign = -1 if metrics[0]["higher_is_better"] else 1
    values = {clip: row[name] for clip, row in first["clips"].items() if row.get(name) is not None}
    if not values:
        return None
    order = sorted(values, key=lambda clip: (sign * values[clip], clip))
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    return first["label"], chosen


def _spectrograms(out: Path, results: Results) -> Any:
    """Draw the original and its reconstructions, for the best, the median and the worst clip."""
    import matplotlib.pyplot as plt

    ranked = ranked_clips(results)
    if ranked is None:
        return None
    label, chosen = ranked
    names = {codec["label"]: codec["name"] for codec in results["codecs"]}
    # one row of each model, since its other bitrates look nearly the same
    others = {name: other for other, name in names.items() if name not in (names[label], "copy")}
    columns = [ORIGINAL, label, *list(others.values())[: SHOWN_CODECS - 1]]
    figure, axes = plt.subplots(
        len(chosen), len(columns), figsize=(2.6 * len(columns), 2.2 * len(chosen)), layout="constrained", squeeze=False
    )
    figure.suptitle(_wrapped(f"Best, median and worst recording of {label}", 2.6 * len(columns)))
    for row, (rank, clip) in zip(axes, chosen.items(), strict=True):
        for axis, column in zip(row, columns, strict=True):
            path = audio_path(out, column, clip)
            if path.is_file():
                _draw_spectrogram(axis, load_wav(path))
            axis.set_title(_wrapped(column, 2.2, points=8), fontsize=8)
            axis.tick_params(labelsize=7)
        row[0].set_ylabel(f"{rank}\nkHz", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("s", fontsize=8)
    return figure


def _draw_spectrogram(axis: Any, wav: np.ndarray) -> None:
    wav = wav[: round(SHOWN_SECONDS * SAMPLE_RATE)]
    window = 960
    hop = 240
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wav, window // 2), window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window))).T
    # a fixed scale, on which a full-scale sine is 0 dB, makes pictures comparable
    level = 20 * np.log10(np.maximum(power / (window / 4), 1e-9))
    extent = (0.0, len(wav) / SAMPLE_RATE, 0.0, SAMPLE_RATE / 2000)
    axis.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-DYNAMIC_RANGE, vmax=0)


def _panels(count: int, title: str, height: float = 3.2) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    columns = 2 if count == 4 else min(3, count)
    rows = math.ceil(count / columns)
    width = 4.2 * columns
    title = _wrapped(title, width)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height * rows + 0.45 + 0.25 * len(title.splitlines())),
        layout="constrained",
        squeeze=False,
    )
    figure.suptitle(title)
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, axes.flat


def _wrapped(title: str, inches: float, points: float = 12) -> str:
    """Break a title into lines that fit this width; a letter is taken to be at most 0.65 of its size wide."""
    return "\n".join(textwrap.wrap(title, max(8, int(inches * 72 / (0.65 * points)))))


def _titled(metric: Results) -> str:
    return f"{metric['title']} ({'higher' if metric['higher_is_better'] else 'lower'} is better)"
