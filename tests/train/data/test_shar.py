"""Lhotse Shar: streamed shards with the same guarantees as a manifest."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimotok.corpus.shar import find_shards
from tests.helpers.speech_corpus import assert_equal, take
from train.data.augment import AugmentConfig
from train.data.batches import ResumableLoader
from train.data.plan import PlanConfig
from train.data.shar import ShardBatches

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shar(cuts, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shar")
    cuts.to_shar(folder, fields={"recording": "wav"}, shard_size=8)
    return str(folder)


PLAN = PlanConfig(batch_seconds=6.0, max_seconds=4.0, crop_seconds=(1.0, 2.0))


def shard_loader(shar: str, workers: int = 0, **ranks: int) -> ResumableLoader:
    batches = ShardBatches(find_shards(shar), PLAN, AugmentConfig(), seed=0, **ranks)
    return ResumableLoader(batches, num_workers=workers, skipped={}, digest="")


@pytest.mark.parametrize("workers", [0, 2])
def test_shar_resumes_bit_identically(shar: str, workers: int) -> None:
    whole = take(shard_loader(shar, workers), 45)
    assert_equal(whole, take(shard_loader(shar, workers), 45))
    for first in (0, 7, 30):
        loader = shard_loader(shar, workers)
        loader.load_state_dict({"epoch": 0, "batch": 0, "digest": ""})
        loader.position = first
        assert_equal(take(loader, 45 - first), whole[first:])


def test_shar_gives_every_clip_to_one_rank_with_its_text(shar: str, cuts) -> None:
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    shards = len(find_shards(shar))
    names: list[set[str]] = []
    for rank in range(2):
        dataset: Any = shard_loader(shar, rank=rank, world_size=2).dataset
        turns = [dataset._plan(0, int(k)) for k in np.random.default_rng([0, 0]).permutation(shards)[rank::2]]
        batches = take(shard_loader(shar, rank=rank, world_size=2), sum(len(planned) for _, planned in turns))
        names.append({name for batch in batches for name in batch.ids})
        pairs = [pair for batch in batches for pair in zip(batch.ids, batch.text, strict=True)]
        assert all(text in (None, texts[name]) for name, text in pairs)
        assert any(text for _, text in pairs)
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) >= 30


def test_a_damaged_first_shard_changes_no_number(shar: str, tmp_path: Path) -> None:
    for path in Path(shar).iterdir():
        (tmp_path / path.name).write_bytes(b"" if path.name == "cuts.000000.jsonl.gz" else path.read_bytes())
    assert len(shard_loader(str(tmp_path))) >= len(find_shards(shar))
    assert len(take(shard_loader(str(tmp_path)), 20)) == 20


def test_a_damaged_shard_is_named_and_the_others_are_heard(
    shar: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in Path(shar).iterdir():
        data = path.read_bytes()
        damaged = path.name in ("recording.000001.tar", "cuts.000002.jsonl.gz")
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if damaged else data)
    loader = shard_loader(str(tmp_path))
    with caplog.at_level(logging.WARNING, "train"):
        batches = take(loader, 2 * len(loader))
    assert "recording.000001.tar (corrupt" in caplog.text
    assert "cuts.000002.jsonl.gz (corrupt" in caplog.text
    assert len({name for batch in batches for name in batch.ids}) >= 16


def test_the_data_module_streams_shar_and_validates_on_a_manifest(shar: str, corpus: Path, module) -> None:
    data = module(manifest=shar, val_manifest=str(corpus / "manifest.jsonl"))
    data.prepare_data()
    assert next(data.train_dataloader()).wav.any()
    assert next(iter(data.val_dataloader())).wav.any()
    (Path(shar).parent / "empty").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="0 cuts files and 0 recording files"):
        find_shards(str(Path(shar).parent / "empty"))
