"""Plans, formats, and the check of a folder of tokens."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mimotok.cli.main import app
from mimotok.corpus import tokenize_corpus, verify_corpus
from mimotok.corpus.formats import FORMATS
from mimotok.corpus.ledger import FAILED, LEDGER, SHARDS, Ledger, open_ledger, read_entries
from mimotok.corpus.plan import EVENNESS, split_batches, split_shards
from tests.helpers.corpus_tools import CLIPS, FAKE, MODEL, SHARD_HOURS, fake_corpus, fake_record

lengths_of_clips = st.lists(st.floats(0.01, 100), max_size=50)


@given(lengths=lengths_of_clips, budget=st.floats(1, 300))
def test_batches_hold_every_clip_once_and_no_more_than_their_budget(lengths: list[float], budget: float) -> None:
    batches = split_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest, shortest = max(lengths[i] for i in batch), min(lengths[i] for i in batch)
        assert len(batch) == 1 or (len(batch) * longest <= budget and shortest >= EVENNESS * longest)


@pytest.mark.slow
@given(lengths=lengths_of_clips, size=st.floats(0.1, 300))
def test_shards_are_runs_of_clips_in_order(lengths: list[float], size: float) -> None:
    shards = split_shards(lengths, size)
    assert [i for shard in shards for i in shard] == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in shard) >= size for shard in shards[:-1])
    assert all(sum(lengths[i] for i in shard[:-1]) < size for shard in shards)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@settings(deadline=None, max_examples=15)
@given(
    frames=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    n_q=st.integers(1, 5),
    texts=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.text(max_size=8), max_size=3),
)
def test_shards_round_trip(format: str, frames: list[int], n_q: int, texts: dict[str, str]) -> None:
    if format == "shar":
        pytest.importorskip("lhotse")
    records = [
        replace(fake_record(f"deep/ä {i}.x.wav", count, n_q), metadata=texts | {"speaker": i, "text": None} | texts)
        for i, count in enumerate(frames)
    ]
    files = FORMATS[format].files("000003", records, 25.0)
    assert all("000003" in name for name in files)
    back = FORMATS[format].records(files)
    for record, again in zip(records, back, strict=True):
        np.testing.assert_array_equal(again.codes, record.codes)
        assert again.codes.dtype == np.uint16
        for name in ("key", "num_samples", "audio", "metadata"):
            assert getattr(again, name) == getattr(record, name)


def test_parquet_is_read_by_anyone(out: Path) -> None:
    import pyarrow.parquet

    codes = fake_corpus(out, [[5, 7]], replace(FAKE, format="parquet"))
    rows = pyarrow.parquet.read_table(out / SHARDS).to_pylist()
    assert [row["text"] for row in rows] == list(codes)
    for row in rows:
        np.testing.assert_array_equal(np.array(row["codes"]), codes[row["key"]])


@pytest.fixture
def done(sounds, tokenizer, tmp_path: Path) -> Path:
    """A folder of tokens whose audio lies in tmp_path/audio."""
    shutil.copytree(sounds.folder, tmp_path / "audio")
    out = tmp_path / "tokens"
    tokenize_corpus(str(tmp_path / "audio"), out, tokenizer, workers=0, shard_hours=SHARD_HOURS)
    return out


@pytest.mark.slow
def test_verify_finds_nothing_wrong_where_nothing_is(done: Path, tokenizer) -> None:
    found = verify_corpus(done, tokenizer, sample=CLIPS)
    assert (found.problems, found.clips, found.encoded, found.absent) == ([], CLIPS, CLIPS, 0)
    assert found.shards == len(read_entries(done)) > 2


def test_verify_finds_a_damaged_and_a_missing_shard(done: Path, tokenizer) -> None:
    first, second, *_ = sorted((done / SHARDS).iterdir())
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    second.unlink()
    (done / SHARDS / "stray.parquet").touch()
    problems = verify_corpus(done, tokenizer, sample=0).problems
    assert len(problems) == 3
    for name, message in (
        (first.name, "SHA-256"),
        (second.name, "cannot be read"),
        ("stray.parquet", "not in the ledger"),
    ):
        assert any(name in problem and message in problem for problem in problems)


@pytest.mark.slow
def test_verify_hears_that_the_sound_has_changed_and_that_it_is_gone(done: Path, tokenizer) -> None:
    changed, gone, *_ = sorted((done.parent / "audio").rglob("*.wav"))
    soundfile.write(changed, np.random.default_rng(9).uniform(-1, 1, soundfile.info(changed).frames), 24000)
    gone.unlink()
    found = verify_corpus(done, tokenizer, sample=CLIPS)
    assert (found.encoded, found.absent) == (CLIPS - 1, 1)
    (problem,) = found.problems
    assert changed.name in problem
    assert "other codes" in problem


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_verify_sees_codes_that_cannot_be_and_clips_that_are_there_twice(out: Path, format: str) -> None:
    fake_corpus(out, [[4], [5]], replace(FAKE, codebook_sizes=(8, 8, 8), format=format))
    with (out / LEDGER).open("a") as ledger:
        ledger.write(json.dumps({**json.loads((out / LEDGER).read_text().splitlines()[0]), "number": 2}) + "\n")
    (out / FAILED).write_text(json.dumps({"key": "1-0", "audio": "x", "reason": "y"}) + "\n")
    problems = " ".join(verify_corpus(out).problems)
    assert "codes beyond their codebooks" in problems
    assert "0-0: occurs 2 times" in problems
    assert "1-0: encoded, and listed as failed" in problems


def test_verify_refuses_other_weights(done: Path, tiny) -> None:
    with pytest.raises(ValueError, match="sha256"):
        verify_corpus(done, tiny())


def test_one_run_at_a_time(out: Path) -> None:
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    fake_corpus(out, [[3]])
    held = subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdout.readline()
        with pytest.raises(ValueError, match="another run is at work"), open_ledger(out, FAKE):
            pass
    finally:
        held.communicate(b"\n")
    with open_ledger(out, FAKE) as ledger:
        assert isinstance(ledger, Ledger)


def run_command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["tokenize", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_the_command_line(sounds, tmp_path: Path) -> None:
    model = ["--model", MODEL, "--workers", 0]
    code, printed, _ = run_command(sounds.manifest, tmp_path / "t", "--root", sounds.folder, "--n-q", 2, *model)
    assert code == 0
    assert printed.startswith(f"{CLIPS} clips, ")
    code, printed, _ = run_command("--verify", tmp_path / "t", "--model", MODEL)
    assert code == 0
    assert printed == f"{CLIPS} clips in 1 shards; 20 encoded again\n"
    shard = next((tmp_path / "t" / SHARDS).iterdir())
    shard.write_bytes(shard.read_bytes()[:-9])
    code, _, complaint = run_command("--verify", tmp_path / "t", "--model", MODEL)
    assert code == 2
    assert shard.name in complaint


@pytest.mark.slow
def test_user_errors_of_the_command_line(sounds, tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_text("no sound")
    nothing, out = tmp_path / "nothing", tmp_path / "t"
    for arguments, message in (
        ([sounds.manifest], "give INPUT and OUT"),
        ([sounds.manifest, out, "--verify"], "give INPUT and OUT"),
        (["--verify", nothing], "no folder of tokens"),
        ([nothing, out], "no such file or folder"),
        ([sounds.manifest, out, "--format", "zip"], "format=zip"),
        ([sounds.manifest, out, "--n-q", 99], "n_q=99"),
        ([MODEL / "model.safetensors", out], "not a folder"),
        ([tmp_path / "sounds", tmp_path / "u"], "no clip could be read"),
    ):
        workers = [] if arguments[0] == "--verify" else ["--workers", 0]
        code, _, complaint = run_command(*arguments, "--model", MODEL, *workers)
        assert code == 2, arguments
        assert message in complaint
        assert complaint.startswith("mimotok: ")
        assert complaint.count("\n") == 1
