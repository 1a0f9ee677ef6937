"""What makes two runs one experiment: the settings that a checkpoint holds, and the check before a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mimotok.identity import digest_of
from train.stages.base import Stage
from train.stages.plain import read_plain, require_plain

KEY = "settings"
# Where things lie and how fast they go may change from one start to the next. The seed is compared once.
PLACES = {"data.manifest", "data.val_manifest", "data.root", "data.alignments", "data.cache_dir", "data.num_workers"}
FREE = {"max_steps", "compile", "seed", "allow_outside"}
MOST_TOLD = 3  # differences in a message
_READ = 1 << 20  # bytes read at a time


class RunSettings(NamedTuple):
    """The settings of a run: plain values by dotted name, and a digest of all of them."""

    values: dict[str, Any]
    digest: str


def run_settings(config: Mapping[str, Any], stage: Stage) -> RunSettings:
    """Return the settings of data, model, losses and optimizer.

    The model counts by its sizes, a manifest and labels by their content: the same files elsewhere are the same run.
    The length of the run is free, so that it can be prolonged.

    Args:
        config: the parsed config of a subcommand, as nested dicts.
        stage: the stage that was made of it.
    """
    chosen = {name: config.get(name) for name in ("seed_everything", "model", "data")}
    # as JSON, for a checkpoint that is loaded by weights_only
    values = _flat(json.loads(json.dumps(chosen, default=str)))
    values = {
        name: value
        for name, value in values.items()
        if name not in PLACES and name.rpartition(".")[2] not in FREE and value is not None
    }
    model = values.get("model.init_args.model")
    if isinstance(model, str) and Path(model).suffix == ".json":
        del values["model.init_args.model"]
    sizes = json.loads(json.dumps(stage.tokenizer.config.to_official()))
    values = {name: value for name, value in values.items() if not name.startswith("model.init_args.model.")}
    values |= {f"model.sizes.{name}": value for name, value in sizes.items() if value is not None}
    data = config.get("data") or {}
    for name in ("manifest", "val_manifest", "alignments"):
        if data.get(name):
            values[f"data.{name}.sha256"] = content_digest(data[name])
    return RunSettings(values, digest_of(values))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        flat |= inner
    return flat


def content_digest(paths: str | list[str]) -> str:
    """Return a digest of the content of files, in order; of a folder (Shar) the names and sizes of its files count.

    Files that are not there count as empty: who reads them tells.
    """
    digest = hashlib.sha256()
    for path in [paths] if isinstance(paths, str) else paths:
        if Path(path).is_dir():
            files = sorted(file for file in Path(path).rglob("*") if file.is_file())
            digest.update(repr([(str(file.relative_to(path)), file.stat().st_size) for file in files]).encode())
        elif Path(path).is_file():
            with Path(path).open("rb") as opened:
                while part := opened.read(_READ):
                    digest.update(part)
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def check_resumable(path: str | Path, settings: RunSettings, *, max_steps: int, anyway: bool) -> None:
    """Check that a run may go on from a checkpoint.

    Args:
        path: the checkpoint.
        settings: of the run that is to go on.
        max_steps: of the run, -1 for one without end.
        anyway: other settings are wanted.

    Raises:
        ValueError: where the checkpoint cannot be read, is of other settings, or has all the steps.
    """
    require_plain(path)
    checkpoint = read_plain(path, "meta")
    steps = checkpoint.get("global_step", 0)
    if not anyway:
        _check_same(path, checkpoint.get(KEY), settings)
    if isinstance(steps, int) and 0 <= max_steps <= steps:
        raise ValueError(
            f"{path}: the run is finished, {steps} of trainer.max_steps={max_steps} steps are done: give more steps to "
            "go on, another --name or trainer.default_root_dir, or --fresh for a new run"
        )


def _check_same(path: str | Path, stored: Any, settings: RunSettings) -> None:
    remedy = (
        "add --resume to go on from it all the same, give another --name or trainer.default_root_dir, or --fresh for a "
        "new run"
    )
    values = stored.get("values") if isinstance(stored, dict) else None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds no settings to compare with, as those of earlier versions: {remedy}")
    if stored.get("digest") == settings.digest:
        return
    names = sorted(set(values) | set(settings.values))
    differences = [
        f"{name} was {_short(values.get(name))}, is {_short(settings.values.get(name))}"
        for name in names
        if values.get(name) != settings.values.get(name)
    ]
    if not differences:
        return
    more = f" and {len(differences) - MOST_TOLD} more" if len(differences) > MOST_TOLD else ""
    raise ValueError(f"{path}: of a run with other settings: {'; '.join(differences[:MOST_TOLD])}{more}: {remedy}")


def _short(value: Any) -> str:
    return "not set" if value is None else f"{json.dumps(value, default=str):.60}"
