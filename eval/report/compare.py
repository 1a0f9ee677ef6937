"""Comparison of two measurements: paired differences over the recordings that both have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eval.report.schema import Results
from eval.report.statistics import bootstrap_interval
from eval.report.tables import Table, markdown

# kinds of codecs that are states of a model, which compare under different names
CHECKPOINTS = ("mimotok", "vocoder")


class Difference(NamedTuple):
    """B minus A of one metric: its mean and 95 % interval over `clips` recordings.

    `worse` and `better` are true where all of the interval is on that side of 0.
    """

    codec: str
    metric: str
    title: str
    mean: float
    low: float
    high: float
    clips: int
    worse: bool
    better: bool


def compare(before: Results, after: Results, *, seed: int = 0) -> list[Difference]:
    """Compare two measurements by codec and metric, over recordings whose originals are the same.

    Codecs are paired by label. A model of ours that is then left over is paired by its number of codebooks, so that
    two checkpoints can be compared.

    Args:
        before: what to compare with.
        after: what is new.
        seed: of the bootstrap.

    Returns:
        Paired differences, after minus before.

    Raises:
        ValueError: the two have no recording, no codec or no metric in common.
    """
    clips = _common_clips(before, after)
    if not any(clips.values()):
        raise ValueError("the two measurements have no recording in common")
    pairs = paired_codecs(before["codecs"], after["codecs"])
    if not pairs:
        raise ValueError("the two measurements have no codec in common")
    methods = {metric["name"]: metric["method"] for metric in after["metrics"]}
    differences = []
    for old, new in pairs:
        for metric in before["metrics"]:
            # figures of two speaker models or recognisers are not comparable
            if methods.get(metric["name"]) != metric["method"]:
                continue
            rows = "labelled" if metric.get("labelled") else "clips"
            common = clips["joint"] if metric.get("joint") else clips[rows]
            difference = _difference(old, new, metric, rows, common, seed)
            if difference is not None:
                differences.append(difference)
    if not differences:
        raise ValueError("the two measurements have no metric in common")
    return differences


def _common_clips(before: Results, after: Results) -> dict[str, list[str]]:
    """Find the recordings that are the same, and those of joint figures and with labels if all of them are the same."""
    hashes = {clip["id"]: clip["sha256"] for clip in after["clips"]}
    same = sorted(clip["id"] for clip in before["clips"] if hashes.get(clip["id"]) == clip["sha256"])
    whole = len(same) == len(before["clips"]) == len(after["clips"])
    # figures of labelled clips depend on each other
    labelled = before.get("labelled", [])
    if labelled != after.get("labelled") or not _same_labels(before, after):
        labelled = []
    return {"clips": same, "joint": same if whole else [], "labelled": labelled}


def _same_labels(before: Results, after: Results) -> bool:
    """Return whether the labelled clips have the same labels, as far as both measurements tell."""
    hashes = [side.get("labels_sha256") for side in (before, after)]
    return None in hashes or hashes[0] == hashes[1]


def paired_codecs(before: list[Results], after: list[Results]) -> list[tuple[Results, Results]]:
    """Pair the codecs of two measurements that are the same, or two states of the same."""
    by_label = {codec["label"]: codec for codec in after}
    pairs = [(codec, by_label[codec["label"]]) for codec in before if codec["label"] in by_label]
    paired = {codec["label"] for codec, _ in pairs}
    left, right = (
        [codec for codec in side if codec["label"] not in paired and codec["identity"]["kind"] in CHECKPOINTS]
        for side in (before, after)
    )
    for codec in left:
        same_left = [other for other in left if _role(other) == _role(codec)]
        same_right = [other for other in right if _role(other) == _role(codec)]
        if len(same_left) == len(same_right) == 1:
            pairs.append((codec, same_right[0]))
    return pairs


def _role(codec: Results) -> tuple[str, int | None]:
    return codec["identity"]["kind"], codec["identity"].get("n_q")


def _difference(
    before: Results, after: Results, metric: Results, rows: str, clips: list[str], seed: int
) -> Difference | None:
    """Compare one metric of two codecs, or return None where no clip has it on both sides.

    A pooled rate's difference is that of the sums, over the same reference.
    """
    name = metric["name"]
    over, under = metric["pooled"] or (name, None)
    deltas = []
    weights = []
    for clip in clips:
        old = before.get(rows, {}).get(clip, {})
        new = after.get(rows, {}).get(clip, {})
        weight = float(new.get(under) or 0.0) if under else 1.0
        # nothing to count errors of, such as an empty text, counts for nothing, as in the report
        if old.get(over) is None or new.get(over) is None or not weight:
            continue
        deltas.append(new[over] - old[over])
        weights.append(weight)
    if not deltas:
        return None
    low, high = bootstrap_interval(np.array(deltas), np.array(weights), seed=seed)
    label = before["label"] if before["label"] == after["label"] else f"{before['label']} → {after['label']}"
    rises = low > 0
    falls = high < 0
    worse, better = (falls, rises) if metric["higher_is_better"] else (rises, falls)
    return Difference(
        codec=label,
        metric=name,
        title=metric["title"],
        mean=sum(deltas) / sum(weights),
        low=low,
        high=high,
        clips=len(deltas),
        worse=worse,
        better=better,
    )


def comparison_table(differences: list[Difference]) -> str:
    """Write differences, B minus A, as a Markdown table."""
    verdicts = {(True, False): "worse", (False, True): "better", (False, False): ""}
    rows = [
        [
            d.codec,
            d.title,
            f"{d.mean:+.4f}",
            f"[{d.low:+.4f}, {d.high:+.4f}]",
            str(d.clips),
            verdicts[d.worse, d.better],
        ]
        for d in differences
    ]
    return markdown(Table(["codec", "metric", "B - A", "95 % interval", "clips", ""], rows))
