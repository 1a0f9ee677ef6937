"""The examples, each for a few steps on a tiny set of made sounds: that they run as their READMEs say."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("lightning")
pytest.importorskip("transformers")

from examples import corpus as corpus_module
from examples.asr_adapter.train import command, latent_items, quantized_items
from examples.audio_lm import generate
from examples.audio_lm.model import SPECIAL, continuation_prompt, speech_prompt, spoken
from examples.audio_lm.train import main as train_audio_lm
from examples.corpus import Corpus
from examples.duplex.train import main as train_duplex
from examples.training import SimilarLengths, run
from mimotok import Tokenizer, load_audio
from mimotok.lm import InterleavedLayout
from mimotok.lm.audio_lm import pad_sequences
from mimotok.lm.patches import PatchConfig

pytestmark = pytest.mark.slow

SIZES = (32, 32, 16, 16)


@pytest.fixture
def data(tmp_path: Path, tiny: Callable) -> dict[str, Any]:
    """A manifest of ten clips, a tiny tokenizer, and where to write: what every training script takes."""
    rows = []
    for number in range(10):
        wav = np.random.default_rng(number).normal(0, 0.1, 12_000 + 1_000 * number)
        soundfile.write(tmp_path / f"{number}.wav", wav, 16_000)
        split = "train" if number < 7 else "dev"
        row = {"audio": f"{number}.wav", "duration": len(wav) / 16_000, "split": split, "language": "en"}
        rows.append({**row, "text": f"Number {number}.", "source": "made", "speaker": "nobody"})
    rows.append({**rows[0], "text": None})
    rows.append({**rows[0], "language": "de"})
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny().save_pretrained(tmp_path / "model")
    places = {"manifest": str(manifest), "root": str(tmp_path), "cache": str(tmp_path / "cache")}
    return {**places, "model": str(tmp_path / "model"), "out": tmp_path / "run"}


def test_audio_lm_trains_speaks_and_goes_on(data: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    train_audio_lm(**data, steps=3, batch_size=3, every=2)
    printed = capsys.readouterr().out
    assert "train: 7 clips" in printed
    assert "dev: 3 clips" in printed
    assert re.search(r"^step 2: dev/audio \d\.\d+, dev/codebook_0 .*dev/loss", printed, re.MULTILINE)
    common = {"checkpoint": data["out"] / "last.ckpt", "model": data["model"], "seconds": 1.0}
    for name, request in (("said", {"text": "hello"}), ("continued", {"audio": Path(data["root"], "0.wav")})):
        out = Path(data["root"], f"{name}.wav")
        generate.main(out, **common, **request, prompt_seconds=0.4)
        frames = load_audio(out, 24_000).shape[1] / 960
        # one second is six patches of four frames; 0.4 s of prompt are two whole patches
        assert frames % 4 == 0
        assert 4 <= frames <= 24 + 8 * (name == "continued")
    with pytest.raises(ValueError, match="give either"):
        generate.main(Path("never.wav"), **common)


def test_a_conversation_is_built_learnt_and_taken_apart(
    data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [Path(data["root"], name) for name in ("0.wav", "4.wav")]
    train_duplex(clips[0], clips[1], text="Hello.", out=data["out"], model=data["model"], steps=60, answer_seconds=0.2)
    printed = capsys.readouterr().out
    losses = [float(value) for value in re.findall(r"^step \d+: (\d\.\d+) nats", printed, re.MULTILINE)]
    assert losses[-1] < 0.5 * losses[0]
    assert "text: [('Hello.', 0.0)]" in printed
    assert "answer: 100% of the speaker's codes" in printed, "learnt by heart"
    tokenizer = Tokenizer.from_pretrained(data["model"])
    codes = [tokenizer.encode(load_audio(clip, 24_000)) for clip in clips]
    frames = max(each.shape[2] for each in codes)
    for name, each in zip(("speaker", "other"), codes, strict=True):
        whole = torch.cat((each, each[:, :, -1:].expand(-1, -1, frames - each.shape[2])), dim=2)
        heard = load_audio(data["out"] / f"{name}.wav", 24_000)
        torch.testing.assert_close(heard, tokenizer.decode(whole).clamp(-1, 1), atol=1e-4, rtol=0)


def test_words_stand_in_the_conversation_when_they_are_said(
    data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [Path(data["root"], name) for name in ("0.wav", "4.wav")]
    labels = Path(data["root"], "labels.txt")
    labels.write_text("0.08\t0.2\tgo\n0.32\t0.4\tnow\n0.36\t0.5\tplease\n", encoding="utf-8")
    train_duplex(clips[0], clips[1], words=labels, out=data["out"], model=data["model"], steps=1, answer_seconds=0.1)
    # the third follows the second at once
    assert "text: [('go', 0.08), ('now please', 0.32)]" in capsys.readouterr().out
    labels.write_text("0.08 0.2 go\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels\.txt:1: give start, end and a word"):
        train_duplex(clips[0], clips[1], words=labels, model=data["model"])
    with pytest.raises(ValueError, match="either --text"):
        train_duplex(clips[0], clips[1], text="Go.", words=labels)


@pytest.mark.parametrize("kind", [quantized_items, latent_items])
def test_adapters_train_and_read(data: dict[str, Any], kind, capsys: pytest.CaptureFixture[str]) -> None:
    listens = kind is quantized_items
    command(kind, "any")(**data, steps=2, listen_steps=int(listens), batch_size=4, every=1)
    printed = capsys.readouterr().out
    assert ("(spelled)" in printed) == listens
    assert len(re.findall(r"^step [12]: .*dev/loss", printed, re.MULTILINE)) == 2
    assert re.search(r"^said: number \d\nread: ", printed, re.MULTILINE)
    assert re.search(r"^dev CER \d\.\d+, WER", printed, re.MULTILINE)
    state = torch.load(data["out"] / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if "encoder" in name], "the tokenizer is not part of what is trained"
    read = 256 if listens else 32  # what the adapter reads: a listener's states, or the features
    assert [tuple(state[f"reader.projection.{i}.weight"].shape) for i in (0, 2)] == [(512, 4 * read), (256, 512)]


def test_features_are_computed_once_and_equal_the_tokenizers(
    data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tiny
) -> None:
    tokenizer, corpus = tiny(), Corpus(data["manifest"], data["root"], data["cache"])
    first = {kind: kind(corpus, "dev", tokenizer) for kind in (quantized_items, latent_items)}
    for item in first[quantized_items]:
        wav = load_audio(item.audio, 24_000)
        torch.testing.assert_close(item.features, tokenizer.dequantize(tokenizer.encode(wav))[0])
    for item in first[latent_items]:
        wav = load_audio(item.audio, 24_000)
        torch.testing.assert_close(item.features, tokenizer.encode_latents(wav).values[0])
    monkeypatch.setattr(corpus_module, "load_audio", lambda *_: pytest.fail("read again"))
    for kind, items in first.items():
        again = kind(corpus, "dev", tokenizer)
        assert all(torch.equal(a.features, b.features) for a, b in zip(again, items, strict=True))


def test_prompts_are_beginnings_of_training_sequences() -> None:
    config, codes = PatchConfig(SIZES), torch.randint(0, 16, (4, 9))
    whole = spoken(codes, "hello", SIZES)
    prompt = speech_prompt("hello", config)
    assert torch.equal(prompt.text, whole.text[: len(prompt.text)])
    assert prompt.text[-1] == SPECIAL.start
    assert torch.equal(prompt.patches, whole.patches[: len(prompt.text)])
    silent, more = spoken(codes, "", SIZES), continuation_prompt(codes, config)
    assert torch.equal(more.text, silent.text[: len(more.text)])
    assert torch.equal(more.patches, silent.patches[: len(more.text)])
    assert (more.text == SPECIAL.audio).sum() == 2, "the third patch is not whole"
    assert torch.equal(InterleavedLayout(SIZES, SPECIAL).decode(whole, frames=[9])[1], codes)
    assert pad_sequences([whole, silent], SIZES).lengths.tolist() == [len(whole.text), len(silent.text)]


def test_the_corpus_keeps_to_its_limits(data: dict[str, Any]) -> None:
    places = (data["manifest"], data["root"], data["cache"])
    assert len(Corpus(*places).clips("train")) == 7
    assert len(Corpus(*places, language=None).clips("train")) == 8
    short = Corpus(*places, minutes=2 / 60).clips("train")
    assert 0 < sum(clip.duration for clip in short) <= 2
    assert max(clip.duration for clip in Corpus(*places, max_seconds=0.9).clips("train")) <= 0.9
    with pytest.raises(ValueError, match="no clip with text for split=train"):
        Corpus(*places, source="elsewhere").clips("train")
    assert Corpus(*places, source="elsewhere").clips("dev")


def test_batches_hold_neighbours_and_everything_once() -> None:
    lengths = torch.randint(1, 100, (37,)).tolist()
    batches = list(SimilarLengths(lengths, 5))
    assert sorted(i for batch in batches for i in batch) == list(range(37))
    spans = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in batches)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_bad_input_is_one_line_and_exit_code_2(
    data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", str(data["root"]), "--model", str(data["model"])])
    with pytest.raises(SystemExit) as stopped:
        run(train_audio_lm)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
