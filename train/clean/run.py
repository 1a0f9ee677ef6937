"""`python -m train clean`: hear each recording once, leave segments out by limits, write manifest and report."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from mimotok.corpus.cuts import files_in
from mimotok.io.clips.clip import Clip
from mimotok.io.files import atomic_path, file_stamp, make_folder, writing
from mimotok.io.terminal.progress import with_progress
from mimotok.io.terminal.streams import excerpt
from mimotok.io.terminal.workers import map_in_processes
from train.clean.duplicates import find_duplicates
from train.clean.hear import hear
from train.clean.report import Histogram, write_page
from train.clean.settings import Hearing, Limits
from train.clean.speakers import has_encoder
from train.data.manifest import check_root, read_manifest

HEARD = "heard.jsonl"
MANIFEST = "manifest.jsonl"
REJECTED = "rejected.jsonl"
REPORT = "report.html"
VERSION = 1  # raise it when estimates change: recordings are then heard anew
AUTO = "auto"


def clean(
    manifest: str | list[str],
    root: str,
    out: str | Path,
    *,
    hearing: Hearing | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    allow_outside: bool = False,
) -> str:
    """Find the speech in recordings that is fit to train on.

    `out` then holds `manifest.jsonl`, a Lhotse CutSet of the segments that are kept, `rejected.jsonl`, the others with
    the reason, `report.html`, and `heard.jsonl`, a line for each recording. The recordings are only read. Stopped, the
    same call goes on after the recordings that `heard.jsonl` has, and ends with the same files. With other limits it
    applies these at once; a recording that has changed is heard again.

    Args:
        manifest: what training reads, but no Shar: a CutSet cannot name a place in a tar.
        root: folder of a manifest's relative paths, from which those of the result begin, too.
        out: folder to write.
        hearing: how recordings are cut and measured.
        limits: what is left out.
        workers: processes.
        allow_outside: audio may lie elsewhere than below `root` or the manifest's folder.

    Returns:
        A line that counts.

    Raises:
        ValueError: nothing can be read, a manifest is a Shar folder, two recordings have one name, or `out` was heard
            by other settings.
        ImportError: a package is missing.
    """
    hearing = _resolved(hearing or Hearing())
    limits = limits or Limits()
    clips = read_manifest(manifest, root, allow_outside=allow_outside)
    _refuse_tars(clips)
    _refuse_mixed(clips)
    check_root(clips, root)
    keys = [f"{clip.source}/{clip.id}" for clip in clips]
    for key, count in Counter(keys).items():
        if count > 1:
            raise ValueError(f"two recordings are called {key}; give them different ids")
    out = Path(out)
    make_folder(out)
    rows = _hear_all(clips, keys, out / HEARD, hearing, workers)
    # what is written is one corpus, in which an id is one recording's
    counts = Counter(clip.id for clip in clips)
    names = [clip.id if counts[clip.id] == 1 else key for clip, key in zip(clips, keys, strict=True)]
    segments = [
        segment
        for clip, name, row in zip(clips, names, rows, strict=True)
        for segment in _segments(clip, name, row, root)
    ]
    _judge(segments, limits)
    _write_lines(out / MANIFEST, [_cut(segment) for segment in segments if segment["reason"] is None])
    left_out = [segment for segment in segments if segment["reason"] is not None]
    _write_lines(out / REJECTED, [_cut(segment) | {"reason": segment["reason"]} for segment in left_out])
    skipped = {name: row["skipped"] for name, row in zip(names, rows, strict=True) if "skipped" in row}
    heard = sum(row.get("seconds", 0.0) for row in rows)
    kept = sum(segment["seconds"] for segment in segments if segment["reason"] is None)
    facts = [
        ("recordings", f"{len(clips)}, {heard / 3600:.2f} h"),
        ("kept", f"{len(segments) - len(left_out)} segments, {kept / 3600:.2f} h"),
        ("settings", json.dumps(asdict(hearing) | asdict(limits))),
    ]
    _write(out / REPORT, write_page(segments, _histograms(limits), facts, skipped))
    reasons = Counter(segment["reason"] for segment in left_out)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return (
        f"{len(clips)} recordings, {heard / 60:.1f} min: {len(segments) - len(left_out)} segments kept, "
        f"{kept / 60:.1f} min; {len(left_out)} left out ({why or 'none'}); {len(skipped)} recordings not heard; "
        f"train with --data.manifest {out / MANIFEST} --data.root {root}"
    )


def _refuse_tars(clips: Sequence[Clip]) -> None:
    """Raise ValueError for sound in a Shar folder: the result is a CutSet of places in files, and a tar has none."""
    packed = next((clip.packed for clip in clips if clip.packed is not None), None)
    if packed is not None:
        folder = Path(packed.path).parent
        raise ValueError(
            f"{folder}: a Shar folder, and segments of it cannot be listed as places in sound files; call "
            f"`python -m train prepare --manifest {folder} --out cache`, and clean the cuts.jsonl.gz that it writes"
        )


def _refuse_mixed(clips: Sequence[Clip]) -> None:
    """Raise ValueError for a cut that is put together of several, for the same reason."""
    mixed = next((clip for clip in clips if hasattr(clip.cut, "tracks")), None)
    if mixed is not None:
        raise ValueError(
            f"{excerpt(mixed.id)}: a cut that is mixed, padded or appended, and segments of it cannot be listed as "
            "places in sound files; give the cuts that it is made of, or save its sound first"
        )


def _resolved(hearing: Hearing) -> Hearing:
    if hearing.speakers != AUTO:
        return hearing
    found = "resemblyzer" if has_encoder() else "none"
    return replace(hearing, speakers=found)


def _hear_all(
    clips: Sequence[Clip], keys: Sequence[str], path: Path, hearing: Hearing, workers: int
) -> list[dict[str, Any]]:
    """Hear the recordings that the file has not, or that have changed since. Returns a row for each recording."""
    known = _resume(path, hearing)
    stamps = [_stamp(clip) for clip in clips]
    todo = [number for number, key in enumerate(keys) if key not in known or known[key]["stamp"] != stamps[number]]
    with writing(path), path.open("a", encoding="utf-8") as file:
        heard = _heard([clips[number] for number in todo], hearing, workers)
        for number, row in zip(todo, with_progress(heard, "Hearing recordings", len(todo)), strict=True):
            row = {"key": keys[number], "stamp": stamps[number], **row}
            known[keys[number]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
    return [known[key] for key in keys]


def _heard(clips: Sequence[Clip], hearing: Hearing, workers: int) -> Iterator[dict[str, Any]]:
    if workers <= 1 or len(clips) <= 1:
        yield from map(hear, clips, repeat(hearing))
        return
    yield from map_in_processes(min(workers, len(clips)), __name__, hear, clips, repeat(hearing))


def _stamp(clip: Clip) -> Any:
    if clip.cut is None:
        return file_stamp(clip.audio)
    cut = clip.cut.to_dict()
    return [cut["start"], cut["duration"], *(file_stamp(path) for path in files_in(cut))]


def _resume(path: Path, hearing: Hearing) -> dict[str, dict[str, Any]]:
    """Return the rows of a file by key, without an unfinished last line, which is cut off; begin it where it is not."""
    head = {"version": VERSION, "hearing": asdict(hearing)}
    data = path.read_bytes() if path.is_file() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if not whole:
        _write(path, json.dumps(head) + "\n")
        return {}
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    try:
        first, *rows = [json.loads(line) for line in whole.splitlines()]
        known = {row["key"]: row for row in rows if "stamp" in row}
        before = first["hearing"] | {"version": first["version"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of this command ({error}); name another folder or remove it") from error
    now = head["hearing"] | {"version": VERSION}  # type: ignore[operator]
    other = [
        f"{name} was {excerpt(before.get(name))}, is {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if other:
        raise ValueError(f"{path}: heard by other settings: {'; '.join(other)}; name another --out, or remove the file")
    return known


def _segments(clip: Clip, name: str, row: dict[str, Any], root: str) -> Iterator[dict[str, Any]]:
    """Yield a recording's segments with all that is known of them."""
    found = row.get("segments", [])
    numbers = {segment["speaker"] for segment in found if segment["speaker"] is not None}
    for segment in found:
        number = segment["speaker"]
        # too short to tell, where only one speaks
        if number is None and len(numbers) == 1:
            (number,) = numbers
        speaker = clip.speaker
        if speaker is None and number is not None:
            speaker = f"{name}/{number}"
        start = segment["first"] / row["rate"]
        seconds = segment["count"] / row["rate"]
        yield {
            **segment,
            "clip": clip,
            "recording_id": name,
            "root": root,
            "row": row,
            "id": f"{name}#{round(1000 * start)}-{round(1000 * (start + seconds))}",
            "start": start,
            "seconds": seconds,
            "speaker": speaker,
            "text": clip.text if row["whole"] else None,
            "reason": None,
        }


