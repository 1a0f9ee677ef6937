"""Text and audio in one sequence, as in MiMo-Audio (arXiv 2512.23808, sections 2.1 and 2.2).

The language model works on *positions* that hold a text id and a patch each:

    text     w    w    w   START  AUDIO     AUDIO     ...  END   w
    patch    -    -    -   -      frames    frames         -     -
                                  0 to 3    4 to 7

At a text position every channel of the patch is "empty" (-). Audio is START, one position per patch with the
placeholder AUDIO, and END; START, AUDIO and END are ids of the text vocabulary (`SpecialIds`). The model predicts the
next text id; where that is AUDIO, a patch decoder (`mimotok.lm.patches`) writes the patch. So text-to-speech is text
followed by audio, transcription is audio followed by text, and a continuation follows an AUDIO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mimotok.lm.layouts import PATCH_SIZE, Layout, PatchLayout


class SpecialIds(NamedTuple):
    """The text ids that stand for audio: one per patch, and one on either side of a stretch of patches."""

    audio: int
    start: int
    end: int


class Positions(NamedTuple):
    """A sequence of text and patches.

    Attributes:
        text: [T] ids.
        patches: [T, n_q, size], empty where `text` is not AUDIO.
    """

    text: Tensor
    patches: Tensor


@dataclass(frozen=True)
class InterleavedLayout(Layout):
    """Text and clips as one sequence of positions.

    Attributes:
        codebook_sizes: the entries of each codebook in use.
        special: the text ids that stand for audio.
        size: frames of a patch.

    Example:
        >>> layout = InterleavedLayout((1024, 128), SpecialIds(audio=256, start=257, end=258))
        >>> positions = layout.encode([torch.tensor([72, 105]), torch.tensor([[3, 4], [5, 6]])])
        >>> positions.text.tolist()
        [72, 105, 257, 256, 258]
        >>> text, codes = layout.decode(positions, frames=[2])
        >>> codes.tolist()
        [[3, 4], [5, 6]]
    """

    special: SpecialIds
    size: int = PATCH_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        self._patches()  # refuses a size below 1

    def encode(self, segments: Sequence[Tensor]) -> Positions:
        """Join texts and clips.

        Args:
            segments: text ids [N] and codes [n_q, F] in any order, each of at least one. Two texts in a row are
                refused, because they could not be separated again.

        Returns:
            Their positions.

        Raises:
            ValueError: for no segments, two texts in a row, and invalid ids or codes.
        """
        parts: list[Positions] = []
        for number, segment in enumerate(segments):
            if segment.dim() != 1:
                parts.append(self._audio(segment))
                continue
            if number and segments[number - 1].dim() == 1:
                raise ValueError(f"segments {number - 1} and {number} are both text: join them into one")
            self._check_text(segment, number)
            parts.append(Positions(segment, self.empty_patches(len(segment), segment.device)))
        if not parts:
            raise ValueError("no segments: give at least one text or one clip")
        return Positions(torch.cat([p.text for p in parts]), torch.cat([p.patches for p in parts]))

    def decode(self, positions: Positions, *, frames: Sequence[int] | None = None) -> list[Tensor]:
        """Separate the segments that `encode` joined.

        Args:
            positions: the sequence.
            frames: the true number of frames of each clip, in order; None keeps all frames of their last patches.

        Returns:
            Text ids [N] and codes [n_q, F], in order.

        Raises:
            ValueError: where START, AUDIO and END do not match, or a text position holds codes.
        """
        text, patches = positions
        kinds = text.tolist()
        self._check_empty(text, patches)
        clips = kinds.count(self.special.start)
        if frames is not None and len(frames) != clips:
            raise ValueError(f"frames has {len(frames)} entries, but there are {clips} clips")
        counts = iter([None] * clips if frames is None else frames)
        segments: list[Tensor] = []
        start = 0
        while start < len(kinds):
            stop = self._end_of_segment(kinds, start)
            if kinds[start] == self.special.start:
                audio = patches[None, start + 1 : stop - 1]
                segments.append(self._patches().decode(audio, frames=next(counts))[0])
            else:
                segments.append(text[start:stop])
            start = stop
        return segments

    def empty_patches(self, count: int, device: torch.device | None = None) -> Tensor:
        """Return patches in which every channel is "empty", [count, n_q, size]."""
        return self.empty_ids(device)[None, :, None].repeat(count, 1, self.size)

    def _patches(self) -> PatchLayout:
        return PatchLayout(self.codebook_sizes, self.size)

    def _audio(self, codes: Tensor) -> Positions:
        patches = self._patches().encode(codes[None])[0]
        border = self.empty_patches(1, codes.device)
        ids = [self.special.start, *[self.special.audio] * len(patches), self.special.end]
        return Positions(torch.tensor(ids, device=codes.device), torch.cat((border, patches, border)))

    def _end_of_segment(self, kinds: list[int], start: int) -> int:
        """Return the position after the segment that begins at `start`."""
        stop = start + 1
        if kinds[start] == self.special.start:
            while stop < len(kinds) and kinds[stop] == self.special.audio:
                stop += 1
            if stop == start + 1 or stop == len(kinds) or kinds[stop] != self.special.end:
                raise ValueError(f"text[{start}] starts audio, but at text[{stop}] there is no patch and no end of it")
            return stop + 1
        if kinds[start] in self.special:
            raise ValueError(f"text[{start}]={kinds[start]} belongs to audio, but no audio was started before it")
        while stop < len(kinds) and kinds[stop] not in self.special:
            stop += 1
        return stop

    def _check_text(self, ids: Tensor, number: int) -> None:
        if not len(ids):
            raise ValueError(f"segment {number} is an empty text: leave it out")
        wrong = (ids < 0) | torch.isin(ids, torch.tensor(self.special, device=ids.device))
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise ValueError(f"segment {number}, text[{at}]={int(ids[at])}: negative, or one of {self.special}")

    def _check_empty(self, text: Tensor, patches: Tensor) -> None:
        holds_codes = (patches != self.empty_ids(patches.device)[:, None]).flatten(1).any(1)
        wrong = holds_codes & (text != self.special.audio)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            audio = self.special.audio
            raise ValueError(f"patches[{at}] holds codes, but text[{at}]={int(text[at])} is not AUDIO={audio}")
