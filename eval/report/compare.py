"""Two measurements against each other: paired differences over the recordings that both have."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from eval.report.statistics import bootstrap_interval
from eval.report.tables import table

Results = dict[str, Any]


class Difference(NamedTuple):
    """B minus A of one metric: its mean and 95 % interval over `clips` recordings. worse: all of the interval is."""

    codec: str
    metric: str
    title: str
    mean: float
    low: float
    high: float
    clips: int
    worse: bool
    better: bool


def compare(ours: Results, theirs: Results, *, seed: int = 0) -> list[Difference]:
    """Paired differences theirs - ours, by codec and metric, over recordings whose originals are the same.

    Codecs are paired by label; a model of ours that is left over by its number of codebooks, so that two
    checkpoints compare. Raises ValueError where nothing can be paired.
    """
    differences = []
    same = {clip["id"] for clip in ours["clips"]} & {clip["id"] for clip in theirs["clips"]}
    hashes = [{clip["id"]: clip["sha256"] for clip in side["clips"]} for side in (ours, theirs)]
    same = {clip for clip in same if hashes[0][clip] == hashes[1][clip]}
    if not same:
        raise ValueError("the two measurements have no recording in common")
    pairs = paired_codecs(ours["codecs"], theirs["codecs"])
    if not pairs:
        raise ValueError("the two measurements have no codec in common")
    methods = {metric["name"]: metric["method"] for metric in theirs["metrics"]}
    for a, b in pairs:
        for metric in ours["metrics"]:
            # figures of two speaker models or recognisers are not comparable
            if methods.get(metric["name"]) == metric["method"]:
                differences += _difference(a, b, metric, sorted(same), seed)
    if not differences:
        raise ValueError("the two measurements have no metric in common")
    return differences


def paired_codecs(ours: list[Results], theirs: list[Results]) -> list[tuple[Results, Results]]:
    """Codecs of two measurements that stand for the same thing."""
    by_label = {codec["label"]: codec for codec in theirs}
    pairs = [(codec, by_label[codec["label"]]) for codec in ours if codec["label"] in by_label]
    paired = {codec["label"] for codec, _ in pairs}
    sides = [
        [
            codec
            for codec in side
            if codec["label"] not in paired and codec["identity"]["kind"] in ("mimotok", "vocoder")
        ]
        for side in (ours, theirs)
    ]
    for codec in sides[0]:
        matches = [[other for other in side if _role(other) == _role(codec)] for side in sides]
        if len(matches[0]) == len(matches[1]) == 1:
            pairs.append((codec, matches[1][0]))
    return pairs


def _role(codec: Results) -> tuple[str, int | None]:
    return codec["identity"]["kind"], codec["identity"].get("n_q")


def _difference(a: Results, b: Results, metric: Results, clips: list[str], seed: int) -> list[Difference]:
    """None or one. A pooled rate's difference is that of the summed edits, over the same reference."""
    name = metric["name"]
    over, under = metric["pooled"] or (name, None)
    deltas, weights = [], []
    for clip in clips:
        left, right = (side["clips"].get(clip, {}) for side in (a, b))
        if left.get(over) is None or right.get(over) is None:
            continue
        deltas.append(right[over] - left[over])
        weights.append(float(right[under]) if under else 1.0)
    if not deltas:
        return []
    low, high = bootstrap_interval(np.array(deltas), np.array(weights), seed=seed)
    up = metric["higher_is_better"]
    label = a["label"] if a["label"] == b["label"] else f"{a['label']} → {b['label']}"
    rises, falls = low > 0, high < 0
    return [
        Difference(
            codec=label,
            metric=name,
            title=metric["title"],
            mean=sum(deltas) / sum(weights),
            low=low,
            high=high,
            clips=len(deltas),
            worse=falls if up else rises,
            better=rises if up else falls,
        )
    ]


def comparison_table(differences: list[Difference]) -> str:
    """A Markdown table of differences, B minus A."""
    rows = [
        [
            d.codec,
            d.title,
            f"{d.mean:+.4f}",
            f"[{d.low:+.4f}, {d.high:+.4f}]",
            str(d.clips),
            "worse" if d.worse else "better" if d.better else "",
        ]
        for d in differences
    ]
    return table(["codec", "metric", "B - A", "95 % interval", "clips", ""], rows)
