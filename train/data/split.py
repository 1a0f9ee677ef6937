"""The development part of a corpus that brings none: whole speakers, chosen by a seed or by name."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from mimotok.io.clips.clip import Clip
from mimotok.io.terminal.streams import excerpt

_MOST_NAMED = 5  # speakers in a message


class HeldOut(NamedTuple):
    """What is held out: speakers, or clips by their ids where `by_speaker` is false; and a line that tells of it."""

    names: frozenset[str]
    by_speaker: bool
    message: str

    def mark(self, clips: Iterable[Clip]) -> list[Clip]:
        """Return the clips, in their order, with the split "dev" in place of "train" where they are held out."""
        return [replace(clip, split="dev") if self.has(clip) else clip for clip in clips]

    def has(self, clip: Clip) -> bool:
        """Return whether a clip is held out."""
        name = clip.speaker if self.by_speaker else clip.id
        return clip.split == "train" and name in self.names


def check_settings(fraction: float | None, speakers: Sequence[str] | None) -> None:
    """Raise ValueError where a fraction and speakers are both given, or the fraction is not between 0 and 1."""
    if fraction is not None and speakers is not None:
        raise ValueError(f"val_fraction={fraction} and val_speakers={_named(speakers)}: give one of them")
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"val_fraction={fraction}: expected a share of the data between 0 and 1, such as 0.02")
    if speakers is not None and not speakers:
        raise ValueError("val_speakers is empty: name at least one speaker, or leave it out")


def choose_held_out(
    clips: Sequence[Clip], *, fraction: float | None = None, speakers: Sequence[str] | None = None, seed: int = 0
) -> HeldOut:
    """Choose a part of the training clips to hold out for validation; of several speakers, none is on both sides.

    By fraction, speakers are taken in an order that the seed and their names alone determine, as long as that brings
    their share of the seconds nearer to the fraction, and at least one. Clips whose speaker is unknown stay in
    training; where no clip has a known speaker, each is taken by itself, since nothing better is known, and where all
    are of one, as of a voice of one's own.

    Args:
        clips: the corpus. Clips with the split "test" stay what they are.
        fraction: the share of the seconds to hold out.
        speakers: who is held out, instead.
        seed: of the choice by fraction.

    Raises:
        ValueError: for what `check_settings` refuses, where the corpus brings a split of its own, lacks a speaker that
            is named, or would be held out as a whole.
    """
    check_settings(fraction, speakers)
    own = sum(clip.split == "dev" for clip in clips)
    if own:
        raise ValueError(
            f"the data brings a split of its own, {own} clips in dev: leave out val_fraction and val_speakers"
        )
    seconds: dict[str, float] = defaultdict(float)
    for clip in clips:
        if clip.split == "train" and clip.speaker is not None:
            seconds[clip.speaker] += _seconds(clip)
    if speakers is not None:
        return _held_out(clips, _checked(speakers, seconds), by_speaker=True)
    if fraction is None:
        raise ValueError("give val_fraction or val_speakers")
    if len(seconds) > 1:
        return _held_out(clips, _drawn(seconds, fraction, seed), by_speaker=True)
    single = {clip.id: _seconds(clip) for clip in clips if clip.split == "train"}
    if len(single) < 2:
        raise ValueError(f"val_fraction={fraction}: {len(single)} recordings for training cannot be divided")
    return _held_out(clips, _drawn(single, fraction, seed), by_speaker=False)


def _seconds(clip: Clip) -> float:
    return 0.0 if math.isnan(clip.duration) else clip.duration


def _checked(speakers: Sequence[str], seconds: dict[str, float]) -> set[str]:
    if not seconds:
        raise ValueError(
            f"val_speakers={_named(speakers)}: the data names no speakers; give val_fraction, or a manifest with "
            "`speaker`"
        )
    for name in speakers:
        if name not in seconds:
            near = difflib.get_close_matches(name, seconds, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"val_speakers: nobody is called {excerpt(name)}; {meant}The data has {_named(sorted(seconds))}"
            )
    if len(set(speakers)) == len(seconds):
        raise ValueError(f"val_speakers={_named(speakers)}: these are all speakers, nobody is left for training")
    return set(speakers)


def _named(speakers: Sequence[str]) -> str:
    more = f" and {len(speakers) - _MOST_NAMED} more" if len(speakers) > _MOST_NAMED else ""
    return excerpt(", ".join(speakers[:_MOST_NAMED])) + more


def _drawn(seconds: dict[str, float], fraction: float, seed: int) -> set[str]:
    """Draw names until their seconds are as near to the fraction of all as whole names allow; never all of them."""
    # by a hash of each name: another speaker in the corpus does not deal all cards anew
    order = sorted(seconds, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode(errors="replace")).digest())
    target = fraction * sum(seconds.values())
    chosen = {order[0]}
    held = seconds[order[0]]
    for name in order[1:-1]:
        if abs(held + seconds[name] - target) < abs(held - target):
            chosen.add(name)
            held += seconds[name]
    return chosen


def _held_out(clips: Sequence[Clip], names: set[str], *, by_speaker: bool) -> HeldOut:
    chosen = HeldOut(frozenset(names), by_speaker, "")
    dev = [clip for clip in clips if chosen.has(clip)]
    training = [clip for clip in clips if clip.split == "train" and not chosen.has(clip)]
    held_seconds = sum(map(_seconds, dev))
    share = held_seconds / max(held_seconds + sum(map(_seconds, training)), 1e-9)
    named = {clip.speaker for clip in clips if clip.split == "train" and clip.speaker is not None}
    who = "single recordings, since no speakers are named: a voice may be on both sides"
    if named:
        who = f"single recordings, since there is one speaker only, {_named(sorted(named))}: the voice is on both sides"
    unknown = 0
    if by_speaker:
        who = f"{len(names)} speakers ({_named(sorted(names))})"
        unknown = sum(clip.speaker is None for clip in training)
    note = f"; {unknown} clips of unknown speakers stay in training" if unknown else ""
    message = f"held out for validation: {len(dev)} clips, {held_seconds:.0f} s, {share:.1%} of the data: {who}{note}"
    return chosen._replace(message=message)
