"""Test lists: the recordings that are measured, and what is said in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mimotok.corpus.recordings import read_recordings
from mimotok.io.clips.alignments import read_alignments
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.encoding import encoding_problem, escaped
from mimotok.io.clips.phones import Phone
from mimotok.io.files import open_regular
from mimotok.io.terminal.streams import excerpt


@dataclass(frozen=True)
class LabelledClip:
    """A recording and the phones that are spoken in it, in order."""

    clip: Clip
    phones: tuple[Phone, ...]


def read_test_list(
    path: Path, *, root: Path | None = None, split: str | None = "test", allow_outside: bool = False
) -> list[Clip]:
    """Read the recordings of a test list, in its order.

    Args:
        path: a folder or a list, see `mimotok.corpus.recordings.read_recordings`.
        root: folder of a manifest's relative paths, the manifest's own if None.
        split: recordings to read, or those without a split where none has one; None for all.
        allow_outside: recordings may lie elsewhere than below the root or the list's folder.

    Returns:
        The recordings.

    Raises:
        ValueError: the list is missing, empty or not understood.
    """
    found = list(read_recordings(path, root, allow_outside=allow_outside))
    # beside others, those without a split are trained on
    chosen = split if any(clip.split for clip in found) else ""
    clips = [clip for clip in found if split is None or clip.split == chosen]
    if not clips:
        splits = excerpt(", ".join(sorted({clip.split for clip in found})))
        raise ValueError(f"{path}: no recordings of split {split}, only of {splits}; name one (--split)")
    counts = Counter(clip.id for clip in clips)
    for clip_id, count in counts.items():
        if count > 1:
            raise ValueError(f"{path}: two recordings are called {excerpt(clip_id)}")
    return clips


def read_labelled_clips(
    labels: Path, manifest: Path, *, root: Path | None = None, allow_outside: bool = False
) -> list[LabelledClip]:
    """Find the clips of a manifest, of all its splits, that have phone labels.

    Args:
        labels: what `python -m train align` wrote.
        manifest: the manifest that was aligned, or another that names the same recordings.
        root: folder of the manifest's relative paths, its own if None.
        allow_outside: recordings may lie elsewhere than below the root or the manifest's folder.

    Returns:
        The clips that have labels, in the manifest's order.

    Raises:
        ValueError: a file cannot be read, or no clip of the manifest has labels.
    """
    clips = read_test_list(manifest, root=root, split=None, allow_outside=allow_outside)
    found = read_alignments(labels).parts_of(clips, root or manifest.parent)
    labelled = [LabelledClip(clip, phones) for clip, phones in zip(clips, found, strict=True) if phones is not None]
    if not labelled:
        raise ValueError(f"{labels}: has no phones of the recordings in {manifest}")
    return labelled


class Usable(NamedTuple):
    """The clips that a report can name, and a line on each of the others."""

    clips: list[Clip]
    problems: list[str]


def usable(clips: Iterable[Clip]) -> Usable:
    """Set apart the clips whose names or texts cannot be written down: they must not stop the others."""
    kept = []
    problems = []
    for clip in clips:
        problem = encoding_problem([clip.id, clip.audio, clip.text, clip.language, clip.speaker, clip.source])
        if problem is None:
            kept.append(clip)
        else:
            problems.append(f"{escaped(clip.id)}: {problem}")
    return Usable(kept, problems)


def thin(clips: list[Clip], *, every: int = 1, min_seconds: float = 0.0, notify: Callable[[str], None]) -> list[Clip]:
    """Select a part of a test list.

    Args:
        clips: the recordings.
        every: take every `every`th.
        min_seconds: leave out shorter ones first; a file without a readable header is kept, to be reported later.
        notify: receives one line that says how many were left out.

    Raises:
        ValueError: `every` is below 1, or no recording is left.
    """
    if every < 1:
        raise ValueError(f"every={every}: give at least 1")
    long_enough = [clip for clip in clips if _seconds(clip) >= min_seconds]
    if len(long_enough) < len(clips):
        notify(f"{len(clips) - len(long_enough)} recordings are shorter than {min_seconds} s and left out")
    if not long_enough:
        raise ValueError(f"no recording lasts {min_seconds} s")
    return long_enough[::every]


def _seconds(clip: Clip) -> float:
    """Return how long a recording is; of a file its header tells, and infinity where it cannot be read."""
    import soundfile

    if clip.cut is not None:
        return clip.duration
    try:
        # a pipe would be waited for
        open_regular(clip.audio).close()
        return soundfile.info(clip.audio).duration
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return float("inf")
