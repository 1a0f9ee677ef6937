"""Sounds to codes through `datasets.map`: each what it gives alone, computed once, known again in another process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimotok import Tokenizer, load_audio
from mimotok.corpus import BatchEncoder
from mimotok.io.audio import resample
from tests.helpers.models import STREAMABLE, make_tokenizer
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

RATES = (24000, 16000, 24000)


def sounds() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"array": rng.uniform(-0.5, 0.5, 900 * (2 + number)).astype(np.float32), "sampling_rate": rate}
        for number, rate in enumerate(RATES)
    ]


def codes_of(tokenizer: Tokenizer, sound: dict[str, Any]) -> np.ndarray:
    wav = resample(sound["array"], sound["sampling_rate"], tokenizer.sample_rate)
    return tokenizer.encode(torch.from_numpy(wav)[None])[0].numpy()


def test_a_batch_gives_what_each_sound_alone_does(tmp_path: Path) -> None:
    original = make_tokenizer(STREAMABLE)
    original.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    for tokenizer in (original, loaded):
        encoder = BatchEncoder(tokenizer, audio="sound", codes="tokens")
        for each in (encoder, pickle.loads(pickle.dumps(encoder))):
            batch = each({"sound": sounds()})
            for codes, sound in zip(batch["tokens"], sounds(), strict=True):
                np.testing.assert_array_equal(codes, codes_of(tokenizer, sound))
    kept = pickle.dumps(BatchEncoder(loaded))
    make_tokenizer(STREAMABLE, seed=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="other weights"):
        pickle.loads(kept)


@pytest.mark.parametrize("wrong", [3.0, {"array": [0.1]}, {"array": [], "sampling_rate": 8000}, {"path": "a.wav"}])
def test_errors_name_the_place(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"audio\[1\]"):
        BatchEncoder(make_tokenizer(STREAMABLE))({"audio": [sounds()[0], wrong]})


SCRIPT = """
import sys, mimotok
from datasets import Dataset
from datasets.fingerprint import Hasher
from mimotok.corpus import BatchEncoder
encoder = BatchEncoder(mimotok.Tokenizer.from_pretrained(sys.argv[1]))
encoder.tokenizer.encode(__import__("torch").zeros(1, 2000))
print(Hasher.hash(encoder), Hasher.hash(lambda batch: mimotok.load_audio), Hasher.hash(mimotok.load_audio))
"""


def test_datasets_map_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs: pip install datasets, which no extra holds")
    from datasets.fingerprint import Hasher

    make_tokenizer(STREAMABLE).save_pretrained(tmp_path / "model")
    encoder = BatchEncoder(Tokenizer.from_pretrained(tmp_path / "model"))
    table = datasets.Dataset.from_dict({"audio": sounds(), "name": ["a", "b", "c"]})
    table.save_to_disk(str(tmp_path / "table"))

    def mapped() -> Any:
        return datasets.load_from_disk(str(tmp_path / "table")).map(encoder, batched=True, batch_size=2)

    first = mapped()
    for row, sound in zip(first, sounds(), strict=True):
        np.testing.assert_array_equal(np.array(row["codes"]), codes_of(encoder.tokenizer, sound))
    monkeypatch.setattr(BatchEncoder, "__call__", lambda *_: pytest.fail("computed again"))
    assert mapped()["codes"] == first["codes"]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "model")]
    hashes = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert hashes[::2] == [Hasher.hash(encoder), Hasher.hash(load_audio)]
    assert Hasher.hash(BatchEncoder(encoder.tokenizer, n_q=1)) != Hasher.hash(encoder)
