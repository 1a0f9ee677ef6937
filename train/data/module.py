"""The Lightning data module: it turns a manifest of speech into batches for both stages."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from mimotok.corpus.shar import find_shards, is_shar
from mimotok.io.clips.clip import Clip
from train.data.augment import AugmentConfig
from train.data.batches import Batch, BatchDataset, Render, ResumableLoader, TrainDataset, ValidationLoader
from train.data.cache import prepare, read_prepared
from train.data.manifest import check_root, read_manifest, with_phones
from train.data.plan import PlanConfig, PlannedBatch, check_weights, train_plan, whole_plan
from train.data.shar import ShardBatches
from train.data.split import check_settings, choose_held_out

__all__ = ["Batch", "SpeechDataModule"]

log = logging.getLogger(__name__)

AUGMENT = AugmentConfig()
DEFAULT_RATE = 24000
DEFAULT_FRAME_RATE = 25.0


class SpeechDataModule(L.LightningDataModule):
    """Speech for training and validation, from a manifest.

    A training batch holds about `batch_seconds` of audio, padded to one length: whole utterances with their text, and
    crops without text from clips that have none or are too long. Validation is the manifest's "dev" split, what
    `val_fraction` or `val_speakers` hold out, or all of `val_manifest`: whole clips, not augmented, always in the same
    order.

    Args:
        manifest: folder(s) of audio or of a corpus, JSONL or Lhotse CutSet file(s), or Lhotse Shar folder(s); see
            train/README.md.
        root: folder of a manifest's relative audio paths.
        allow_outside: audio may lie elsewhere than below `root` or the manifest's folder.
        val_manifest: the same for validation, instead of the manifest's own dev split.
        val_fraction: share of the seconds to hold out for validation, by speaker, where the data brings no dev split.
        val_speakers: who is held out, instead.
        sample_rate: Hz, the model's; `python -m train` sets it by the model.
        batch_seconds: padded audio in a batch, to the nearest whole number of clips.
        max_seconds: longest whole utterance; 0 crops every clip that is longer than a crop.
        crop_seconds: shortest and longest crop. Clips shorter than their crop come whole.
        min_seconds: shorter training clips are skipped.
        pad_samples: padded lengths are multiples of this many samples, so a compiled model sees few shapes.
        source_weights: how often a source's clips are used per epoch, by glob pattern of the source's name, e.g.
            {"*kerstin*": 2}; the first match counts, and others have 1. None takes a pattern away.
        augment: see `AugmentConfig`; null for none.
        cache_dir: clips are decoded into it once, at first use; null decodes them every time. Shar is streamed without.
        alignments: phone labels that `python -m train align` wrote, for the losses that need them. Not for Shar.
        frame_rate: Hz, of these labels in a batch: the model's.
        num_workers: processes that load batches; 0: the training process itself.
        seed: of order, crops and augmentation.
    """

    def __init__(
        self,
        manifest: str | list[str],
        root: str = ".",
        *,
        val_manifest: str | list[str] | None = None,
        val_fraction: float | None = None,
        val_speakers: list[str] | None = None,
        sample_rate: int = DEFAULT_RATE,
        batch_seconds: float = 24.0,
        max_seconds: float = 12.0,
        crop_seconds: tuple[float, float] = (2.4, 7.2),
        min_seconds: float = 0.5,
        pad_samples: int = 11520,
        source_weights: dict[str, float | None] | None = None,
        augment: AugmentConfig | None = AUGMENT,
        cache_dir: str | None = None,
        alignments: str | None = None,
        frame_rate: float = DEFAULT_FRAME_RATE,
        num_workers: int = 0,
        seed: int = 0,
        allow_outside: bool = False,
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self.root = root
        self.val_manifest = val_manifest
        self.allow_outside = allow_outside
        check_settings(val_fraction, val_speakers)
        self.val_fraction = val_fraction
        self.val_speakers = val_speakers
        self.plan_config = PlanConfig(
            sample_rate=sample_rate,
            batch_seconds=batch_seconds,
            max_seconds=max_seconds,
            crop_seconds=crop_seconds,
            min_seconds=min_seconds,
            pad_samples=pad_samples,
            source_weights=_given(source_weights),
        )
        self.augment = augment
        self.cache_dir = cache_dir
        self.num_workers = num_workers
        self.seed = seed
        self.alignments = alignments
        self.frame_rate = None if alignments is None else frame_rate
        if alignments is not None and _is_shar(manifest):
            raise ValueError(f"alignments={alignments}: a Shar folder takes none; train from a manifest, or set null")
        if self._holds_out and _is_shar(manifest):
            raise ValueError("val_fraction and val_speakers: a Shar folder is streamed; give val_manifest instead")
        if self._holds_out and val_manifest is not None:
            raise ValueError(f"val_manifest={val_manifest}: give it, or one of val_fraction and val_speakers")
        self.train_clips: list[Clip] = []
        self.val_clips: list[Clip] = []
        # as the manifest has them: they can be read without the cache
        self.held_out: list[Clip] = []
        self.skipped: dict[str, str] = {}

    @property
    def sample_rate(self) -> int:
        """Hz, of the sound in batches."""
        return self.plan_config.sample_rate

    def follow(self, sample_rate: int, frame_rate: float) -> None:
        """Take the rates of a model, in Hz, where others than the defaults have not been asked for."""
        if self.plan_config.sample_rate == DEFAULT_RATE:
            self.plan_config = replace(self.plan_config, sample_rate=sample_rate)
        if self.frame_rate == DEFAULT_FRAME_RATE:
            self.frame_rate = frame_rate

    @property
    def _holds_out(self) -> bool:
        return self.val_fraction is not None or self.val_speakers is not None

    def prepare_data(self) -> None:
        """Decode the corpus into `cache_dir`, where that has not been done."""
        if self.cache_dir is None:
            return
        if not _is_shar(self.manifest):
            self._prepare(self.manifest, self.cache_dir)
        if self.val_manifest is not None:
            self._prepare(self.val_manifest, self.cache_dir)

    def _prepare(self, manifest: str | list[str], cache_dir: str) -> Path:
        rate = self.plan_config.sample_rate
        workers = max(1, self.num_workers)
        return prepare(
            manifest,
            self.root,
            cache_dir,
            sample_rate=rate,
            workers=workers,
            allow_outside=self.allow_outside,
        )

    def _read(self, manifest: str | list[str]) -> tuple[list[Clip], dict[str, str]]:
        if self.cache_dir is None:
            clips = read_manifest(manifest, self.root, allow_outside=self.allow_outside)
            check_root(clips, self.root)
            return clips, {}
        return read_prepared(self._prepare(manifest, self.cache_dir))

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Read the clips. Every rank does, after `prepare_data` has filled the cache on one of them."""
        if self.train_clips or self.val_clips:
            return
        clips: list[Clip] = []
        if not _is_shar(self.manifest):
            clips, self.skipped = self._read(self.manifest)
        if self._holds_out:
            clips = self._hold_out(clips)
        self.train_clips = [clip for clip in clips if clip.split == "train"]
        self.val_clips = [clip for clip in clips if clip.split == "dev"]
        if self.val_manifest is not None:
            self.val_clips, skipped = self._read(self.val_manifest)
            self.skipped |= skipped
        if self.alignments is not None:
            clips = with_phones(self.train_clips + self.val_clips, self.alignments, self.root)
            count = len(self.train_clips)
            self.train_clips = clips[:count]
            self.val_clips = clips[count:]
        for clip in self.train_clips:
            if clip.problem is not None:
                self.skipped[clip.id] = clip.problem
            elif clip.duration < self.plan_config.min_seconds:
                self.skipped[clip.id] = f"short: {clip.duration:.2f} s"

    def _hold_out(self, clips: list[Clip]) -> list[Clip]:
        # by what the manifest says, whether it is decoded already and whatever can be read today
        listed = read_manifest(self.manifest, self.root, allow_outside=self.allow_outside)
        held_out = choose_held_out(listed, fraction=self.val_fraction, speakers=self.val_speakers, seed=self.seed)
        rank_zero_info(held_out.message)
        self.held_out = [clip for clip in listed if held_out.has(clip)]
        return held_out.mark(clips)

    def train_dataloader(self) -> ResumableLoader:
        """Return this rank's endless training batches; `len` is an epoch's, equal on all ranks."""
        self.setup()
        rank, world_size = self._ranks()
        dataset_of = self._shards if _is_shar(self.manifest) else self._clips
        dataset = dataset_of(rank, world_size)
        log.info("train: %d batches an epoch on each of %d ranks", dataset.epoch_batches, world_size)
        return ResumableLoader(
            dataset,
            num_workers=self.num_workers,
            skipped=self.skipped if rank == 0 else {},
            digest=self._digest(),
        )

    def _clips(self, rank: int, world_size: int) -> TrainDataset:
        check_weights(self.train_clips, self.plan_config.source_weights)
        return BatchDataset(
            self.train_clips,
            partial(_epoch_plan, self.train_clips, self.plan_config, self.augment, self.seed),
            Render(self.plan_config.sample_rate, self.augment, self.frame_rate),
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def _shards(self, rank: int, world_size: int) -> TrainDataset:
        shards = find_shards(self.manifest)
        return ShardBatches(shards, self.plan_config, self.augment, seed=self.seed, rank=rank, world_size=world_size)

    def val_dataloader(self) -> ValidationLoader | list[ValidationLoader]:
        """Return whole dev clips; among several ranks the first batches repeat, so that all have equally many."""
        self.setup()
        if not self.val_clips:
            return []
        rank, world_size = self._ranks()
        batches = whole_plan(self.val_clips, self.plan_config)
        batches += batches[: -len(batches) % world_size]
        render = Render(self.plan_config.sample_rate, None, self.frame_rate)
        return ValidationLoader(
            BatchDataset(self.val_clips, lambda _: batches, render, seed=self.seed, rank=rank, world_size=world_size)
        )

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _digest(self) -> str:
        clips = [(clip.id, clip.duration, clip.text, clip.source) for clip in self.train_clips]
        streams: list[Any] = []
        if _is_shar(self.manifest):
            # only Shar's order depends on the workers
            streams = [(Path(s.cuts).name, s.source) for s in find_shards(self.manifest)] + [self.num_workers]
        what = (self.seed, self.plan_config, self.augment, clips, streams)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _given(weights: dict[str, float | None] | None) -> dict[str, float] | None:
    """Return the weights without those that a later config took away with null."""
    if weights is None:
        return None
    return {pattern: weight for pattern, weight in weights.items() if weight is not None}


def _is_shar(manifest: str | list[str]) -> bool:
    """Return whether a manifest is streamed: Shar folders alone. Among other kinds they are read as these are."""
    if isinstance(manifest, str):
        return is_shar(manifest)
    return bool(manifest) and all(map(is_shar, manifest))


def _epoch_plan(
    clips: list[Clip], config: PlanConfig, augment: AugmentConfig | None, seed: int, epoch: int
) -> list[PlannedBatch]:
    return train_plan(clips, config, augment, (seed, epoch))
