"""Read tokens back: a stream of sequences, shuffled, divided among ranks and workers, and resumable at any place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.distributed
from torch.utils.data import IterableDataset

from mimotok.corpus.formats import Record, checked_format, read_shard
from mimotok.corpus.ledger import SHARDS, read_entries, read_settings
from mimotok.corpus.sequences import MODES, Lane, Position, Sequence, sequences
from mimotok.io.files import StrPath
from mimotok.model.lengths import frames_needed


class _Shard(NamedTuple):
    folder: Path
    names: tuple[str, ...]
    format: str
    clips: int
    frames: tuple[int, ...]  # of each clip; none where an earlier version wrote the ledger


class _Slice(NamedTuple):
    """Clips `first` to `last` of a shard."""

    shard: int
    first: int
    last: int


class TokenDataset(IterableDataset[Sequence]):
    """The tokens of one or several folders that `tokenize_corpus` wrote; one iteration is one epoch.

    Each epoch has its own order, a pure function of (seed, epoch, ranks, workers). Every clip comes exactly once an
    epoch, whatever the number of ranks and of DataLoader workers; their shares differ by one clip at most.

    With `num_workers=0`, or torchdata's StatefulDataLoader, `state_dict` is the place after the last sequence that was
    read. An iteration continues at that place, and the next iteration is the next epoch.

    The workers of a plain DataLoader have copies of the dataset, and where they last for one epoch only, the dataset
    itself stays where it is: use `TokenLoader`, or call `set_epoch` before each epoch, or every epoch has one order.

    Args:
        folders: one folder or several.
        length: frames of a sequence.
        mode: "whole" clips (`length` is None), "cut" (at most `length` frames of one clip) or "pack" (`length` frames,
            clips end to end).
        shuffle: whether to shuffle; the order of the ledger where False.
        seed: of the order.
        mix: shards whose clips are shuffled together, and are in memory at once.
        rank: of this process; torch.distributed's where None.
        world_size: processes; torch.distributed's where None.

    Yields:
        Sequences: codes int64 [n_q, F], with the clips that they are from.

    Raises:
        ValueError: for folders that hold no tokens or do not fit together, and for options that do not fit.

    Example:
        >>> dataset = TokenDataset("tokens/", length=1500, mode="pack")  # doctest: +SKIP
        >>> codes = next(iter(dataset)).codes  # doctest: +SKIP
    """

    def __init__(
        self,
        folders: StrPath | list[StrPath],
        *,
        length: int | None = None,
        mode: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        mix: int = 4,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.mode = mode or ("whole" if length is None else "cut")
        lengths_fit = length is None if self.mode == "whole" else length is not None and length >= 1
        if self.mode not in MODES or not lengths_fit or mix < 1:
            raise ValueError(
                f"mode={mode}, length={length}, mix={mix}: give cut or pack and a length of 1 or more frames, "
                "or whole and none; mix is 1 or more shards"
            )
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.mix = mix
        self.shards = _shards(folders if isinstance(folders, list) else [folders])
        self.rank = 0
        self.world_size = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.rank = torch.distributed.get_rank()
            self.world_size = torch.distributed.get_world_size()
        if rank is not None:
            self.rank = rank
        if world_size is not None:
            self.world_size = world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank={self.rank} of world_size={self.world_size}: ranks go from 0")
        self.epoch = 0
        self.position = Position()
        self.lane: int | None = None  # set by TokenLoader: which worker's share this is

    @property
    def num_clips(self) -> int:
        """The number of clips in all shards."""
        return sum(shard.clips for shard in self.shards)

    def __len__(self) -> int:
        """Return the sequences of a whole epoch on this rank, read by one worker.

        With "pack" each further worker of a DataLoader may add one shorter sequence.
        """
        return self.count_sequences(1)[0]

    def count_sequences(self, lanes: int) -> list[int]:
        """Return the sequences that each of so many workers reads in this epoch on this rank."""
        shares = [self._share(self.rank * lanes + lane, self.world_size * lanes) for lane in range(lanes)]
        if self.length is None:
            return [sum(part.last - part.first for part in share) for share in shares]
        frames = [[count for part in share for count in self._frames(part)] for share in shares]
        if self.mode == "pack":
            return [frames_needed(sum(counts), self.length) for counts in frames]
        return [sum(frames_needed(count, self.length) for count in counts) for counts in frames]

    def _frames(self, part: _Slice) -> tuple[int, ...]:
        """Return the frames of each clip, from the ledger, or from the shard where the ledger does not say."""
        shard = self.shards[part.shard]
        if len(shard.frames) != shard.clips:
            whole = self._read(_Slice(part.shard, 0, shard.clips))
            shard = shard._replace(frames=tuple(record.codes.shape[1] for record in whole))
            self.shards[part.shard] = shard
        return shard.frames[part.first : part.last]

    def set_epoch(self, epoch: int) -> None:
        """Start at the beginning of an epoch."""
        self.epoch = epoch
        self.position = Position()

    def __iter__(self) -> Iterator[Sequence]:
        lane, lanes = Lane.current()
        if self.lane is not None:
            lane = self.lane
        slices = self._share(self.rank * lanes + lane, self.world_size * lanes)
        clips = self._clips(slices, self.position.clips)
        for sequence, after in sequences(clips, self.mode, self.length, self.position):
            self.position = after
            yield sequence
        self.epoch = self.epoch + 1
        self.position = Position()

    def _share(self, consumer: int, consumers: int) -> list[_Slice]:
        """Return the clips of one consumer: equal shares of the epoch's order, few shards in more than one of them."""
        order = np.arange(len(self.shards))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        ends = list(accumulate(self.shards[k].clips for k in order))
        low, high = (self.num_clips * k // consumers for k in (consumer, consumer + 1))
        slices = []
        at = bisect_right(ends, low)
        while low < high:
            start = ends[at] - self.shards[order[at]].clips
            stop = min(high, ends[at])
            slices.append(_Slice(int(order[at]), low - start, stop - start))
            low = stop
            at = at + 1
        return slices

    def _clips(self, slices: list[_Slice], skip: int) -> Iterator[Record]:
        """Yield the clips of `slices` after the first `skip`; `mix` slices are shuffled together."""
        for number in range(0, len(slices), self.mix):
            group = slices[number : number + self.mix]
            size = sum(part.last - part.first for part in group)
            if skip >= size:
                skip -= size
                continue
            records = [record for part in group for record in self._read(part)]
            order = np.arange(size)
            if self.shuffle:
                key = [self.seed, self.epoch, group[0].shard, group[0].first]
                order = np.random.default_rng(key).permutation(order)
            for k in order[skip:]:
                yield records[k]
            skip = 0

    def _read(self, part: _Slice) -> list[Record]:
        shard = self.shards[part.shard]
        records = read_shard(shard.folder, shard.names, shard.format)
        if len(records) != shard.clips:
            raise ValueError(f"{shard.folder / shard.names[0]}: {len(records)} clips, not {shard.clips}: verify it")
        return records[part.first : part.last]

    def state_dict(self) -> dict[str, Any]:
        """Return the place of reading, for `load_state_dict` of a dataset with the same folders and settings."""
        return {"epoch": self.epoch, "position": tuple(self.position), "identity": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the place of `state`. Raises ValueError where clips, seed, ranks or cutting differ."""
        self._check_identity(state["identity"])
        self.epoch = state["epoch"]
        self.position = Position(*state["position"])

    def _identity(self) -> dict[str, Any]:
        fields = ("seed", "shuffle", "mix", "mode", "length", "world_size")
        counts = {"shards": len(self.shards), "clips": self.num_clips}
        return counts | {name: getattr(self, name) for name in fields}

    def _check_identity(self, theirs: dict[str, Any]) -> None:
        ours = self._identity()
        differences = [
            f"{name} {theirs.get(name)}, not {ours[name]}" for name in ours if ours[name] != theirs.get(name)
        ]
        if differences:
            raise ValueError(f"the state is of another dataset: it has {', '.join(differences)}")


def _shards(folders: list[StrPath]) -> list[_Shard]:
    """List the finished shards of all folders, whose models must agree."""
    shards: list[_Shard] = []
    for folder in folders:
        first = read_settings(folders[0])
        settings = read_settings(folder)
        checked_format(settings.format)
        # the shards' format may differ: records are the same
        if differences := first.differences(replace(settings, format=first.format)):
            raise ValueError(f"{folders[0]} and {folder} do not go together: {differences}")
        for entry in read_entries(folder):
            frames = tuple(entry.clip_frames)
            shards.append(_Shard(Path(folder, SHARDS), tuple(entry.files), settings.format, len(entry.keys), frames))
    if not shards:
        raise ValueError(f"{', '.join(map(str, folders)) or 'no folders'}: no finished shards yet")
    return shards
