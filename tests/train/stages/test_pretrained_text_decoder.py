"""The text decoder that starts from a pretrained language model: padding, gradients, the disk, and whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.helpers.language_models import KINDS, make_language_model
from tests.helpers.models import TINY, make_tokenizer
from tests.helpers.training_runs import make_speech

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
pytest.importorskip("transformers", reason="needs: pip install 'mimotok[train]'")

import jsonargparse
import lightning

from mimotok.text import error_rates
from train.data.batches import Batch
from train.losses.spectral import MelLoss
from train.stages.base import StageConfig
from train.stages.joint import JointStage
from train.stages.optim import OptimizerConfig, optimize_groups
from train.stages.text_decoder import (
    PretrainedTextDecoder,
    PretrainedTextDecoderConfig,
    TextDecoderConfig,
    load_text_decoder,
)
from train.tools.export import export, read_checkpoint
from train.tools.transcribe import transcribe

D_MODEL = 12
TEXTS = ["one", "twenty two", "a"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lm")
    return {kind: make_language_model(kind, folder / kind) for kind in KINDS}


def make_decoder(folder: Path, **settings: Any) -> PretrainedTextDecoder:
    torch.manual_seed(1)
    chosen: dict[str, Any] = {"stack": 3, "prompt": "<|en|>"} | settings
    return PretrainedTextDecoder(D_MODEL, PretrainedTextDecoderConfig(str(folder), **chosen)).eval()


def audio(*lengths: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), max(lengths), D_MODEL, generator=generator), torch.tensor(lengths)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_does_not_depend_on_its_batch(kind: str, models: dict[str, Path]) -> None:
    decoder = make_decoder(models[kind])
    quantized, lengths = audio(9, 14, 4)
    # what lies in the padding must not matter
    quantized[2, 4:] = 100
    singles = [(quantized[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths.tolist())]
    tokens = torch.tensor([len(text) + 1.0 for text in TEXTS])
    losses = torch.stack([decoder(*single, [text]).text for single, text in zip(singles, TEXTS, strict=True)])
    torch.testing.assert_close(decoder(quantized, lengths, TEXTS).text, (losses * tokens).sum() / tokens.sum())
    transcripts = [decoder.transcribe(*single)[0] for single in singles]
    assert decoder.transcribe(quantized, lengths) == transcripts
    assert len(set(transcripts)) == 3, "a random model that hears its audio writes something else for each"


@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_each_valid_frame_and_only_what_is_trained(
    kind: str, tune: bool, models: dict[str, Path]
) -> None:
    decoder = make_decoder(models[kind], tune=tune).train()
    quantized, lengths = audio(9, 4)
    quantized.requires_grad_()
    decoder(quantized, lengths, TEXTS[:2]).text.backward()
    assert quantized.grad is not None
    assert (quantized.grad.abs().sum(-1) > 0).tolist() == [[True] * 9, [True] * 4 + [False] * 5]
    model: Any = decoder.language_model("cpu")
    trained = [parameter for group in decoder.parameter_groups(OptimizerConfig()) for parameter in group["params"]]
    # a frozen language model is in eval mode, so that nothing is dropped, and a run neither saves nor trains it
    assert model.training is tune
    assert all((parameter.grad is not None) is tune for parameter in model.parameters())
    assert {id(p) for p in trained} == {id(p) for p in decoder.parameters()}
    assert {name.split(".")[0] for name in decoder.state_dict()} == {"adapter", "tuned" if tune else "fingerprint"}


def test_a_tuned_model_is_trained_by_adamw_at_its_own_rate(models: dict[str, Path]) -> None:
    decoder = make_decoder(models["llama"], tune=True, lr=1e-5)
    config = OptimizerConfig(lr=1e-2, warmup_steps=1)
    optimizer = optimize_groups(decoder.parameter_groups(config), config)["optimizer"]
    rates = {id(p): (group["muon"], group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in decoder.tuned.parameters()} == {(False, 1e-5)}
    assert {rates[id(p)] for p in decoder.adapter.parameters()} == {(False, 1e-2)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tuned_it_learns_sentences_that_only_the_audio_tells_apart(
    kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    decoder = make_decoder(models[kind], tune=True)
    quantized, lengths = audio(12, 7, 9)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        decoder(quantized, lengths, TEXTS).text.backward()
        optimizer.step()
    assert error_rates(TEXTS, decoder.transcribe(quantized, lengths)) == (0, 0)
    decoder.save(tmp_path)
    assert load_text_decoder(tmp_path).transcribe(quantized, lengths) == TEXTS


@pytest.mark.parametrize(("kind", "dtype"), [("llama", "bfloat16"), ("whisper", "float32")])
def test_a_frozen_one_is_saved_whole_and_stays_what_it_was(kind: str, dtype: str, tmp_path: Path) -> None:
    source = make_language_model(kind, tmp_path / "source", dtype=dtype)
    decoder = make_decoder(source)
    before = decoder(*audio(9, 4), TEXTS[:2]).text
    decoder.save(tmp_path / "saved")
    assert torch.equal(decoder(*audio(9, 4), TEXTS[:2]).text, before)
    shutil.rmtree(source)
    # moved, and without its source, it is the same; and so is what is saved of it again
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = load_text_decoder(tmp_path / "moved")
    assert torch.equal(again(*audio(9, 4), TEXTS[:2]).text, before)
    again.save(tmp_path / "moved")
    assert str(tmp_path) not in (tmp_path / "moved" / "config.json").read_text()
    assert torch.equal(load_text_decoder(tmp_path / "moved")(*audio(9, 4), TEXTS[:2]).text, before)


def test_an_adapter_is_refused_by_another_language_model(models: dict[str, Path], tmp_path: Path) -> None:
    state = make_decoder(models["llama"]).state_dict()
    other: Any = make_decoder(models["llama"])
    with torch.no_grad():
        other.language_model("cpu").lm.model.norm.weight[0] += 1
    other.language_model("cpu").lm.save_pretrained(tmp_path)
    shutil.copytree(models["llama"], tmp_path, ignore=lambda *_: ["model.safetensors"], dirs_exist_ok=True)
    with pytest.raises(ValueError, match="not the language model that this text decoder was trained with"):
        make_decoder(tmp_path).load_state_dict(state)


def test_a_text_longer_than_the_positions_is_cut_and_audio_that_fills_them_is_refused(models: dict[str, Path]) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    whisper, gpt2 = make_decoder(models["whisper"]), make_decoder(models["gpt2"], stack=1)
    # 24 positions: start, prompt, and 22 letters, of which the last is followed by one more
    cut = whisper(*audio(9), [letters]).text
    assert torch.equal(cut, whisper(*audio(9), [letters[:24]]).text)
    assert not torch.equal(cut, whisper(*audio(9), [letters[:22]]).text)
    assert len(whisper.transcribe(*audio(200))[0]) <= 24
    assert len(gpt2.transcribe(*audio(60))[0]) <= 4
    with pytest.raises(ValueError, match="63 positions of audio leave this language model 1 for text"):
        gpt2(*audio(63), ["a"])


def test_weights_other_than_safetensors_and_code_of_a_folder_are_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    pickled = make_language_model("llama", tmp_path / "pickled", safetensors=False)
    with pytest.raises(ValueError, match=r"text_decoder\.pretrained=.*pickled: no language model with safetensors"):
        make_decoder(pickled)
    with pytest.raises(ValueError, match="no such folder"):
        make_decoder(tmp_path / "none")
    shutil.copytree(models["llama"], tmp_path / "coded")
    config = json.loads((tmp_path / "coded" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (tmp_path / "coded" / "config.json").write_text(json.dumps(config))
    (tmp_path / "coded" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="coded: no language model"):
        make_decoder(tmp_path / "coded")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("settings", [{"stack": 0}, {"lr": 0.0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="="):
        PretrainedTextDecoderConfig("lm", **settings)


@pytest.mark.parametrize(
    ("given", "kind"),
    [({"pretrained": "lm", "tune": True}, PretrainedTextDecoderConfig), ({"hidden_size": 32}, TextDecoderConfig)],
)
def test_a_config_names_either_kind(given: dict[str, Any], kind: type) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--text_decoder", type=get_type_hints(JointStage.__init__)["text_decoder"])
    values = parser.parse_object({"text_decoder": given})
    assert isinstance(parser.instantiate_classes(values).text_decoder, kind)


def make_stage(folder: Path, lm: Path, *, tune: bool, ctc: float = 0.0) -> JointStage:
    torch.manual_seed(0)
    return JointStage(
        str(folder),
        loss_weights={"text": 1.0, "mel": 1.0, "commitment": 1.0, "ctc": ctc},
        training=StageConfig(
            mel_loss=MelLoss(scales=[(16, 240, 120)], exponents=[0.0]),
            optimizer=OptimizerConfig(lr=1e-2, warmup_steps=1, average_decay=0.9),
            segment_seconds=0.48,
        ),
        text_decoder=PretrainedTextDecoderConfig(str(lm), tune=tune, lr=1e-3, normalize=True),
    )


def fit(stage: JointStage, steps: int, resume: Path | None = None) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=1,
    )
    wav = 0.1 * torch.randn(2, 19_200, generator=torch.Generator().manual_seed(0))
    batch = Batch(wav, torch.tensor([19_200, 9_600]), ["One,", "two"], ["a", "b"])
    loader: Any = DataLoader([batch] * 4, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(stage, loader, loader, ckpt_path=resume)
    return trainer


@pytest.mark.parametrize(("kind", "tune"), [("llama", False), ("whisper", True)])
@pytest.mark.slow
def test_a_run_resumed_is_exported_and_transcribes(
    kind: str, tune: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    make_tokenizer(TINY).save_pretrained(tmp_path / "model")
    whole = make_stage(tmp_path / "model", models[kind], tune=tune)
    fit(whole, 3).save_checkpoint(tmp_path / "whole.ckpt")
    fit(make_stage(tmp_path / "model", models[kind], tune=tune), 2).save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(5)
    resumed = make_stage(tmp_path / "model", models[kind], tune=tune)
    model: Any = resumed.text_decoder.language_model("cpu")
    assert model.training is tune
    fit(resumed, 3, tmp_path / "half.ckpt").save_checkpoint(tmp_path / "resumed.ckpt")

    expected, _ = read_checkpoint(tmp_path / "whole.ckpt")
    actual, facts = read_checkpoint(tmp_path / "resumed.ckpt")
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert any(name.startswith("text_decoder.tuned") for name in actual) is tune
    assert facts["text_decoder"]["pretrained"] == str(models[kind])

    export(tmp_path / "resumed.ckpt", tmp_path / "out", dtype="float32")
    decoder = resumed.text_decoder
    assert decoder is not None
    again = load_text_decoder(tmp_path / "out" / "text_decoder")
    quantized = torch.randn(1, 7, resumed.tokenizer.config.d_model)
    lengths = torch.tensor([7])
    assert torch.equal(again(quantized, lengths, ["one"]).text, decoder.eval()(quantized, lengths, ["one"]).text)
    make_speech(tmp_path)
    assert isinstance(transcribe(tmp_path / "out", tmp_path / "0.wav"), str)
    goes_on = JointStage(str(tmp_path / "out"), text_decoder=str(tmp_path / "out" / "text_decoder"))
    assert isinstance(goes_on.text_decoder, PretrainedTextDecoder)


def test_a_pretrained_text_decoder_has_no_ctc(models: dict[str, Path], tmp_path: Path) -> None:
    make_tokenizer(TINY).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a pretrained text decoder has no CTC head"):
        make_stage(tmp_path, models["llama"], tune=False, ctc=1.0)
