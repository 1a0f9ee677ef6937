"""The figures of a run as `results.json`: for each clip, and summed up."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from eval import protocol
from eval.metrics.base import MISSING, Column
from eval.report.prediction import predicted_bits
from eval.report.schema import FORMAT, Results
from eval.report.statistics import Summary, entropy_bits, summarize, summarize_ratio
from eval.run.runner import CodecRun, Run
from eval.run.steps import Figures, null_for_nan
from eval.testlists import LabelledClip

PACKAGES = (
    *("mimotok", "torch", "numpy", "soxr", "soundfile", "pesq", "pystoi", "resemblyzer", "jiwer", "pocketsphinx"),
    *("faster-whisper", "ctranslate2", "speechmos", "distillmos", "transformers", "whisper-normalizer", "librosa"),
    *("visqol-python", "ai-edge-litert"),
)


def results_of(run: Run, command: str) -> Results:
    """Collect all that a report needs, as JSON with null where there is no figure.

    Args:
        run: what was measured.
        command: what the user typed.

    Returns:
        The content of results.json.
    """
    return {
        "format": FORMAT,
        "command": command,
        "seed": run.settings.seed,
        "workers": run.settings.workers,
        "device": run.settings.device,
        "versions": {"python": platform.python_version(), **_versions()},
        "protocol": {"version": protocol.VERSION, "rules": list(protocol.RULES)},
        "metrics": [
            {"name": c.name, "title": c.title, "method": c.method, "higher_is_better": c.higher_is_better}
            | {"pooled": c.pooled, "digits": c.digits, "headline": c.headline, "labelled": c.labelled, "joint": c.joint}
            for c in run.columns
        ],
        "models": run.metrics,
        "clips": [
            {"id": clip.id, "seconds": run.seconds[clip.id], "sha256": run.hashes[clip.id]}
            | {"text": clip.text, "language": clip.language, "machine_text": clip.machine_text}
            for clip in run.clips.values()
        ],
        "labelled": [labelled.clip.id for labelled in run.settings.labelled],
        "labels_sha256": _labels_sha256(run.settings.labelled),
        "codecs": [_codec(run, codec) for codec in run.codecs],
        "failures": run.failures,
        "notes": run.notes,
    }


def _labels_sha256(labelled: tuple[LabelledClip, ...]) -> str:
    """Hash names and phones, which are the same on every machine."""
    return hashlib.sha256(json.dumps([(each.clip.id, each.phones) for each in labelled]).encode()).hexdigest()


def _codec(run: Run, codec: CodecRun) -> dict[str, Any]:
    clips = {
        clip_id: {name: value for name, value in codec.coding[clip_id].items() if name not in ("sha256", "codes")}
        | codec.figures.get(clip_id, {})
        for clip_id in run.clips
        if clip_id in codec.coding
    }
    rows = {False: list(clips.values()), True: list(codec.labelled.values())}
    seconds = sum(run.seconds[clip_id] for clip_id in clips)
    return {
        "label": codec.spec.label,
        "name": codec.spec.name,
        "identity": codec.identity,
        "nominal_bitrate": codec.nominal_bitrate,
        "rates": rates(codec, run.seconds),
        "speed": {
            side: sum(row[f"{side}_seconds"] for row in clips.values()) / seconds if seconds else None
            for side in ("encode", "decode")
        },
        "summary": {
            column.name: null_for_nan(_summarize(column, rows[column.labelled], run.settings.seed)._asdict())
            for column in run.columns
        },
        "clips": clips,
        "labelled": codec.labelled,
    }


def _summarize(column: Column, rows: list[Figures], seed: int) -> Summary:
    def values(name: str) -> list[float]:
        found = (row.get(name) for row in rows)
        return [MISSING if value is None else value for value in found]

    if column.pooled:
        over, under = column.pooled
        return summarize_ratio(values(over), values(under), seed=seed)
    return summarize(values(column.name), seed=seed)


def rates(codec: CodecRun, seconds: dict[str, float]) -> dict[str, Any]:
    """Compute bits per second over all clips, and how the codebooks are used.

    Returns:
        stream_bitrate, of the coded speech without a container; file_bitrate, of the files written; entropy_bitrate, of
        an ideal coder that knows how often each entry of each codebook occurs here; code_usage, the share of each
        codebook's entries that occur; perplexity, 2 ** entropy of each codebook. Where the codec has a model of codes:
        model_bitrate, of an ideal coder that knows it, model_perplexity of each codebook under it, and model_digest.
    """
    total = sum(seconds[clip_id] for clip_id in codec.coding)
    result: dict[str, Any] = {}
    for name in ("stream", "file"):
        bits = [coding[f"{name}_bits"] for coding in codec.coding.values()]
        result[f"{name}_bitrate"] = sum(bits) / total if bits and None not in bits else None
    coded = [np.asarray(coding["codes"]) for coding in codec.coding.values() if coding["codes"] is not None]
    if coded and codec.codebook_sizes:
        codes = np.concatenate(coded, axis=1)
        counts = [np.bincount(book, minlength=size) for book, size in zip(codes, codec.codebook_sizes, strict=True)]
        entropies = [entropy_bits(count.tolist()) for count in counts]
        result["entropy_bitrate"] = codes.shape[1] / total * sum(entropies)
        result["code_usage"] = [float((count > 0).mean()) for count in counts]
        result["perplexity"] = [2**entropy for entropy in entropies]
        result["frames"] = codes.shape[1]
        if codec.own_model is not None:
            predicted = predicted_bits(codec.own_model, coded, codec.codebook_sizes)
            result["model_bitrate"] = float(predicted.sum()) / total
            result["model_perplexity"] = (2 ** (predicted / codes.shape[1])).tolist()
            result["model_digest"] = codec.own_model.model.digest
    return result


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