def _judge(segments: list[dict[str, Any]], limits: Limits) -> None:
    """Set the reason of each segment that is left out."""
    for segment in segments:
        segment["reason"] = _reason(segment, limits)
    kept = [segment for segment in segments if segment["reason"] is None]
    if not kept:
        return
    prints = np.stack([np.frombuffer(base64.b64decode(segment["print"]), np.int8) for segment in kept])
    found = find_duplicates(prints, [segment["seconds"] for segment in kept], limits.duplicate)
    for number, first in found.items():
        kept[number]["reason"] = "duplicate"
        kept[number]["duplicate_of"] = kept[first]["id"]


def _reason(segment: dict[str, Any], limits: Limits) -> str | None:
    if segment["snr"] < limits.min_snr:
        return "noisy"
    if segment["clipping"] > limits.max_clipping:
        return "clipped"
    if segment["bandwidth"] < limits.min_bandwidth:
        return "narrow-band"
    if segment["consistency"] is not None and segment["consistency"] < limits.min_consistency:
        return "several speakers"
    return None


def _cut(segment: dict[str, Any]) -> dict[str, Any]:
    """Return a segment as a line of a CutSet, with paths relative to the root where they lie below it."""
    clip = segment["clip"]
    custom = {"source": clip.source, "split": clip.split}
    for name in ("snr", "clipping", "bandwidth", "consistency", "duplicate_of"):
        if name in segment:
            custom[name] = segment[name]
    said = {
        "id": segment["id"],
        "recording_id": segment["recording_id"],
        "start": 0.0,
        "duration": segment["seconds"],
        "text": segment["text"],
        "language": clip.language,
        "speaker": segment["speaker"],
    }
    said = {name: value for name, value in said.items() if value is not None}
    if clip.cut is not None:
        part = clip.cut.truncate(offset=segment["start"], duration=segment["seconds"]).to_dict()
        channel = part.get("channel", 0)
        row = part | {"id": segment["id"], "supervisions": [said | {"channel": channel}], "custom": custom}
        return _relative(row, segment["root"])
    about = segment["row"]
    channels = list(range(about["channels"]))
    # a cut of one channel would be that channel, and not the mean that is heard
    mono = len(channels) == 1
    channel = 0 if mono else channels
    row = {
        "id": segment["id"],
        "start": segment["start"],
        "duration": segment["seconds"],
        "channel": channel,
        "supervisions": [said | {"channel": channel}],
        "recording": {
            "id": segment["recording_id"],
            "sources": [{"type": "file", "channels": channels, "source": clip.audio}],
            "sampling_rate": about["rate"],
            "num_samples": about["frames"],
            "duration": about["frames"] / about["rate"],
            "channel_ids": channels,
        },
        "custom": custom,
        "type": "MonoCut" if mono else "MultiCut",
    }
    return _relative(row, segment["root"])


def _relative(value: Any, root: str) -> Any:
    """Return a cut's JSON with the paths of its files relative to the root, as far as they lie below it."""
    if isinstance(value, list):
        return [_relative(item, root) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _relative(item, root) for name, item in value.items()}
    path = inner.get("source")
    if inner.get("type") == "file" and isinstance(path, str) and Path(path).is_relative_to(os.path.abspath(root)):
        inner["source"] = os.path.relpath(path, os.path.abspath(root))
    return inner


def _histograms(limits: Limits) -> list[Histogram]:
    return [
        Histogram("Length in seconds", "seconds", None),
        Histogram("Signal-to-noise ratio in dB", "snr", limits.min_snr),
        Histogram("Share of clipped samples", "clipping", limits.max_clipping),
        Histogram("Bandwidth in Hz", "bandwidth", limits.min_bandwidth),
        Histogram("Consistency of the voice", "consistency", limits.min_consistency),
    ]


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
