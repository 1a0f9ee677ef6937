"""Speech for tools that measure a model on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mimotok.io.audio import resample
from mimotok.io.clips.clip import Clip
from train.data.manifest import BadClipError, decode, read_manifest


def speech(
    manifest: str | Sequence[str], root: str, seconds: float, sample_rate: int, *, allow_outside: bool = False
) -> Iterator[Tensor]:
    """Return an iterator over about `seconds` of training clips [1, T], from all over the manifest or manifests.

    Raises ValueError for no time and for a manifest that cannot be read; the iterator does where it can read no clip.
    """
    if not seconds > 0:
        raise ValueError(f"{seconds:g} s of speech to hear: give more than 0")
    clips = [clip for clip in read_manifest(manifest, root, allow_outside=allow_outside) if clip.split == "train"]
    share = min(1.0, seconds / max(sum(clip.duration for clip in clips), 1e-9))
    chosen = np.linspace(0, len(clips) - 1, max(1, round(share * len(clips)))).round().astype(int)
    return _decoded([clips[number] for number in chosen if clips], sample_rate, str(manifest))


def _decoded(clips: Sequence[Clip], sample_rate: int, manifest: str) -> Iterator[Tensor]:
    heard = 0.0
    for clip in clips:
        try:
            wav, rate = decode(clip)
        except BadClipError:
            continue
        heard += clip.duration
        yield torch.from_numpy(resample(wav, rate, sample_rate))[None]
    if not heard:
        raise ValueError(f"{manifest}: no training clip could be read; check --root")
