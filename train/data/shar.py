"""Lhotse Shar folders, for corpora too large for a cache, read shard by shard.

Each shard is planned by itself, as a small corpus, from its cuts' metadata. Shards are distributed to ranks and workers
in an order drawn anew each epoch. Shuffle the cuts when exporting: a batch mixes the clips of one shard only.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mimotok.corpus.cuts import make_cut, with_memory
from mimotok.io.files import open_regular
from mimotok.io.terminal import excerpt
from train.data.augment import AugmentConfig
from train.data.batches import Loaded, Render
from train.data.manifest import Clip, cut_clip, read_cuts
from train.data.plan import PlanConfig, PlannedBatch, train_plan


class Shard(NamedTuple):
    """One `cuts` file, the `recording` file with its audio, and the source's name, which is the folder's."""

    cuts: str
    recording: str
    source: str

    @property
    def folder(self) -> str:
        """The folder of both files."""
        return str(Path(self.cuts).parent)


def find_shards(folders: str | list[str]) -> list[Shard]:
    """List all shards of Shar folders, by name. Raises ValueError where cuts and recordings do not pair."""
    shards: list[Shard] = []
    if isinstance(folders, str):
        folders = [folders]
    for folder in folders:
        cuts, recordings = (sorted(map(str, Path(folder).glob(f"{field}.*"))) for field in ("cuts", "recording"))
        if not cuts or len(cuts) != len(recordings):
            found = f"{len(cuts)} cuts files and {len(recordings)} recording files"
            raise ValueError(f"{folder}: {found}; a Shar folder has as many (`lhotse shar export --audio flac`)")
        shards += [Shard(*pair, Path(folder).name) for pair in zip(cuts, recordings, strict=True)]
    return shards


class ShardBatches(IterableDataset[Loaded]):
    """The batches of all shards, without end, starting at any batch.

    Batch i of rank r is a pure function of (seed, i, r, world size, num_workers). Starting at a later batch reads the
    metadata of the shards before it in this worker's share, and no audio.
    """

    def __init__(
        self,
        shards: list[Shard],
        config: PlanConfig,
        augment: AugmentConfig | None,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards = shards
        self.config = config
        self.augment = augment
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.first = 0
        self.lanes = 1
        # an estimate: only the first shard's batches are counted
        self.epoch_batches = max(1, len(self._plan(0, 0)[1]) * len(shards) // world_size)

    def loader(self, first: int, num_workers: int) -> DataLoader[Loaded]:
        """Return this rank's batches from number `first` on."""
        self.first = first
        self.lanes = max(1, num_workers)
        pin = torch.cuda.is_available()
        return DataLoader(self, batch_size=None, num_workers=num_workers, pin_memory=pin)

    def __iter__(self) -> Iterator[Loaded]:
        worker = get_worker_info()
        # the DataLoader asks its workers in turn, so batch i belongs to lane i % lanes, whichever worker has it
        lane = (self.first + (worker.id if worker else 0)) % self.lanes
        done = self.first // self.lanes + (lane < self.first % self.lanes)
        for ordinal in count(self.rank * self.lanes + lane, self.world_size * self.lanes):
            epoch, turn = divmod(ordinal, len(self.shards))
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
            number = int(order[turn])
            try:
                clips, planned = self._plan(epoch, number)
            except Exception as error:  # a shard that cannot be read must not stop a run
                clips = []
                planned = []
                bad = Loaded(None, {self.shards[number].cuts: f"corrupt: {type(error).__name__}: {error}"})
            else:
                bad = Loaded(None, {})
            # a shard without batches still takes one turn, so that numbers mean the same on every start
            if done < max(1, len(planned)):
                yield from self._render(epoch, number, clips, planned, done) if planned else [bad]
            done = max(0, done - max(1, len(planned)))

    def _plan(self, epoch: int, number: int) -> tuple[list[Clip], list[PlannedBatch]]:
        shard = self.shards[number]
        clips = [cut_clip(cut, shard.source) for cut in read_cuts(shard.cuts, partial(make_cut, root=shard.folder))]
        return clips, train_plan(clips, self.config, self.augment, (self.seed, epoch, number))

    def _render(
        self, epoch: int, number: int, clips: list[Clip], planned: list[PlannedBatch], first: int
    ) -> Iterator[Loaded]:
        cuts, problem = _with_audio(self.shards[number])
        clips = [replace(clip, cut=cuts.get(clip.id)) for clip in clips]
        render = Render(self.config.sample_rate, self.augment)
        for k in range(first, len(planned)):
            batch, skipped = render.batch(clips, planned[k], (self.seed, epoch, number, k))
            yield Loaded(batch, skipped | problem)


def _with_audio(shard: Shard) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a shard's cuts by id with their encoded audio in memory, and what is wrong with the shard."""
    cuts: dict[str, Any] = {}
    try:
        for cut in shar_cuts(shard):
            cuts[cut.id] = cut
    except Exception as error:  # a truncated tar still gives the clips before the break
        return cuts, {shard.recording: f"corrupt: {type(error).__name__}: {error}"}
    return cuts, {}


def shar_cuts(shard: Shard) -> Iterator[Any]:
    """Yield a shard's cuts that have audio, with it. Raises ValueError where cuts and recordings do not match."""
    recordings = _recordings(shard.recording)

    def with_audio(row: dict[str, Any]) -> Any:
        name, recording, data = next(recordings)
        if name != str(row.get("id")):
            raise ValueError(f"cut {excerpt(row.get('id'))}: the recording at its place in {shard.recording} is {name}")
        return None if recording is None else with_memory(row, recording, data, shard.folder)

    yield from (cut for cut in read_cuts(shard.cuts, with_audio) if cut is not None)


def _recordings(path: str) -> Iterator[tuple[str, dict[str, Any] | None, bytes]]:
    """Yield names, metadata (None where a cut has no recording) and encoded sounds, which lie in pairs in the tar."""
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        members = iter(tar)
        for first in members:
            second = next(members, None)
            if second is None:
                raise ValueError(f"{path}: {first.name} has no metadata behind it")
            name = str(Path(first.name).with_suffix(""))
            data, about = (_content(tar, member, path) for member in (first, second))
            if second.name.endswith(".nometa"):
                yield name, None, b""
                continue
            recording = json.loads(about)
            if not isinstance(recording, dict):
                raise ValueError(f"{path}: {second.name} is not a recording")
            yield name, recording, data


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bytes:
    # a sparse one is as large as it says, whatever the file's size
    if not member.isreg() or member.issparse():
        raise ValueError(f"{path}: {member.name} is not a regular file")
    file = tar.extractfile(member)
    return b"" if file is None else file.read()
