"""The same job on Ray: two actors on this machine, one of which is killed at work."""

from __future__ import annotations

import os
import signal

import pytest

from mimotok.corpus import tokenize_corpus, verify_corpus
from mimotok.corpus.run import Progress
from tests.helpers.corpus_tools import SHARD_HOURS, assert_complete

ray = pytest.importorskip("ray", reason="needs: pip install 'mimotok[ray]'")
psutil = pytest.importorskip("psutil", reason="finds Ray's actors")


def actors() -> list[int]:
    """Processes of this test's actors, by the names that Ray gives them."""
    mine = psutil.Process().children(recursive=True)
    return [process.pid for process in mine if process.name().startswith("ray::_Encod")]


def test_an_actor_is_killed_and_no_clip_is_lost_or_there_twice(
    sounds, tokenizer, out, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray runs its workers at the lowest priority, where they starve on a machine that is busy with other tests
    monkeypatch.setenv("RAY_worker_niceness", "0")
    killed: list[int] = []

    def progress(now: Progress) -> None:
        found = actors()
        if not killed and now.clips and found:
            killed.append(found[-1])
            os.kill(found[-1], signal.SIGKILL)

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    try:
        done = tokenize_corpus(
            str(sounds.manifest),
            out,
            tokenizer,
            root=str(sounds.folder),
            workers=0,
            shard_hours=SHARD_HOURS / 2,
            ray="local",
            progress=progress,
        )
    finally:
        ray.shutdown()
    assert killed
    assert done.shards >= 4
    assert_complete(out, sounds.codes)
    assert verify_corpus(out, tokenizer, sample=3).problems == []
