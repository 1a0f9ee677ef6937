"""What codes say about their model is true of the weights in memory at the time when they were made."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mimotok import Tokenizer, encode_file, save_audio
from mimotok.corpus.run import settings_of
from mimotok.io.codes.mimo_stream import read_header
from mimotok.io.codes_file import load_codes
from mimotok.streaming.pipes import encode_pipe
from mimotok.weights import WEIGHTS_NAME
from tests.io.sound.test_wav_stream import wav

Model = Callable[..., Tokenizer]


@pytest.fixture
def folder(streamable: Model, tmp_path: Path) -> Path:
    """A checkpoint of half precision, as ours are."""
    streamable().save_pretrained(tmp_path / "model", dtype=torch.float16)
    return tmp_path / "model"


def digest_of(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest()


def recorded(tokenizer: Tokenizer, folder: Path) -> tuple[str, str]:
    """The model's name and digest, as codes files, streams and corpora record them."""
    save_audio(folder / "a.wav", torch.zeros(1, 2000), tokenizer.sample_rate)
    encode_file(tokenizer, folder / "a.wav", folder / "a.npz", overwrite=True)
    codes_file = load_codes(folder / "a.npz")
    stream = io.BytesIO()
    encode_pipe(tokenizer, io.BytesIO(wav(np.zeros(2000))), stream)
    stream.seek(0)
    header = read_header(stream)
    corpus = settings_of(tokenizer, None, "webdataset")
    answers = {
        (codes_file.model_name, codes_file.model_sha256),
        (corpus.model, corpus.sha256),
    }
    assert len(answers) == 1
    # a stream has room for the digest's beginning only
    assert codes_file.is_of(corpus.sha256)
    assert corpus.sha256.startswith(header.model_sha256)
    return answers.pop()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_as_they_were_loaded_are_those_of_the_file(folder: Path, dtype: torch.dtype) -> None:
    tokenizer = Tokenizer.from_pretrained(folder, dtype=dtype)
    for same in (tokenizer, copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer)), tokenizer.float()):
        if dtype == torch.float32 or same is not tokenizer:
            assert same.identity == ("model", digest_of(folder))
    assert Tokenizer.from_pretrained(folder).half().identity == ("model", digest_of(folder))


def test_a_relative_folder_is_known_from_another_working_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer.from_pretrained("model")
    other = tmp_path / "other"
    (other / "model").mkdir(parents=True)
    (other / "model" / WEIGHTS_NAME).write_bytes(b"of another model")
    os.chdir(other)
    assert recorded(tokenizer, tmp_path) == ("model", digest_of(folder))


def in_place(tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        tokenizer.encoder.conv1.weight[0, 0, 0] += 1e-3


def behind_its_back(tokenizer: Tokenizer) -> None:
    tokenizer.decoder.layer_norm.weight.data[3] *= 1.01


def swapped_entries(tokenizer: Tokenizer) -> None:
    book = tokenizer.encoder.quantizer.codebooks()[0].embed
    book.copy_(book.flip(0))


def another_state(tokenizer: Tokenizer) -> None:
    tokenizer.load_state_dict({name: 0.9 * value for name, value in tokenizer.state_dict().items()})


class Adapted(nn.Module):
    """A low-rank adapter whose matrices are not even registered."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = torch.ones(1, base.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T


def adapted(tokenizer: Tokenizer) -> None:
    layer = tokenizer.decoder.vocoder.layers[0]
    assert isinstance(layer.fc1, nn.Linear)
    layer.fc1 = Adapted(layer.fc1)


CHANGES = [in_place, behind_its_back, swapped_entries, another_state, adapted]


@pytest.mark.slow
@pytest.mark.parametrize("asked_before", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_changed_after_loading_are_no_longer_those_of_the_file(
    folder: Path, tmp_path: Path, change: Callable[[Tokenizer], None], asked_before: bool
) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    before = copy.deepcopy(tokenizer.state_dict())
    if asked_before:
        assert recorded(tokenizer, tmp_path) == ("model", digest_of(folder))
    change(tokenizer)
    name, sha256 = recorded(tokenizer, tmp_path)
    assert name == "model (changed)"
    assert sha256 != digest_of(folder)
    again = Tokenizer.from_pretrained(folder)
    change(again)
    assert again.weights_sha256 == sha256
    if change is not adapted:
        tokenizer.load_state_dict(before)
        assert recorded(tokenizer, tmp_path) == ("model", digest_of(folder))


def test_two_adapters_are_two_models(folder: Path) -> None:
    one, other = (Tokenizer.from_pretrained(folder) for _ in range(2))
    for tokenizer in (one, other):
        adapted(tokenizer)
    other.decoder.vocoder.layers[0].fc1.a *= 2
    assert one.weights_sha256 != other.weights_sha256


def test_another_file_in_the_place_of_the_loaded_one_is_not_named(
    folder: Path, streamable: Model, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    known = Tokenizer.from_pretrained(folder)
    was = digest_of(folder)
    assert known.weights_sha256 == was
    other = streamable()
    in_place(other)
    other.save_pretrained(folder)
    assert recorded(tokenizer, tmp_path)[0] == "model (changed)"
    assert digest_of(folder) != tokenizer.weights_sha256 != was
    assert recorded(known, tmp_path) == ("model", was)  # its weights are still what that file held


def test_a_model_whose_folder_is_gone_keeps_what_is_known_of_it(folder: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    known = tokenizer.identity
    (folder / WEIGHTS_NAME).unlink()
    moved = pickle.loads(pickle.dumps(tokenizer))  # as to a worker on another machine
    assert moved.identity == known
    in_place(moved)
    assert moved.identity != known


@pytest.mark.slow
def test_compiled_parts_are_the_same_model(folder: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.encoder = torch.compile(tokenizer.encoder)  # type: ignore[assignment]
    assert tokenizer.identity == ("model", digest_of(folder))


def test_threads_that_ask_at_once_are_told_the_same(folder: Path) -> None:
    for _ in range(5):
        tokenizer = Tokenizer.from_pretrained(folder)
        together = Barrier(6)

        def ask(_: int, tokenizer: Tokenizer = tokenizer, together: Barrier = together) -> tuple[str, str]:
            together.wait()
            return tokenizer.identity

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(ask, range(6))) == {("model", digest_of(folder))}
