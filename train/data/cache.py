"""Decode a corpus once, into 16-bit WAV shards with a Lhotse CutSet.

Training then reads samples by offset instead of decoding a compressed file per clip and epoch. Clips keep their own
rate up to `sample_rate` and are resampled when read, as in inference: quantizing after the resampling would put a noise
floor into the band above a narrow-band clip, and no input of inference has one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import wave
from collections.abc import Iterable
from dataclasses import astuple
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from mimotok.corpus.cuts import files_in
from mimotok.io.audio import resample
from mimotok.io.clips.clip import Clip, Pcm
from mimotok.io.files import atomic_path, file_stamp
from mimotok.io.manifest import read_rows
from mimotok.io.terminal.progress import with_progress
from mimotok.io.terminal.streams import one_line
from mimotok.io.terminal.workers import map_in_processes
from train.data.manifest import BadClipError, check_root, decode, read_manifest

log = logging.getLogger(__name__)

SHARD_SECONDS = 1800.0  # one unit of work: small enough to spread over processes and to lose to a kill
INDEX = "cuts.jsonl.gz"
SKIPPED = "skipped.json"


def prepare(
    manifest: str | list[str],
    root: str,
    out: str,
    *,
    sample_rate: int = 24000,
    workers: int = 1,
    allow_outside: bool = False,
) -> Path:
    """Decode every clip of a manifest into a folder under `out`.

    The folder is named by a hash of the clips and their paths, so that one `out` serves many manifests. It holds
    `cuts.jsonl.gz`, a Lhotse CutSet, its WAV shards, and `skipped.json`, the clips left out and why. A second call
    returns at once; a killed one continues with the shards that are missing. Shards of which a file has changed since,
    by its size or time, has gone or has come are decoded again; what lies behind addresses is known by these alone.

    Args:
        manifest: folder(s) of audio or of a corpus, JSONL or Lhotse CutSet file(s), Lhotse Shar folder(s).
        root: folder of relative audio paths.
        out: folder of caches.
        sample_rate: Hz; clips of a higher rate are resampled to it.
        workers: processes.
        allow_outside: audio may lie elsewhere than below `root` or the manifest's folder.

    Returns:
        The folder.

    Raises:
        ValueError: where no clip at all can be read.
    """
    clips = read_manifest(manifest, root, allow_outside=allow_outside)
    check_root(clips, root)
    folder = Path(out) / _fingerprint(clips, sample_rate)
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(clips)
    stamps = [_stamp(shard) for shard in shards]
    todo = [number for number, stamp in enumerate(stamps) if not _is_done(folder, number, stamp)]
    if not todo and (folder / INDEX).exists():
        return folder
    # an index of shards that are being replaced must not outlive an interruption
    (folder / INDEX).unlink(missing_ok=True)
    jobs = (
        [shards[number] for number in todo],
        repeat(folder),
        todo,
        [stamps[number] for number in todo],
        repeat(sample_rate),
    )
    if workers > 1 and len(todo) > 1:
        _watch(map_in_processes(min(workers, len(todo)), __name__, _write_shard, *jobs), len(todo))
    else:
        _watch(map(_write_shard, *jobs), len(todo))
    skipped = _write_index(folder, len(shards))
    if skipped:
        log.warning("%s", skipped_table(skipped))
    return folder


def _watch(jobs: Iterable[None], total: int) -> None:
    for _ in with_progress(jobs, "Decoding the corpus", total):
        pass


def read_prepared(folder: str | Path) -> tuple[list[Clip], dict[str, str]]:
    """Read the clips of a folder that `prepare` wrote, and the reason for each skipped clip, by id."""
    folder = Path(folder)
    clips = [_from_cut(row, folder) for _, row in read_rows(str(folder / INDEX))]
    return clips, json.loads((folder / SKIPPED).read_text(encoding="utf-8"))


def _fingerprint(clips: list[Clip], sample_rate: int) -> str:
    digest = hashlib.sha256(f"2 {sample_rate}".encode())
    for clip in clips:
        fields = (clip.id, clip.duration, clip.source, clip.text, clip.split, clip.speaker, clip.language)
        where: Any = None if clip.cut is None else clip.cut.to_dict()
        if clip.packed is not None:
            where = (astuple(clip.packed), where)
        # repr: sound in memory is bytes
        digest.update(json.dumps((*fields, os.path.abspath(clip.audio), where), default=repr).encode())
    return digest.hexdigest()[:12]


def _stamp(clips: list[Clip]) -> str:
    """Hash the sizes and times of all files that the clips are read from."""
    files = [file_stamp(path) for clip in clips for path in _files(clip)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8]


def _files(clip: Clip) -> list[str]:
    if clip.packed is not None:
        return [clip.packed.path]
    return [clip.audio] if clip.cut is None else list(files_in(clip.cut.to_dict()))


def _shards(clips: list[Clip]) -> list[list[Clip]]:
    shards: list[list[Clip]] = [[]]
    seconds = 0.0
    for clip in clips:
        if shards[-1] and seconds + clip.duration > SHARD_SECONDS:
            shards.append([])
            seconds = 0.0
        shards[-1].append(clip)
        seconds += clip.duration
    return shards


def _names(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"shard-{number:05d}.jsonl", folder / f"shard-{number:05d}.skipped.json"


def _stamp_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.stamp"


def _is_done(folder: Path, number: int, stamp: str) -> bool:
    written = _stamp_file(folder, number)
    return all(path.exists() for path in (*_names(folder, number), written)) and written.read_text() == stamp


def _write_shard(clips: list[Clip], folder: Path, number: int, stamp: str, sample_rate: int) -> None:
    """Write one shard: a WAV file per rate, the clips skipped, the cuts, and at last the stamp of its sources.

    The stamp is in the WAV's name too: whoever still reads what was there before never hears something else.
    """
    stem = f"shard-{number:05d}-{stamp}"
    samples: dict[int, list[np.ndarray]] = {}
    filled: dict[int, int] = {}
    cuts = []
    skipped = {}
    for clip in clips:
        try:
            wav, rate = decode(clip)
        except BadClipError as error:
            skipped[clip.id] = str(error)
            continue
        if rate > sample_rate:
            wav = resample(wav, rate, sample_rate)
            rate = sample_rate
        pcm = np.round(np.clip(wav, -1, 32767 / 32768) * 32768).astype("<i2")
        path = folder / f"{stem}-{rate}.wav"
        cuts.append(_to_cut(clip, Pcm(str(path.resolve()), rate, filled.get(rate, 0), len(pcm))))
        samples.setdefault(rate, []).append(pcm)
        filled[rate] = filled.get(rate, 0) + len(pcm)
    for rate, parts in samples.items():
        _write_wav(folder / f"{stem}-{rate}.wav", np.concatenate(parts), rate)
        for cut in (c for c in cuts if c["recording"]["sampling_rate"] == rate):
            cut["recording"].update(num_samples=filled[rate], duration=filled[rate] / rate)
    index, skipped_file = _names(folder, number)
    _write(skipped_file, json.dumps(skipped, ensure_ascii=False).encode())
    _write(index, "".join(json.dumps(cut, ensure_ascii=False) + "\n" for cut in cuts).encode())
    _write(_stamp_file(folder, number), stamp.encode())
    for path in folder.glob(f"shard-{number:05d}-*.wav"):
        if not path.name.startswith(stem):
            path.unlink(missing_ok=True)


def _write_index(folder: Path, count: int) -> dict[str, str]:
    lines = []
    skipped = {}
    for number in range(count):
        index, skipped_file = _names(folder, number)
        lines.append(index.read_bytes())
        skipped.update(json.loads(skipped_file.read_text(encoding="utf-8")))
    if not any(lines):
        first = next(iter(skipped.items()), "none is in the manifest")
        raise ValueError(f"not one of {len(skipped)} clips can be read, e.g. {first}; is `root` right?")
    _write(folder / SKIPPED, json.dumps(skipped, ensure_ascii=False, indent=0).encode())
    _write(folder / INDEX, gzip.compress(b"".join(lines), mtime=0))
    return skipped


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _write_wav(path: Path, pcm: np.ndarray, rate: int) -> None:
    with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())


def _to_cut(clip: Clip, pcm: Pcm) -> dict[str, Any]:
    """Build a MonoCut in Lhotse's JSON, without Lhotse: machines that only train need not have it."""
    duration = pcm.frames / pcm.rate
    shard = Path(pcm.path).stem
    source = {"type": "file", "channels": [0], "source": pcm.path}
    return {
        "id": clip.id,
        "start": pcm.start / pcm.rate,
        "duration": duration,
        "channel": 0,
        "supervisions": [
            {
                "id": clip.id,
                "recording_id": shard,
                "start": 0.0,
                "duration": duration,
                "channel": 0,
                "text": clip.text,
                "language": clip.language,
                "speaker": clip.speaker,
            }
        ],
        "recording": {"id": shard, "sources": [source], "sampling_rate": pcm.rate, "channel_ids": [0]},
        "custom": {"source": clip.source, "split": clip.split},
        "type": "MonoCut",
    }


def _from_cut(cut: dict[str, Any], folder: Path) -> Clip:
    rate = cut["recording"]["sampling_rate"]
    # the stored path is for Lhotse; the folder may have moved since
    path = folder / Path(cut["recording"]["sources"][0]["source"]).name
    supervision = cut["supervisions"][0]
    pcm = Pcm(str(path), rate, round(cut["start"] * rate), round(cut["duration"] * rate))
    return Clip(
        id=cut["id"],
        audio="",
        duration=cut["duration"],
        source=cut["custom"]["source"],
        text=supervision["text"],
        split=cut["custom"]["split"],
        speaker=supervision["speaker"],
        language=supervision["language"],
        pcm=pcm,
    )


def skipped_table(skipped: dict[str, str], limit: int = 30) -> str:
    """Return `3 clips skipped: a (missing), ...` on one line, with the first `limit` by name."""
    named = [one_line(f"{name} ({reason})") for name, reason in sorted(skipped.items())[:limit]]
    more = f", and {len(skipped) - limit} more" if len(skipped) > limit else ""
    return f"{len(skipped)} clips skipped: {', '.join(named)}{more}"
