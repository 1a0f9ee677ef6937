"""Editing codes by time, exact to the sample: cut, pad, concatenate, and join with a cross-fade at the seams.

Frame f of codes decodes to samples f * frame_size up to (f + 1) * frame_size. Two things follow:

- A clip of N samples has more frames than it fills: they decode to 1 to frame_size samples more than N. Where codes
  of two clips are put end to end, the second therefore begins that much late. `concatenate` says where each begins;
  `join` joins decoded sound instead, where nothing is late.
- Decoding a frame looks at frames before and after it. A cut that begins without them decodes differently at its
  borders. `CodedClip.cut` takes such frames along as context, of which `decode` keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mimotok.model.lengths import frames_needed

# Codes [1, n_q, F] to wav [1, F * frame_size], as `Tokenizer.decode` is.
Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class CodedClip:
    """Codes, and which samples of what they decode to are the clip; the rest is context.

    Attributes:
        codes: [n_q, F].
        frame_size: samples per frame.
        start: the clip's first sample.
        num_samples: of the clip; all from `start` on where None.

    Raises:
        ValueError: for another shape, and where the clip is empty or not within the frames.

    Example:
        >>> clip = CodedClip(torch.zeros(8, 25, dtype=torch.int64), frame_size=960, num_samples=23500)
        >>> part = clip.cut(1000, 3000, context=2)
        >>> part.codes.shape[1], part.start, part.num_samples
        (6, 1000, 2000)
    """

    codes: Tensor
    frame_size: int
    start: int = 0
    num_samples: int | None = None

    def __post_init__(self) -> None:
        if self.codes.dim() != 2 or 0 in self.codes.shape or self.frame_size < 1:
            shape = list(self.codes.shape)
            raise ValueError(f"codes have shape {shape}, frame_size={self.frame_size}: give [n_q, frames] and 1 or up")
        size = self.codes.shape[1] * self.frame_size
        count = size - self.start if self.num_samples is None else self.num_samples
        object.__setattr__(self, "num_samples", count)
        if self.start < 0 or count < 1 or self.start + count > size:
            raise ValueError(f"start={self.start}, num_samples={count}: {size // self.frame_size} frames hold {size}")

    @property
    def stop(self) -> int:
        """The sample after the clip's last one."""
        assert self.num_samples is not None
        return self.start + self.num_samples

    def cut(self, start: int, stop: int, *, context: int = 0) -> CodedClip:
        """Return samples `start` to `stop` of the clip, with up to `context` frames around them where there are any.

        With as many as `Tokenizer.chunking.decoder_context` says, a model of limited windows decodes exactly the
        samples that it decodes in the whole clip. Raises ValueError for an empty stretch or one outside the clip.
        """
        assert self.num_samples is not None
        if not 0 <= start < stop <= self.num_samples or context < 0:
            raise ValueError(f"cut({start}, {stop}, context={context}): the clip has {self.num_samples} samples")
        first = max(0, (self.start + start) // self.frame_size - context)
        last = frames_needed(self.start + stop, self.frame_size) + context
        within = self.start + start - first * self.frame_size
        return CodedClip(self.codes[:, first:last], self.frame_size, within, stop - start)

    def pad(self, left: int, right: int, fill: Tensor) -> CodedClip:
        """Return the clip with exactly so many samples more on either side; its context goes.

        fill: the codes of a frame, [n_q], such as one of encoded silence. Raises ValueError for negative numbers and
        another shape of `fill`.
        """
        if left < 0 or right < 0 or fill.shape != self.codes.shape[:1]:
            raise ValueError(f"pad({left}, {right}), fill {list(fill.shape)}: give 0 or more, and [{len(self.codes)}]")
        clip = self.without_context()
        before = frames_needed(max(0, left - clip.start), self.frame_size)
        room = clip.codes.shape[1] * self.frame_size - clip.stop
        after = frames_needed(max(0, right - room), self.frame_size)
        frame = fill.to(self.codes)[:, None]
        codes = torch.cat((frame.repeat(1, before), clip.codes, frame.repeat(1, after)), dim=1)
        start = before * self.frame_size + clip.start - left
        return CodedClip(codes, self.frame_size, start, clip.stop - clip.start + left + right)

    def without_context(self) -> CodedClip:
        """Return the clip without the frames that hold none of its samples."""
        first = self.start // self.frame_size
        last = frames_needed(self.stop, self.frame_size)
        return CodedClip(
            self.codes[:, first:last], self.frame_size, self.start - first * self.frame_size, self.num_samples
        )

    def decode(self, decode: Decode) -> Tensor:
        """Decode the clip by `Tokenizer.decode`. Returns wav [1, num_samples]."""
        return decode(self.codes[None])[:, self.start : self.stop]


class Concatenated(NamedTuple):
    """Clips end to end.

    Attributes:
        clip: from the first sample of the first clip to the last sample of the last one.
        starts: the sample of `clip` at which each begins.
    """

    clip: CodedClip
    starts: list[int]


def concatenate(clips: Sequence[CodedClip]) -> Concatenated:
    """Put the frames of clips end to end, as a language model reads them; their context goes.

    Each clip but the first begins late, after what the frames on both sides of the seam hold besides the clips: less
    than two frames, and at most one where it begins with a whole frame.

    Args:
        clips: at least one.

    Returns:
        The clip, and where each begins in it.

    Raises:
        ValueError: for no clips, or clips of different codebooks or frames.

    Example:
        >>> clip = CodedClip(torch.zeros(8, 3, dtype=torch.int64), frame_size=960, num_samples=2400)
        >>> concatenate([clip, clip]).starts
        [0, 2880]
    """
    _check_alike(clips)
    parts = [clip.without_context() for clip in clips]
    size = parts[0].frame_size
    starts = []
    frames = 0
    for part in parts:
        starts.append(frames * size + part.start - parts[0].start)
        frames += part.codes.shape[1]
    codes = torch.cat([part.codes for part in parts], dim=1)
    stop = (frames - parts[-1].codes.shape[1]) * size + parts[-1].stop
    return Concatenated(CodedClip(codes, size, parts[0].start, stop - parts[0].start), starts)


def join(clips: Sequence[CodedClip], decode: Decode, *, fade: int = 0) -> Tensor:
    """Decode clips and join their sound: each begins exactly where the one before ends.

    Args:
        clips: with their context, as `CodedClip.cut` takes it along.
        decode: `Tokenizer.decode`.
        fade: samples around each seam in which one clip fades into the other, half of them beyond the seam on each
            side: fewer where the context, or a clip, is shorter.

    Returns:
        wav [1, the sum of the clips' samples].

    Raises:
        ValueError: for no clips, clips of different codebooks or frames, and a negative `fade`.

    Example:
        >>> clip = CodedClip(tokenizer.encode(torch.zeros(1, 9600))[0], tokenizer.frame_size)
        >>> parts = [clip.cut(0, 5000, context=4), clip.cut(2000, 9000, context=4)]
        >>> join(parts, tokenizer.decode, fade=480).shape
        torch.Size([1, 12000])
    """
    _check_alike(clips)
    if fade < 0:
        raise ValueError(f"fade={fade} samples: give 0 or more")
    whole = [decode(clip.codes[None]) for clip in clips]
    parts = [wav[:, clip.start : clip.stop].clone() for wav, clip in zip(whole, clips, strict=True)]
    for number in range(1, len(clips)):
        before = clips[number - 1]
        after = clips[number]
        room = min(whole[number - 1].shape[1] - before.stop, after.start, (before.stop - before.start) // 2)
        half = min(fade // 2, room, (after.stop - after.start) // 2)
        if not half:
            continue
        ending = whole[number - 1][:, before.stop - half : before.stop + half]
        beginning = whole[number][:, after.start - half : after.start + half]
        # raised cosine: the two gains sum to 1
        turn = torch.arange(0.5, 2 * half, device=ending.device) * (torch.pi / (2 * half))
        gain = (1 - turn.cos()) / 2
        mixed = torch.lerp(ending, beginning, gain)
        parts[number - 1][:, -half:] = mixed[:, :half]
        parts[number][:, :half] = mixed[:, half:]
    return torch.cat(parts, dim=1)


def _check_alike(clips: Sequence[CodedClip]) -> None:
    kinds = sorted({(len(clip.codes), clip.frame_size) for clip in clips})
    if len(kinds) != 1:
        raise ValueError(f"clips of (codebooks, frame_size) {kinds}: give at least one, and all of one kind")
