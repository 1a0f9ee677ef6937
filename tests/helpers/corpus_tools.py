"""What the tests of corpora share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimotok.corpus.formats import Record, read_shard
from mimotok.corpus.ledger import SHARDS, Settings, open_ledger, read_entries, read_settings, write_shard
from tests.helpers.paths import ROOT

MODEL = ROOT / "tests" / "fixtures" / "parity" / "a"
CLIPS = 24
SHARD_HOURS = 1.5 / 3600  # of the clips that last a quarter of a second, about six

FAKE = Settings("fake", "0" * 64, "float32", 24000, 25.0, 3, (64, 32, 32), "webdataset")


class Sounds(NamedTuple):
    """A folder of audio, its manifest, the manifest's rows by key, and the codes [n_q, F] of each clip alone."""

    folder: Path
    manifest: Path
    rows: dict[str, dict[str, Any]]
    codes: dict[str, np.ndarray]


def records_of(out: Path) -> list[Record]:
    """All records of the shards that the ledger knows."""
    kind = read_settings(out).format
    return [record for entry in read_entries(out) for record in read_shard(out / SHARDS, entry.files, kind)]


def assert_complete(out: Path, codes: dict[str, np.ndarray]) -> None:
    """Every clip exactly once, with the codes it has alone, and no file that does not belong there."""
    records = records_of(out)
    assert sorted(record.key for record in records) == sorted(codes)
    for record in records:
        assert record.codes.dtype == np.uint16
        np.testing.assert_array_equal(record.codes, codes[record.key])
    known = {name for entry in read_entries(out) for name in entry.files}
    assert {path.name for path in (out / SHARDS).iterdir()} == known
    assert not list(out.rglob(".mimotok-*"))


def fake_record(key: str, frames: int, n_q: int = 3, seed: int = 0) -> Record:
    codes = np.random.default_rng([seed, frames]).integers(0, 32, (n_q, frames)).astype(np.uint16)
    return Record(key, codes, frames * 960, {"path": f"/nowhere/{key}.wav"}, {"text": key, "extra": {"a": [1, None]}})


def fake_corpus(out: Path, shards: list[list[int]], settings: Settings = FAKE) -> dict[str, np.ndarray]:
    """A folder of shards whose clips have these many frames; returns the codes by key."""
    codes: dict[str, np.ndarray] = {}
    with open_ledger(out, settings) as ledger:
        for number, lengths in enumerate(shards):
            records = [fake_record(f"{number}-{i}", frames, seed=i) for i, frames in enumerate(lengths)]
            codes |= {record.key: record.codes for record in records}
            ledger.add(write_shard(out, number, records, settings), [])
    return codes
