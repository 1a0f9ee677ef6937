"""Anyone's codec: the example of docs/evaluate.md is measured; a class that is no codec and a bad clip are reported."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.codecs.base import CodecSpec
from eval.codecs.registry import expand_specs, make_codec
from eval.metrics.base import MetricSpec
from eval.report.summary import results_of
from eval.run.runner import Settings, evaluate
from eval.testlists import read_test_list
from tests.helpers.evaluation_speech import no_progress, speech
from tests.helpers.paths import ROOT

BOOKS = """
import numpy as np
import torch

class Books:
    sample_rate = 16000
    bitrate = None
    codebook_sizes = (256, 16)
    identity = {"weights": 1}

    def __init__(self, device="cuda", n_q=2):
        self.device = device
        self.codebook_sizes = self.codebook_sizes[:n_q]

    def encode(self, wav):
        level = np.clip(np.round(wav[::320] * 127 + 128), 0, 255)
        wav[:] = 0
        return torch.tensor(np.stack([level, level % 16])[None, : len(self.codebook_sizes)]).long()

    def decode(self, codes):
        return torch.repeat_interleave((codes[:, :1] - 128) / 127, 320, 2)
"""
BROKEN = """
class Base:
    sample_rate = 16000
    bitrate = 100
    def encode(self, wav): return wav
    def decode(self, codes): return codes

class NoRate(Base): sample_rate = "16 kHz"
class NoBitrate(Base): bitrate = -1
class NoDecode(Base): decode = None
class NoJson(Base): identity = {1, 2}
class Failing(Base):
    def __init__(self): raise KeyError("weights")
class Stereo(Base):
    def decode(self, codes): return [codes, codes]
class OutOfBook(Base):
    codebook_sizes = (4,)
    def encode(self, wav): return (wav[None, ::320] * 0 + 4).astype(int)
class Floats(OutOfBook):
    def encode(self, wav): return wav[None]
class Silent(Base):
    def encode(self, wav): return b"1234"
    def decode(self, codes): return [0.5] * 16000
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """module(name, text): a module of that name can be imported until the test ends."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def make(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
        names.append(name)

    yield make
    for name in names:
        sys.modules.pop(name, None)


def test_tokens_bits_and_frame_size_are_those_of_the_class(module) -> None:
    module("books_codec", BOOKS)
    wav = speech(1.0)[:16000]
    (spec,) = expand_specs(["books_codec:Books"], [4])
    codec: Any = make_codec(spec, "cpu")
    before = wav.copy()
    result = codec.encode_decode(wav)
    assert np.array_equal(wav, before), "the codec wrote into the original"
    assert codec.codec.device == "cpu"
    assert result.codes.shape == (2, 50)
    assert result.stream_bits == 50 * (8 + 4)
    assert result.wav.shape == (16000,)
    assert codec.frame_size == 320
    assert np.array_equal(codec.tokens(wav), result.codes)
    first: Any = make_codec(expand_specs(["books_codec:Books@1"], [])[0], "cpu")
    assert first.tokens(wav).shape == (1, 50)
    assert first.identity != codec.identity


def test_an_edited_class_is_another_codec(module) -> None:
    identities = []
    for text in (BOOKS, BOOKS.replace("127", "100")):
        module("edited_codec", text)
        identities.append(make_codec(CodecSpec("edited_codec:Books")).identity)
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken_codec:NoRate", "sample_rate='16 kHz'"),
        ("broken_codec:NoBitrate", "bitrate=-1"),
        ("broken_codec:NoDecode", "no method decode"),
        ("broken_codec:NoJson", "identity is no JSON"),
        ("broken_codec:Failing", "its constructor: KeyError: 'weights'"),
        ("broken_codec:Stereo", r"shape \[2, 800\]"),
        ("broken_codec:OutOfBook", "codes from 4 to 4 in codebook 0, which has 4 entries"),
        ("broken_codec:Floats", r"float32 \[1, 800\]"),
        ("broken_codec:Base@3", "takes n_q"),
        ("broken_codec:Nobody", "no class Nobody"),
        ("no.such.module:Codec", "cannot be imported"),
    ],
)
def test_what_is_no_codec_is_reported_in_one_line(module, name: str, message: str) -> None:
    module("broken_codec", BROKEN)
    (spec,) = expand_specs([name], [])
    with pytest.raises((ValueError, ImportError, RuntimeError), match=message):
        make_codec(spec).encode_decode(speech(0.05)[:800])


def test_bytes_are_counted(module) -> None:
    module("broken_codec", BROKEN)
    result = make_codec(CodecSpec("broken_codec:Silent")).encode_decode(np.zeros(16000, np.float32))
    assert result.stream_bits == result.file_bits == 32


@pytest.mark.usefixtures("fake_metric")
def test_the_example_of_the_page_is_measured_and_a_bad_clip_ends_no_run(module, corpus: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/evaluate.md").read_text(), re.DOTALL | re.MULTILINE)
    picky = """
class Picky(EightBit):
    def encode(self, wav):
        assert not 1.7 < len(wav) / self.sample_rate < 1.8, "not this length"
        return super().encode(wav)
"""
    module("page_codec", example + picky)
    settings = Settings(
        tuple(read_test_list(corpus)),
        (CodecSpec("page_codec:EightBit"), CodecSpec("page_codec:Picky")),
        (MetricSpec("signal"),),
        tmp_path / "out",
    )
    done = evaluate(settings, notify=lambda _: None, progress=no_progress)
    results = results_of(done, "python -m eval")
    whole, picked = results["codecs"]
    assert done.failures == [
        "page_codec:Picky: b.wav: codec 'page_codec:Picky': encode: AssertionError: not this length"
    ]
    assert [codec["summary"]["error"]["clips"] for codec in (whole, picked)] == [3, 2]
    assert whole["summary"]["error"]["mean"] < 0.05
    assert whole["rates"]["stream_bitrate"] == pytest.approx(64000, rel=1e-3)
