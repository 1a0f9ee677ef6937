"""A run: originals prepared, reconstructions made, metrics measured, each step cached and spread over workers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval import protocol
from eval.codecs.base import Codec, CodecSpec, ModelledCodec, OwnModel
from eval.metrics.base import Column, MetricSpec
from eval.metrics.registry import CODES_KINDS, FRAME_KINDS, TOKEN_KINDS
from eval.run.cache import Cache
from eval.run.feedback import Notify, Progress
from eval.run.frames import encode_clips
from eval.run.steps import (
    Coding,
    Figures,
    Measuring,
    Original,
    Perturbing,
    has_frames,
    has_tokens,
    measure,
    measure_tokens,
    null_for_nan,
    open_codec,
    open_metric,
    prepare_original,
    reconstruct,
)
from eval.run.store import ORIGINAL, audio_path, file_hash
from eval.run.tasks import Failed, one_thread, run_tasks
from eval.testlists import LabelledClip, usable
from mimotok.io.clips.clip import Clip
from mimotok.io.files import file_stamp, make_folder
from mimotok.io.terminal.streams import error_line

# what a codec or a metric raises that cannot be used
UNUSABLE = (ValueError, OSError, ImportError, RuntimeError)


@dataclass(frozen=True)
class Settings:
    """What is measured, on what, and where it goes.

    Attributes:
        clips: the test list.
        codecs: what is measured.
        metrics: what is computed.
        out: folder of the report.
        workers: processes.
        device: where models of ours and of transformers run.
        seed: of the bootstrap.
        labelled: the clips with phone labels, for the metrics that need them.
        isolated: whether metrics run in a process of their own even with one worker, so that one that dies costs a
            figure and not the run.
    """

    clips: tuple[Clip, ...]
    codecs: tuple[CodecSpec, ...]
    metrics: tuple[MetricSpec, ...]
    out: Path
    workers: int = 1
    device: str = "cpu"
    seed: int = 0
    labelled: tuple[LabelledClip, ...] = ()
    isolated: bool = False


@dataclass
class CodecRun:
    """One codec's results: per clip id, what coding it took and every metric's figures; the same of labelled clips."""

    spec: CodecSpec
    identity: dict[str, Any]
    nominal_bitrate: float | None
    codebook_sizes: tuple[int, ...]
    has_frames: bool = False
    has_tokens: bool = False
    own_model: OwnModel | None = None
    coding: dict[str, Figures] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)
    labelled: dict[str, Figures] = field(default_factory=dict)


@dataclass
class Run:
    """Everything that a report consists of. failures, and notes of what was left out, are one line each."""

    settings: Settings
    clips: dict[str, Clip] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    codecs: list[CodecRun] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evaluate(settings: Settings, *, notify: Notify, progress: Progress) -> Run:
    """Measure every codec on every clip.

    Args:
        settings: what, on what, and where to.
        notify: receives each problem as one line, when it is met.
        progress: shows progress.

    Returns:
        All figures.

    Raises:
        ValueError: no clip can be read, or no codec can be used.
    """
    # what an earlier run in this process opened may lie in other files now
    open_codec.cache_clear()
    open_metric.cache_clear()
    return _Evaluation(settings, notify, progress).result()


class _Evaluation:
    def __init__(self, settings: Settings, notify: Notify, progress: Progress) -> None:
        found = usable(settings.clips)
        settings = replace(settings, clips=tuple(found.clips))
        self.run = Run(settings)
        self.notify = notify
        self.progress = progress
        for line in found.problems:
            self._failed(line)
        make_folder(settings.out)
        # beside the report, so that it can be committed without the recordings wherever it lies
        (settings.out / ".gitignore").write_text("/audio/\n/cache.jsonl\n/.gitignore\n")
        self.cache = Cache(settings.out / "cache.jsonl")

    def result(self) -> Run:
        """Do everything, in order."""
        # the cheapest first, so that a missing tool is reported before hours of work
        self._open_codecs()
        metrics = self._open_metrics()
        if any(spec.kind not in FRAME_KINDS for spec in metrics):
            self._prepare()
            for codec in self.run.codecs:
                self._reconstruct(codec)
        by_codec = dict.fromkeys(FRAME_KINDS, self._measure_frames)
        by_codec |= dict.fromkeys(TOKEN_KINDS, self._measure_tokens)
        by_codec |= dict.fromkeys(CODES_KINDS, self._measure_codes)
        for spec, identity in metrics.items():
            if spec.kind not in by_codec:
                self._measure(spec, identity)
                continue
            for codec in self.run.codecs:
                by_codec[spec.kind](codec, spec, identity)
        return self.run

    def _failed(self, line: str) -> None:
        self.run.failures.append(line)
        self.notify(line)

    def _note(self, line: str) -> None:
        self.run.notes.append(line)
        self.notify(line)

    @contextmanager
    def _tasks(
        self, what: str, function: Any, items: list[Any], *, isolated: bool = False
    ) -> Iterator[Iterator[tuple[Any, Any]]]:
        """Yield what `run_tasks` yields, and advance a progress bar after each."""
        with self.progress(what, len(items)) as advance:

            def results() -> Iterator[tuple[Any, Any]]:
                for item, result in run_tasks(function, items, self.run.settings.workers, isolated=isolated):
                    yield item, result
                    advance()

            yield results()

    def _open_codecs(self) -> None:
        for spec in self.run.settings.codecs:
            try:
                codec: Codec = open_codec(spec, self.run.settings.device)
            except UNUSABLE as error:
                self._failed(f"{spec.label}: {error_line(error)}")
                continue
            self.run.codecs.append(
                CodecRun(
                    spec,
                    codec.identity,
                    codec.nominal_bitrate,
                    codec.codebook_sizes,
                    has_frames=has_frames(codec),
                    has_tokens=has_tokens(codec),
                    own_model=self._own_model(spec, codec),
                )
            )
        if not self.run.codecs:
            raise ValueError("none of the codecs can be used")

    def _own_model(self, spec: CodecSpec, codec: Codec) -> OwnModel | None:
        try:
            return codec.own_model() if isinstance(codec, ModelledCodec) else None
        except ValueError as error:
            self._note(f"{spec.label}: codes not predicted: {error_line(error)}")
            return None

    def _open_metrics(self) -> dict[MetricSpec, dict[str, Any]]:
        """Open the metrics that can be used. Returns the identity of each."""
        opened = {}
        for spec in self.run.settings.metrics:
            try:
                metric = open_metric(spec, self.run.settings.device)
            except UNUSABLE as error:
                line = f"{spec.kind}: not measured: {error_line(error)}"
                if spec.optional and isinstance(error, ImportError):
                    # nobody named it: a report without it is complete
                    self._note(line)
                else:
                    self._failed(line)
                continue
            self.run.columns += metric.columns
            self.run.metrics.append(metric.identity)
            opened[spec] = metric.identity
        return opened

    def _prepare(self) -> None:
        out = self.run.settings.out
        items = [Original(clip, audio_path(out, ORIGINAL, clip.id)) for clip in self.run.settings.clips]
        with self._tasks("originals", prepare_original, items) as tasks:
            results = {item.clip.id: result for item, result in tasks}
        for clip in self.run.settings.clips:
            result = results[clip.id]
            if isinstance(result, Failed):
                self._failed(f"{clip.id}: {result.reason}")
                continue
            self.run.clips[clip.id] = clip
            self.run.hashes[clip.id], self.run.seconds[clip.id] = result
        if not self.run.clips:
            raise ValueError("none of the recordings can be read")

    def _reconstruct(self, codec: CodecRun) -> None:
        out = self.run.settings.out
        label = codec.spec.label
        questions = {}
        for clip_id in self.run.clips:
            path = audio_path(out, label, clip_id)
            question = ["coding", protocol.VERSION, codec.identity, self.run.hashes[clip_id]]
            known = self.cache.get(question)
            # the file may be that of another codec, which had the same name then
            if known is not None and known["sha256"] == file_hash(path):
                codec.coding[clip_id] = known
                continue
            item = Coding(codec.spec, self.run.settings.device, audio_path(out, ORIGINAL, clip_id), path)
            questions[item] = (clip_id, question)
        failures = {}
        with self._tasks(label, reconstruct, list(questions)) as tasks:
            for item, result in tasks:
                clip_id, question = questions[item]
                if isinstance(result, Failed):
                    failures[clip_id] = result.reason
                else:
                    codec.coding[clip_id] = result
                    self.cache.put(question, result)
        for clip_id in self.run.clips:
            if clip_id in failures:
                self._failed(f"{label}: {clip_id}: {failures[clip_id]}")
                continue
            error = codec.coding[clip_id]["length_error"]
            if abs(error) > protocol.MAX_LENGTH_ERROR:
                self._failed(f"{label}: {clip_id}: the codec changed the length by {error:+.3f} s")

    def _measure(self, spec: MetricSpec, identity: dict[str, Any]) -> None:
        out = self.run.settings.out
        questions = {}
        # clip by clip, so that what a metric computes of an original serves all codecs
        for clip_id, clip in self.run.clips.items():
            for codec in self.run.codecs:
                if clip_id not in codec.coding:
                    continue
                pair = [self.run.hashes[clip_id], codec.coding[clip_id]["sha256"]]
                question = ["metric", protocol.VERSION, identity, pair, clip.text, clip.language, clip.machine_text]
                known = self.cache.get(question)
                if known is not None:
                    codec.figures.setdefault(clip_id, {}).update(known)
                    continue
                paths = audio_path(out, ORIGINAL, clip_id), audio_path(out, codec.spec.label, clip_id)
                # without its cut, which may hold the sound: the metrics read files
                item = Measuring(spec, self.run.settings.device, replace(clip, cut=None), *paths)
                questions[item] = (codec, clip_id, question)
        self._answer(spec.kind, measure, questions, isolated=self.run.settings.isolated)

    def _measure_tokens(self, codec: CodecRun, spec: MetricSpec, identity: dict[str, Any]) -> None:
        if not codec.has_tokens:
            return
        questions = {}
        for clip_id in codec.coding:
            question = ["tokens", protocol.VERSION, identity, codec.identity, self.run.hashes[clip_id]]
            known = self.cache.get(question)
            if known is not None:
                codec.figures.setdefault(clip_id, {}).update(known)
                continue
            path = audio_path(self.run.settings.out, ORIGINAL, clip_id)
            item = Perturbing(spec, codec.spec, self.run.settings.device, self.run.clips[clip_id], path)
            questions[item] = (codec, clip_id, question)
        self._answer(spec.kind, measure_tokens, questions)

    def _measure_codes(self, codec: CodecRun, spec: MetricSpec, identity: dict[str, Any]) -> None:
        # in the order of the list: the metric divides the clips by it, and codings arrive in any
        codings = {clip: codec.coding[clip] for clip in self.run.clips if clip in codec.coding}
        coded = {clip: coding["codes"] for clip, coding in codings.items() if coding["codes"] is not None}
        if not (codec.has_tokens and coded):
            return
        seconds = [self.run.seconds[clip_id] for clip_id in coded]
        question = ["codes", protocol.VERSION, identity, codec.codebook_sizes, _codes_hash(coded, seconds)]
        known = self.cache.get(question)
        if known is None:
            metric: Any = open_metric(spec, self.run.settings.device)
            codes = [np.asarray(of_clip, np.int64) for of_clip in coded.values()]
            with self.progress(f"{codec.spec.label}: {spec.kind}", 1) as advance, one_thread():
                figures = metric.measure_codes(codes, seconds, codec.codebook_sizes)
                advance()
            known = {clip_id: null_for_nan(row) for clip_id, row in zip(coded, figures, strict=True)}
            self.cache.put(question, known)
        for clip_id, row in known.items():
            codec.figures.setdefault(clip_id, {}).update(row)

    def _answer(
        self,
        what: str,
        function: Callable[[Any], Any],
        questions: dict[Any, tuple[CodecRun, str, Any]],
        *,
        isolated: bool = False,
    ) -> None:
        """Compute figures of clips and cache them; questions: for each item its codec, clip and cached question."""
        failures = []
        with self._tasks(what, function, list(questions), isolated=isolated) as tasks:
            for item, result in tasks:
                codec, clip_id, question = questions[item]
                if isinstance(result, Failed):
                    failures.append(f"{codec.spec.label}: {clip_id}: {what}: {result.reason}")
                else:
                    codec.figures.setdefault(clip_id, {}).update(result)
                    self.cache.put(question, result)
        for line in sorted(failures):
            self._failed(line)

    def _measure_frames(self, codec: CodecRun, spec: MetricSpec, identity: dict[str, Any]) -> None:
        if not codec.has_frames:
            return
        clips = self.run.settings.labelled
        question = ["frames", protocol.VERSION, identity, codec.identity, _labels_hash(clips)]
        known = self.cache.get(question)
        if known is None:
            settings = self.run.settings
            frames = encode_clips(
                codec.spec,
                [clip.clip for clip in clips],
                workers=settings.workers,
                device=settings.device,
                notify=self._failed,
                progress=self.progress,
            )
            metric: Any = open_metric(spec, self.run.settings.device)
            kept = [clip for clip in clips if clip.clip.id in frames]
            try:
                with one_thread():
                    figures = metric.measure_frames(kept, [frames[clip.clip.id] for clip in kept])
            except UNUSABLE as error:
                self._failed(f"{codec.spec.label}: {spec.kind}: {error_line(error)}")
                return
            known = {clip.clip.id: null_for_nan(row) for clip, row in zip(kept, figures, strict=True)}
            # with clips missing, the next run is to report them again
            if len(kept) == len(clips):
                self.cache.put(question, known)
        for clip_id, row in known.items():
            codec.labelled.setdefault(clip_id, {}).update(row)


def _codes_hash(codes: dict[str, Any], seconds: list[float]) -> str:
    """Hash the codes and lengths of clips, in their order, which decides who learns from whom."""
    return hashlib.sha256(json.dumps([list(codes.items()), seconds]).encode()).hexdigest()


def _place_in_file(clip: Clip) -> list[Any]:
    """Return where a cut lies, and the file that holds its sound: of one file, cuts are other sounds."""
    place: list[Any] = []
    if clip.cut is not None:
        place.append(clip.cut.to_dict())
    if clip.packed is not None:
        place += [astuple(clip.packed), file_stamp(clip.packed.path)]
    return place


def _labels_hash(clips: tuple[LabelledClip, ...]) -> str:
    """Hash the recordings, by their names, paths, sizes and dates, with their labels."""
    rows = [
        [
            clip.clip.id,
            clip.clip.speaker,
            os.path.abspath(clip.clip.audio),
            file_stamp(clip.clip.audio),
            clip.phones,
            *_place_in_file(clip.clip),
        ]
        for clip in clips
    ]
    return hashlib.sha256(json.dumps(rows, default=repr).encode()).hexdigest()
