"""Batches out of Lhotse Shar folders, for corpora too large for a cache, read shard by shard.

Each shard is planned by itself, as a small corpus, from its cuts' metadata. Shards are distributed to ranks and workers
in an order drawn anew each epoch. Shuffle the cuts when exporting: a batch mixes the clips of one shard only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mimotok.corpus.cuts import make_cut
from mimotok.corpus.recordings import clip_of_cut
from mimotok.corpus.shar import Shard, read_cuts, shar_cuts
from mimotok.io.clips.clip import Clip
from mimotok.io.terminal.workers import end_with_parent
from train.data.augment import AugmentConfig
from train.data.batches import Loaded, Render
from train.data.manifest import for_training
from train.data.plan import PlanConfig, PlannedBatch, train_plan


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
        # an estimate: only the batches of the first shard that has any are counted
        counts = (self._count(number) for number in range(len(shards)))
        self.epoch_batches = max(1, next(filter(None, counts), 0) * len(shards) // world_size)

    def loader(self, first: int, num_workers: int) -> DataLoader[Loaded]:
        """Return this rank's batches from number `first` on."""
        self.first = first
        self.lanes = max(1, num_workers)
        pin = torch.cuda.is_available()
        return DataLoader(
            self, batch_size=None, num_workers=num_workers, pin_memory=pin, worker_init_fn=end_with_parent
        )

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

    def _count(self, number: int) -> int:
        try:
            return len(self._plan(0, number)[1])
        except Exception:  # its turn will come to be skipped, with the reason
            return 0

    def _plan(self, epoch: int, number: int) -> tuple[list[Clip], list[PlannedBatch]]:
        shard = self.shards[number]
        cuts = read_cuts(shard.cuts, partial(make_cut, root=shard.folder))
        clips = [for_training(clip_of_cut(cut), shard.source) for cut in cuts]
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
