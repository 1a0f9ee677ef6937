"""Clips of a manifest with their codes or latents, computed once and kept in a file."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimotok import Tokenizer
from mimotok.corpus.recordings import load_recording
from mimotok.io.clips.alignments import Alignments, Part, read_alignments, read_words
from mimotok.io.clips.clip import Clip
from mimotok.io.clips.languages import language_code
from mimotok.io.clips.phones import Phone, Word
from mimotok.io.files import atomic_path
from train.data.manifest import read_manifest

# features(tokenizer, wav [1, T]) -> [1, ...]; `kind` names them in the cache
Features = Callable[[Tokenizer, Tensor], Tensor]


# clips between two writes of the cache, so that a stopped call has not encoded in vain
KEPT = 5000


class Item(NamedTuple):
    """A clip: codes int16 [n_q, F] or latents float32 [F, D], its text, who speaks in which language, the corpus.

    clip: where its sound is. words, phones: what is spoken when, where that is known.
    """

    clip: Clip
    features: Tensor
    text: str
    speaker: str = ""
    language: str = ""
    source: str = ""
    words: tuple[Word, ...] = ()
    phones: tuple[Phone, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """What is read of a manifest: clips with a text, in random order, up to so many minutes of each split.

    audio paths are relative to `root`; language: as the manifest says it, or None for all; source: part of the
    source's name, for training clips only; max_seconds: longer clips are left out. cache: folder. labels: a file of
    `python -m train align` with the words and phones of clips.
    """

    manifest: str
    root: str = "."
    cache: str = "runs/examples/cache"
    language: str | None = "en"
    source: str = ""
    minutes: float = 60.0
    max_seconds: float = 12.0
    labels: Path | None = None

    def clips(self, split: str) -> list[Clip]:
        """Those of one split. Raises ValueError where there is none."""
        fits = [clip for clip in read_manifest(self.manifest, self.root) if self._fits(clip, split)]
        random.Random(0).shuffle(fits)
        chosen = []
        seconds = 0.0
        for clip in fits:
            if seconds + clip.duration <= self.minutes * 60:
                chosen.append(clip)
                seconds += clip.duration
        if not chosen:
            raise ValueError(f"{self.manifest}: no clip with text for split={split}, language={self.language}")
        return chosen

    def spoken(self, clips: Sequence[Clip], read: Callable[[Path], Alignments[Part]]) -> list[tuple[Part, ...]]:
        """Find the words or phones of clips in the labels; a clip without any has none."""
        if self.labels is None:
            return [()] * len(clips)
        return [parts or () for parts in read(self.labels).parts_of(clips, self.root)]

    def _fits(self, clip: Clip, split: str) -> bool:
        known = bool(clip.text) and clip.split == split and clip.duration <= self.max_seconds
        spoken = self.language is None or language_code(clip.language) == language_code(self.language)
        return known and spoken and (split != "train" or self.source in clip.source)


def load_items(corpus: Corpus, split: str, tokenizer: Tokenizer, kind: str, features: Features) -> list[Item]:
    """Load the clips of a split with their features, from the cache as far as it holds them."""
    clips = corpus.clips(split)
    path = Path(corpus.cache, f"{kind}-{split}-{tokenizer.weights_sha256[:12]}.safetensors")
    known = load_file(path) if path.is_file() else {}
    missing = [clip for clip in clips if _key(clip) not in known]
    for number, clip in enumerate(missing, 1):
        known[_key(clip)] = features(tokenizer, sound_of(clip, tokenizer.sample_rate))[0].contiguous()
        if number % 100 == 0:
            print(f"{kind} of {number} of {len(missing)} clips", flush=True)
        if number % KEPT == 0 or number == len(missing):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                save_file(known, temporary)
    words = corpus.spoken(clips, read_words)
    phones = corpus.spoken(clips, read_alignments)
    return [
        Item(
            clip,
            known[_key(clip)],
            clip.text or "",
            clip.speaker or "",
            clip.language or "",
            clip.source,
            words_of_clip,
            phones_of_clip,
        )
        for clip, words_of_clip, phones_of_clip in zip(clips, words, phones, strict=True)
    ]


def _key(clip: Clip) -> str:
    """Return what tells the sound of a clip from all others: a file may hold several cuts."""
    return clip.audio if clip.cut is None else f"{clip.audio} {clip.id}"


def sound_of(clip: Clip, sample_rate: int) -> Tensor:
    """Load the sound of a clip, a cut or a whole file, [1, T] at `sample_rate`."""
    return torch.from_numpy(load_recording(clip, sample_rate))[None]


def codes_of(tokenizer: Tokenizer, wav: Tensor) -> Tensor:
    """Encode wav [1, T] into codes int16 [1, n_q, F], which are small on disk."""
    return tokenizer.encode(wav).to(torch.int16)


def latents_of(tokenizer: Tokenizer, wav: Tensor) -> Tensor:
    """Encode wav [1, T] into continuous latents [1, F, D]."""
    return tokenizer.encode_latents(wav).values


def hours(items: Sequence[Item], frame_rate: float, *, time: int) -> float:
    """Return the hours of sound; `time` is the dimension of the features that is time."""
    return sum(item.features.shape[time] for item in items) / frame_rate / 3600
