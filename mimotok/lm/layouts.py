"""Layouts of codes for audio language models: each turns codes into ids and back, without loss.

| layout | ids | as in |
|---|---|---|
| FlatLayout | one vocabulary: by frame, chunk of frames or codebook | AudioLM (Borsos et al., 2022) |
| PatchLayout | patches of frames | MiMo-Audio (arXiv 2512.23808) |
| DuplexLayout | text and two speakers as parallel channels | Moshi (Defossez et al., 2024) |
| InterleavedLayout (`mimotok.lm.interleaving`) | text and patches in one sequence | MiMo-Audio |

A channel's "empty" id is its codebook's size. Ids and codes are int64; invalid ids are refused by position with
ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mimotok.codes import check_codes

PATCH_SIZE = 4


@dataclass(frozen=True)
class Layout:
    """The base of all layouts.

    Attributes:
        codebook_sizes: the entries of each codebook in use.
    """

    codebook_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))

    @property
    def n_q(self) -> int:
        """Codebooks in use."""
        return len(self.codebook_sizes)

    def checked(self, codes: Tensor) -> Tensor:
        """Return codes as int64. Raises ValueError unless they are [B, n_q, F] of integers within their codebooks."""
        check_codes(codes, self.codebook_sizes)
        # codes files have unsigned integers of 16 bits, which torch hardly computes with
        return codes.long()

    def empty_ids(self, device: torch.device | None = None) -> Tensor:
        """Return the "empty" id of each channel, [n_q]."""
        return torch.tensor(self.codebook_sizes, device=device)


@dataclass(frozen=True)
class FlatLayout(Layout):
    """One vocabulary, in which codebook q begins at the sum of the sizes before it.

    Attributes:
        codebook_sizes: the entries of each codebook in use.
        chunk: frames whose codes stay together, one codebook after another. 1 is frame by frame; None is the whole
            clip: all frames of codebook 0, then those of codebook 1 and so on. The last chunk may be shorter.

    Example:
        >>> layout = FlatLayout((1024, 128))
        >>> ids = layout.encode(torch.tensor([[[3, 4], [5, 6]]]))  # [B, 2, F] to [B, 2 F]
        >>> ids.tolist()
        [[3, 1029, 4, 1030]]
        >>> layout.decode(ids).tolist()
        [[[3, 4], [5, 6]]]
    """

    chunk: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk={self.chunk}: give 1 or more frames, or None for the whole clip")

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return sum(self.codebook_sizes)

    def encode(self, codes: Tensor) -> Tensor:
        """Turn codes [B, n_q, F] into ids [B, n_q * F]. Raises ValueError for codes outside their codebooks."""
        codes = self.checked(codes)
        ids = codes + self._offsets(codes.device)[:, None]
        return torch.cat([part.flatten(1) for part in ids.split(self.chunk or codes.shape[2], dim=2)], dim=1)

    def decode(self, ids: Tensor) -> Tensor:
        """Turn ids [B, n_q * F] into codes [B, n_q, F]. Raises ValueError for ids that belong to another codebook."""
        if ids.dim() != 2 or ids.shape[1] == 0 or ids.shape[1] % self.n_q:
            raise ValueError(f"ids have shape {list(ids.shape)}: give [batch, a multiple of {self.n_q} codebooks]")
        frames = ids.shape[1] // self.n_q
        chunk = min(self.chunk or frames, frames)
        self._check_books(ids, self.books(frames).to(ids.device))
        parts = [part.unflatten(1, (self.n_q, -1)) for part in ids.split(self.n_q * chunk, dim=1)]
        return torch.cat(parts, dim=2) - self._offsets(ids.device)[:, None]

    def _offsets(self, device: torch.device) -> Tensor:
        return torch.tensor([0, *accumulate(self.codebook_sizes)][:-1], device=device)

    def books(self, frames: int) -> Tensor:
        """Return which codebook each of the ids of `frames` frames belongs to, [n_q * frames]."""
        channels = torch.arange(self.n_q)[:, None].expand(self.n_q, frames)
        return torch.cat([part.flatten() for part in channels.split(min(self.chunk or frames, frames), dim=1)])

    def _check_books(self, ids: Tensor, books: Tensor) -> None:
        low = self._offsets(ids.device)[books]
        high = low + torch.tensor(self.codebook_sizes, device=ids.device)[books]
        wrong = (ids < low) | (ids >= high)
        if bool(wrong.any()):
            item, at = (int(i) for i in wrong.nonzero()[0])
            raise ValueError(
                f"ids[{item}, {at}]={int(ids[item, at])}, but this position belongs to codebook {int(books[at])}, "
                f"whose ids are {int(low[at])} to {int(high[at]) - 1}"
            )


@dataclass(frozen=True)
class PatchLayout(Layout):
    """Patches of `size` frames; the last one repeats the last frame.

    Attributes:
        codebook_sizes: the entries of each codebook in use.
        size: frames of a patch.

    Example:
        >>> patches = PatchLayout((1024,), size=2).encode(torch.tensor([[[3, 4, 5]]]))
        >>> patches.tolist()
        [[[[3, 4]], [[5, 5]]]]
    """

    size: int = PATCH_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"size={self.size}: give patches of 1 or more frames")

    def encode(self, codes: Tensor) -> Tensor:
        """Turn codes [B, n_q, F] into patches [B, ceil(F / size), n_q, size]. Raises ValueError for invalid codes."""
        codes = self.checked(codes)
        missing = -codes.shape[2] % self.size
        padded = torch.cat((codes, codes[:, :, -1:].expand(-1, -1, missing)), dim=2)
        return rearrange(padded, "b q (p s) -> b p q s", s=self.size)

    def decode(self, patches: Tensor, *, frames: int | None = None) -> Tensor:
        """Turn patches into codes.

        Args:
            patches: [B, P, n_q, size].
            frames: the true number of frames; None keeps all frames of the last patch.

        Returns:
            Codes [B, n_q, frames].

        Raises:
            ValueError: for patches of another shape, codes outside their codebooks, and a number of frames that does
                not fit.
        """
        size = self.size
        if patches.dim() != 4 or patches.shape[2:] != (self.n_q, size):
            raise ValueError(f"patches have shape {list(patches.shape)}: give [batch, patches, {self.n_q}, {size}]")
        count = patches.shape[1]
        if frames is not None and not (count - 1) * size < frames <= count * size:
            raise ValueError(
                f"frames={frames}, but {count} patches of {size} hold {(count - 1) * size + 1} to {count * size}"
            )
        return self.checked(rearrange(patches, "b p q s -> b q (p s)")[:, :, :frames])


class Duplex(NamedTuple):
    """The speech of two people.

    Attributes:
        text: [B, F] ids of the first speaker's text.
        speaker: codes [B, n_q, F] of the first.
        other: codes [B, n_q, F] of the second.
    """

    text: Tensor
    speaker: Tensor
    other: Tensor


@dataclass(frozen=True)
class DuplexLayout(Layout):
    """One column of ids per frame: the text, the speaker's codebooks, and the other's.

    The codebooks after the first come `acoustic_delay` frames later; around them channels are "empty", and the text is
    `pad_id` at the end. `mimotok.lm.text_stream` builds the text.

    Attributes:
        codebook_sizes: the entries of each codebook in use.
        pad_id: text id at the end.
        acoustic_delay: frames.

    Example:
        >>> layout = DuplexLayout((1024, 128))
        >>> codes = torch.tensor([[[3], [5]]])
        >>> layout.encode(Duplex(torch.tensor([[7]]), codes, codes)).tolist()
        [[[7, 0], [3, 1024], [128, 5], [3, 1024], [128, 5]]]
    """

    pad_id: int = 0
    acoustic_delay: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.acoustic_delay < 0:
            raise ValueError(f"acoustic_delay={self.acoustic_delay}: give 0 or more frames")

    def encode(self, duplex: Duplex) -> Tensor:
        """Turn text and codes into ids [B, 1 + 2 n_q, F + acoustic_delay]; with one codebook no column is added."""
        text, speaker, other = duplex
        speaker = self.checked(speaker)
        other = self.checked(other)
        if speaker.shape != other.shape or text.shape != (speaker.shape[0], speaker.shape[2]):
            shapes = [list(part.shape) for part in duplex]
            raise ValueError(f"text, speaker, other have shapes {shapes}: give [B, F], [B, n_q, F], [B, n_q, F]")
        _check_text(text)
        fill = [self.pad_id, *self.codebook_sizes, *self.codebook_sizes]
        return shift_channels(torch.cat((text[:, None], speaker, other), dim=1), self._delays(), fill)

    def decode(self, ids: Tensor) -> Duplex:
        """Turn ids [B, 1 + 2 n_q, F + acoustic_delay] into the text and both speakers' codes."""
        if ids.dim() != 3 or ids.shape[1] != 1 + 2 * self.n_q:
            raise ValueError(f"ids have shape {list(ids.shape)}: give [batch, {1 + 2 * self.n_q}, frames]")
        channels = unshift_channels(ids, self._delays())
        text = channels[:, 0]
        _check_text(text)
        speaker = self.checked(channels[:, 1 : 1 + self.n_q])
        return Duplex(text, speaker, self.checked(channels[:, 1 + self.n_q :]))

    def _delays(self) -> list[int]:
        one = [0] + [self.acoustic_delay] * (self.n_q - 1)
        return [0, *one, *one]


