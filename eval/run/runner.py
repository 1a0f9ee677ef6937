"""A run: originals prepared, reconstructions made, metrics measured, each step cached and spread over workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval import protocol
from eval.codecs.base import CodecSpec
from eval.metrics.base import AUTO, Column, MetricSpec
from eval.run.cache import Cache
from eval.run.steps import (
    Coding,
    Figures,
    Measuring,
    Original,
    measure,
    open_codec,
    open_metric,
    prepare_original,
    reconstruct,
)
from eval.run.store import ORIGINAL, audio_path, file_hash
from eval.run.tasks import Failed, run_tasks
from eval.testlists import Clip

Tell = Callable[[str], None]
Advance = Callable[[], None]
# progress(what, of how many) -> a context that gives what to call after each
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class Settings:
    """What is measured, on what, and where it goes. device: where models of ours and of transformers run."""

    clips: tuple[Clip, ...]
    codecs: tuple[CodecSpec, ...]
    metrics: tuple[MetricSpec, ...]
    out: Path
    workers: int = 1
    device: str = "cpu"
    seed: int = 0


@dataclass
class CodecRun:
    """One codec's results: per clip id, what coding it took and every metric's figures."""

    spec: CodecSpec
    identity: dict[str, Any]
    nominal_bitrate: float | None
    codebook_sizes: tuple[int, ...]
    coding: dict[str, Figures] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)


@dataclass
class Run:
    """Everything that a report is made of. failures, and notes of what was left out: one line each."""

    settings: Settings
    clips: dict[str, Clip] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    codecs: list[CodecRun] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evaluate(settings: Settings, *, tell: Tell, progress: Progress) -> Run:
    """Measures every codec on every clip.

    tell: takes each problem as one line, when it is met. Raises ValueError where no clip can be read or no codec made.
    """
    run = Run(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    # kept beside the report so that it can be committed without the recordings, wherever it lies
    (settings.out / ".gitignore").write_text("/audio/\n/cache.jsonl\n/.gitignore\n")
    cache = Cache(settings.out / "cache.jsonl")

    def failed(line: str) -> None:
        run.failures.append(line)
        tell(line)

    # the cheapest first, so that a missing tool is told before hours of work
    _open_codecs(run, failed)
    metrics = _open_metrics(run, tell, failed)
    _prepare(run, progress, failed)
    _reconstruct(run, cache, progress, failed)
    for spec, identity in metrics:
        _measure(run, spec, identity, cache, progress, failed)
    return run


def _open_codecs(run: Run, failed: Tell) -> None:
    for spec in run.settings.codecs:
        try:
            codec = open_codec(spec, run.settings.device)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            failed(f"{spec.label}: {_one_line(error)}")
            continue
        run.codecs.append(CodecRun(spec, codec.identity, codec.nominal_bitrate, codec.codebook_sizes))
    if not run.codecs:
        raise ValueError("none of the codecs can be used")


def _open_metrics(run: Run, tell: Tell, failed: Tell) -> list[tuple[MetricSpec, dict[str, Any]]]:
    opened = []
    for spec in run.settings.metrics:
        try:
            metric = open_metric(spec, run.settings.device)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            line = f"{spec.kind}: not measured: {_one_line(error)}"
            if spec.model == AUTO and isinstance(error, ImportError):
                # nobody asked for it by name: a report without it is whole
                run.notes.append(line)
                tell(line)
            else:
                failed(line)
            continue
        run.columns += metric.columns
        run.metrics.append(metric.identity)
        opened.append((spec, metric.identity))
    return opened


def _prepare(run: Run, progress: Progress, failed: Tell) -> None:
    out = run.settings.out
    items = [Original(clip, audio_path(out, ORIGINAL, clip.id)) for clip in run.settings.clips]
    with progress("originals", len(items)) as advance:
        results = {}
        for item, result in run_tasks(prepare_original, items, run.settings.workers):
            results[item.clip.id] = result
            advance()
    for clip in run.settings.clips:
        result = results[clip.id]
        if isinstance(result, Failed):
            failed(f"{clip.id}: {result.reason}")
            continue
        run.clips[clip.id] = clip
        run.hashes[clip.id], run.seconds[clip.id] = result
    if not run.clips:
        raise ValueError("none of the recordings can be read")


def _reconstruct(run: Run, cache: Cache, progress: Progress, failed: Tell) -> None:
    out, device = run.settings.out, run.settings.device
    for codec in run.codecs:
        label, todo = codec.spec.label, {}
        for clip_id in run.clips:
            path = audio_path(out, label, clip_id)
            question = ["coding", protocol.VERSION, codec.identity, run.hashes[clip_id]]
            known = cache.get(question)
            # the file may be another codec's, coded under the same name since
            if known is not None and known["sha256"] == file_hash(path):
                codec.coding[clip_id] = known
                continue
            todo[Coding(codec.spec, device, audio_path(out, ORIGINAL, clip_id), path)] = (clip_id, question)
        failures = {}
        with progress(label, len(todo)) as advance:
            for item, result in run_tasks(reconstruct, list(todo), run.settings.workers):
                clip_id, question = todo[item]
                if isinstance(result, Failed):
                    failures[clip_id] = result.reason
                else:
                    codec.coding[clip_id] = result
                    cache.put(question, result)
                advance()
        for clip_id in run.clips:
            if clip_id in failures:
                failed(f"{label}: {clip_id}: {failures[clip_id]}")
            elif abs(error := codec.coding[clip_id]["length_error"]) > protocol.MAX_LENGTH_ERROR:
                failed(f"{label}: {clip_id}: the codec changed the length by {error:+.3f} s")


def _measure(
    run: Run, spec: MetricSpec, identity: dict[str, Any], cache: Cache, progress: Progress, failed: Tell
) -> None:
    out, device = run.settings.out, run.settings.device
    todo = {}
    # clip by clip, so that what a metric knows of an original serves all codecs
    for clip_id, clip in run.clips.items():
        for codec in run.codecs:
            if clip_id not in codec.coding:
                continue
            pair = [run.hashes[clip_id], codec.coding[clip_id]["sha256"]]
            question = ["metric", protocol.VERSION, identity, pair, clip.text, clip.language, clip.machine_text]
            known = cache.get(question)
            if known is not None:
                codec.figures.setdefault(clip_id, {}).update(known)
                continue
            paths = audio_path(out, ORIGINAL, clip_id), audio_path(out, codec.spec.label, clip_id)
            todo[Measuring(spec, device, clip, *paths)] = (codec, clip_id, question)
    failures = []
    with progress(spec.kind, len(todo)) as advance:
        for item, result in run_tasks(measure, list(todo), run.settings.workers):
            codec, clip_id, question = todo[item]
            if isinstance(result, Failed):
                failures.append(f"{codec.spec.label}: {clip_id}: {spec.kind}: {result.reason}")
            else:
                codec.figures.setdefault(clip_id, {}).update(result)
                cache.put(question, result)
            advance()
    for line in sorted(failures):
        failed(line)


def missing_to_nan(values: Sequence[float | None]) -> list[float]:
    """What JSON keeps as null, as NaN."""
    return [float("nan") if value is None else value for value in values]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
