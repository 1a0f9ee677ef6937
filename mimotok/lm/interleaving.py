"""MiMo-Audio's token layout: patches, delayed channels, and one sequence of text and audio (arXiv 2512.23808, 2.1-2.2).

The language model works on *positions* that hold a text id and a patch each:

    text     w    w    w   START  AUDIO     AUDIO     ...  END   w
    patch    -    -    -   -      frames    frames         -     -
                                  0 to 3    4 to 7

At a text position every channel of the patch is "empty" (-). Audio is START, one position per patch with the
placeholder AUDIO, and END; START, AUDIO and END are ids of the text vocabulary (`SpecialIds`). The model predicts the
next text id; where that is AUDIO, a patch decoder (`mimotok.lm.patches`) writes the patch. So text-to-speech is text
followed by audio, transcription is audio followed by text, and continuation goes on after an AUDIO.

A channel is a codebook. Its vocabulary is the codebook's entries and one more id, "empty" = the codebook's size.
All functions are pure, take and give int64, and refuse invalid ids by position with ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mimotok.codes import check_codes

PATCH_SIZE = 4


class SpecialIds(NamedTuple):
    """The text ids that stand for audio: one per patch, and one on either side of a stretch of patches."""

    audio: int
    start: int
    end: int


class Positions(NamedTuple):
    """text: [T] ids; patches: [T, n_q, size], empty where `text` is no AUDIO."""

    text: Tensor
    patches: Tensor


def empty_ids(codebook_sizes: Sequence[int], device: torch.device | None = None) -> Tensor:
    """The "empty" id of each channel, [n_q]."""
    return torch.tensor(codebook_sizes, device=device)


def to_patches(codes: Tensor, codebook_sizes: Sequence[int], *, size: int = PATCH_SIZE) -> Tensor:
    """codes: [B, n_q, F] -> patches [B, ceil(F / size), n_q, size]; the last one repeats the last frame."""
    check_codes(codes, codebook_sizes)
    missing = -codes.shape[2] % size
    padded = torch.cat((codes, codes[:, :, -1:].expand(-1, -1, missing)), dim=2)
    return rearrange(padded, "b q (p s) -> b p q s", s=size)


def from_patches(patches: Tensor, codebook_sizes: Sequence[int], *, frames: int | None = None) -> Tensor:
    """patches: [B, P, n_q, size] -> codes [B, n_q, frames], the inverse of `to_patches`.

    frames: the true number of frames; None keeps all of the last patch.
    """
    count, size = patches.shape[1], patches.shape[3]
    if frames is not None and not (count - 1) * size < frames <= count * size:
        raise ValueError(
            f"frames={frames}, but {count} patches of {size} hold {(count - 1) * size + 1} to {count * size}"
        )
    codes = rearrange(patches, "b p q s -> b q (p s)")[:, :, :frames]
    check_codes(codes, codebook_sizes)
    return codes


def delay(codes: Tensor, codebook_sizes: Sequence[int], delays: Sequence[int] | None = None) -> Tensor:
    """codes: [B, n_q, S] -> [B, n_q, S + max(delays)], channel q `delays[q]` steps later, "empty" around it.

    delays: 0, 1, 2... by default. Over the frames of a patch this is MiMo-Audio's layout, over whole sequences
    MusicGen's (Copet et al., 2023).
    """
    check_codes(codes, codebook_sizes)
    return shift_channels(codes, checked_delays(delays, len(codebook_sizes)), codebook_sizes)


def undelay(delayed: Tensor, codebook_sizes: Sequence[int], delays: Sequence[int] | None = None) -> Tensor:
    """delayed: [B, n_q, S + max(delays)] -> codes [B, n_q, S], the inverse of `delay`."""
    codes = unshift_channels(delayed, checked_delays(delays, len(codebook_sizes)))
    check_codes(codes, codebook_sizes)
    return codes


def checked_delays(delays: Sequence[int] | None, n_q: int) -> tuple[int, ...]:
    """The delay of each channel, 0, 1, 2... where None."""
    delays = tuple(range(n_q)) if delays is None else tuple(delays)
    if len(delays) != n_q or min(delays) < 0:
        raise ValueError(f"delays={delays}: give {n_q}, one for each codebook, none of them negative")
    return delays


def shift_channels(codes: Tensor, delays: Sequence[int], fill: Sequence[int]) -> Tensor:
    """codes: [B, channels, S] -> [B, channels, S + max(delays)], `fill[c]` around channel c. Checks nothing."""
    last = max(delays)
    shifted = [F.pad(codes[:, c], (d, last - d), value=fill[c]) for c, d in enumerate(delays)]
    return torch.stack(shifted, dim=1)


def unshift_channels(shifted: Tensor, delays: Sequence[int]) -> Tensor:
    """The inverse of `shift_channels`. Raises ValueError where nothing would be left."""
    size = shifted.shape[2] - max(delays)
    if size < 1:
        raise ValueError(f"{shifted.shape[2]} steps, but delays up to {max(delays)} leave no frame: give more steps")
    return torch.stack([shifted[:, c, d : d + size] for c, d in enumerate(delays)], dim=1)


def interleave(
    segments: Sequence[Tensor], codebook_sizes: Sequence[int], special: SpecialIds, *, size: int = PATCH_SIZE
) -> Positions:
    """segments: text ids [N] and codes [n_q, F] in any order, each of at least one. Returns their positions.

    Two texts in a row are refused: joined, they would not come apart again.
    """
    parts: list[Positions] = []
    for number, segment in enumerate(segments):
        if segment.dim() == 1:
            if number and segments[number - 1].dim() == 1:
                raise ValueError(f"segments {number - 1} and {number} are both text: join them into one")
            _check_text(segment, special, number)
            parts.append(Positions(segment, _empty_patches(len(segment), codebook_sizes, size, segment.device)))
        else:
            patches = to_patches(segment[None], codebook_sizes, size=size)[0]
            border = _empty_patches(1, codebook_sizes, size, segment.device)
            ids = [special.start, *[special.audio] * len(patches), special.end]
            text = torch.tensor(ids, device=segment.device)
            parts.append(Positions(text, torch.cat((border, patches, border))))
    if not parts:
        raise ValueError("no segments: give at least one text or one clip")
    return Positions(torch.cat([p.text for p in parts]), torch.cat([p.patches for p in parts]))


def separate(
    positions: Positions,
    codebook_sizes: Sequence[int],
    special: SpecialIds,
    *,
    frames: Sequence[int] | None = None,
) -> list[Tensor]:
    """The segments that `interleave` joined: text ids [N] and codes [n_q, F].

    frames: the true number of frames of each clip, in order; None keeps all of their last patches. Raises ValueError
    where START, AUDIO and END do not match, or a text position holds codes.
    """
    text, patches = positions
    kinds, segments, at = text.tolist(), [], 0
    _check_empty(text, patches, codebook_sizes, special)
    clips = kinds.count(special.start)
    if frames is not None and len(frames) != clips:
        raise ValueError(f"frames has {len(frames)} entries, but there are {clips} clips")
    counts = None if frames is None else iter(frames)
    while at < len(kinds):
        stop = at + 1
        if kinds[at] == special.start:
            while stop < len(kinds) and kinds[stop] == special.audio:
                stop += 1
            if stop == at + 1 or stop == len(kinds) or kinds[stop] != special.end:
                raise ValueError(f"text[{at}] starts audio, but at text[{stop}] there is no patch and no end of it")
            count = None if counts is None else next(counts)
            segments.append(from_patches(patches[None, at + 1 : stop], codebook_sizes, frames=count)[0])
            stop += 1
        elif kinds[at] in special:
            raise ValueError(f"text[{at}]={kinds[at]} belongs to audio, but no audio was started before it")
        else:
            while stop < len(kinds) and kinds[stop] not in special:
                stop += 1
            segments.append(text[at:stop])
        at = stop
    return segments


def _empty_patches(count: int, codebook_sizes: Sequence[int], size: int, device: torch.device) -> Tensor:
    return empty_ids(codebook_sizes, device)[None, :, None].repeat(count, 1, size)


def _check_text(ids: Tensor, special: SpecialIds, number: int) -> None:
    if not len(ids):
        raise ValueError(f"segment {number} is an empty text: leave it out")
    wrong = (ids < 0) | torch.isin(ids, torch.tensor(special, device=ids.device))
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise ValueError(f"segment {number}, text[{at}]={int(ids[at])}: negative, or one of {special}")


def _check_empty(text: Tensor, patches: Tensor, codebook_sizes: Sequence[int], special: SpecialIds) -> None:
    wrong = (patches != empty_ids(codebook_sizes, patches.device)[:, None]).flatten(1).any(1) & (text != special.audio)
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise ValueError(f"patches[{at}] holds codes, but text[{at}]={int(text[at])} is not AUDIO={special.audio}")