def checked_delays(delays: Sequence[int] | None, n_q: int) -> tuple[int, ...]:
    """Return the delay of each channel, 0, 1, 2... where None. Raises ValueError for another number, or below 0."""
    delays = tuple(range(n_q)) if delays is None else tuple(delays)
    if len(delays) != n_q or min(delays) < 0:
        raise ValueError(f"delays={delays}: give {n_q}, one for each codebook, none of them negative")
    return delays


def shift_channels(codes: Tensor, delays: Sequence[int], fill: Sequence[int]) -> Tensor:
    """Shift channel c of codes [B, channels, S] by delays[c], with `fill[c]` around it, without any check.

    Returns [B, channels, S + max(delays)].
    """
    last = max(delays)
    shifted = [F.pad(codes[:, c], (d, last - d), value=fill[c]) for c, d in enumerate(delays)]
    return torch.stack(shifted, dim=1)


def unshift_channels(shifted: Tensor, delays: Sequence[int]) -> Tensor:
    """Undo `shift_channels`. Raises ValueError where nothing would be left."""
    size = shifted.shape[2] - max(delays)
    if size < 1:
        raise ValueError(f"{shifted.shape[2]} steps, but delays up to {max(delays)} leave no frame: give more steps")
    return torch.stack([shifted[:, c, d : d + size] for c, d in enumerate(delays)], dim=1)


def _check_text(text: Tensor) -> None:
    if bool((text < 0).any()):
        item, frame = (int(i) for i in (text < 0).nonzero()[0])
        raise ValueError(f"text[{item}, {frame}]={int(text[item, frame])}: ids are 0 or more")
