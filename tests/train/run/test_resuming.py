"""What a run goes on from: only the same settings, only unfinished, never in a trial; and what its folder records."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

from tests.helpers.models import TINY, make_tokenizer
from tests.helpers.paths import CONFIGS
from tests.helpers.training_runs import configure, make_speech, run_train

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from train.run.cli import StageCLI
from train.run.settings import KEY, RunSettings, check_resumable, run_settings
from train.stages.adversarial import AdversarialStage
from train.stages.joint import JointStage

pytestmark = pytest.mark.slow

LR = "--model.init_args.training.optimizer.lr"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_speech(tmp_path_factory.mktemp("speech"))


def parsed(*words: object) -> StageCLI:
    """The command line, with nothing run."""
    with mock.patch.object(StageCLI, "_run_subcommand"), mock.patch("sys.argv", ["train"]):
        return StageCLI(args=["fit", *map(str, words)])


def settings_of(cli: StageCLI) -> RunSettings:
    return run_settings(cli.config.fit.as_dict(), cli.model)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("base", ["tiny.yaml", "tiny_adversarial.yaml"])
def test_the_last_step_is_saved_whatever_its_number(speech: Path, tmp_path: Path, base: str, steps: int) -> None:
    make_tokenizer(TINY).save_pretrained(tmp_path / "model")
    config = configure(tmp_path / "run", speech, base, model=str(tmp_path / "model"))
    values = yaml.safe_load(config.read_text())
    every = {"every_n_train_steps": 2, "save_last": True, "save_top_k": 1}
    values["trainer"]["callbacks"] = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": every}]
    config.write_text(yaml.safe_dump(values))
    assert run_train("fit", "--config", config, "--trainer.max_steps", steps) == 0
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == steps
    assert checkpoint["mimotok"]["steps"] == steps
    assert run_train("fit", "--config", config, "--trainer.max_steps", steps) == 2, "finished"


def test_a_run_goes_on_only_with_its_own_settings(
    speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(tmp_path, speech, "tiny.yaml")
    last = tmp_path / "checkpoints" / "last.ckpt"
    trial = ("fit", "--config", config, "--trainer.fast_dev_run", 1)
    assert run_train(*trial) == 0
    assert set(files(tmp_path)) == {str(config)}, "a trial writes nothing"
    assert run_train("fit", "--config", config, "--trainer.max_steps", 2) == 0
    kept = files(tmp_path / "checkpoints")
    assert run_train(*trial) == 0
    assert files(tmp_path / "checkpoints") == kept, "a trial neither goes on nor writes"
    capsys.readouterr()
    assert run_train("fit", "--config", config, "--trainer.max_steps", 2) == 2
    assert "last.ckpt: the run is finished, 2 of trainer.max_steps=2 steps are done" in capsys.readouterr().err
    assert run_train("fit", "--config", config, LR, 0.004) == 2
    printed = capsys.readouterr().err
    assert "other settings: model.init_args.training.optimizer.lr was 0.002, is 0.004: add --resume" in printed
    assert files(tmp_path / "checkpoints") == kept
    assert run_train("fit", "--config", config, LR, 0.004, "--trainer.max_steps", 3, "--resume") == 0
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 3
    assert checkpoint[KEY]["values"]["model.init_args.training.optimizer.lr"] == 0.004
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["step"] == 3
    assert len(record["starts"]) == 2
    assert record["starts"][1]["packages"]["torch"] == torch.__version__
    assert "mel_loss" in record["best"]
    assert yaml.safe_load((tmp_path / "resolved.yaml").read_text())["resume"] is False
    capsys.readouterr()
    assert run_train("runs", "--root", tmp_path.parent) == 0
    listed = capsys.readouterr().out
    assert tmp_path.name in listed
    assert "mel_loss" in listed
    # what it saved builds it again, from anywhere
    stage = JointStage.load_from_checkpoint(last)
    assert stage.config.optimizer.lr == 0.004
    assert stage.text_decoder is not None
    assert all(torch.equal(a, checkpoint["state_dict"][name]) for name, a in stage.state_dict().items())


def test_settings_are_what_makes_the_experiment(speech: Path, tmp_path: Path) -> None:
    config = configure(tmp_path / "run", speech, "tiny.yaml")
    first = settings_of(parsed("--config", config))
    moved = make_speech(tmp_path)
    machine = ("--trainer.max_steps", 50, "--data.num_workers", 1, "--trainer.default_root_dir", tmp_path / "elsewhere")
    data = ("--data.manifest", moved / "manifest.jsonl", "--data.root", moved)
    assert settings_of(parsed("--config", config, *machine, *data)) == first
    (moved / "manifest.jsonl").write_text((speech / "manifest.jsonl").read_text().replace("clip 1", "other"))
    changes = {
        "data.manifest.sha256": data,
        "seed_everything": ("--seed_everything", 1),
        "data.batch_seconds": ("--data.batch_seconds", 5),
        "model.init_args.loss_weights.mel": ("--model.init_args.loss_weights.mel", 2),
    }
    for name, words in changes.items():
        other = settings_of(parsed("--config", config, *words))
        assert {key for key in other.values.keys() | first.values.keys() if
                other.values.get(key) != first.values.get(key)} == {name}  # fmt: skip
        assert other.digest != first.digest


def test_a_checkpoint_without_settings_needs_a_word(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "global_step": 3}, path)
    ours = RunSettings({"a": 1}, "d")
    with pytest.raises(ValueError, match=r"holds no settings to compare with.*--resume"):
        check_resumable(path, ours, max_steps=9, anyway=False)
    check_resumable(path, ours, max_steps=9, anyway=True)
    check_resumable(path, ours, max_steps=-1, anyway=True)


def test_a_named_run_and_a_fresh_one_have_their_own_folders(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(tmp_path / "config", speech, "tiny.yaml")
    # shipped configs name shipped models, wherever they are started
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/mine", "runs/mine-2"):
        cli = parsed("--config", config, "--name", "mine", "--fresh")
        assert cli.trainer.default_root_dir.endswith(folder)
        assert cli.trainer.checkpoint_callback.dirpath.endswith(f"{folder}/checkpoints")
        assert cli.config.fit.fresh is False
        Path(folder, "checkpoints").mkdir(parents=True)
        Path(folder, "checkpoints", "last.ckpt").touch()
    assert parsed("--config", config, "--name", "mine").trainer.default_root_dir.endswith("runs/mine")
    with pytest.raises(ValueError, match=r"--name '\.\./x'"):
        parsed("--config", config, "--name", "../x")


@pytest.mark.parametrize("given", ["config", "flag", "flag="])
def test_weights_of_a_second_config_or_a_flag_merge_and_null_takes_away(given: str, tmp_path: Path) -> None:
    losses = {"stoi": 2.0, "speech": None}
    sources = {"b v1.0 *": 3.0, "a": None}
    more = tmp_path / "more.yaml"
    more.write_text(
        yaml.safe_dump({"model": {"init_args": {"loss_weights": losses}}, "data": {"source_weights": sources}})
    )
    flags = {"--model.init_args.loss_weights": losses, "--data.source_weights": sources}
    words = {
        "config": ["--config", str(more)],
        "flag": [word for name, weights in flags.items() for word in (name, json.dumps(weights))],
        "flag=": [f"{name}={json.dumps(weights)}" for name, weights in flags.items()],
    }[given]
    first = tmp_path / "first.yaml"
    values = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    values["model"]["init_args"]["loss_weights"] = {"mel": 1.0, "stoi": 6.0, "speech": 1.0}
    values["data"]["source_weights"] = {"a": 2.0, "c": 1.0}
    first.write_text(yaml.safe_dump(values))
    dotted = ("--model.init_args.loss_weights.commitment", 0.5)
    cli = parsed("--config", first, *words, *dotted)
    assert cli.model.loss_weights == {"mel": 1.0, "stoi": 2.0, "commitment": 0.5}
    assert cli.datamodule.plan_config.source_weights == {"c": 1.0, "b v1.0 *": 3.0}


@pytest.mark.parametrize("value", ["3", "{mel: 1", "[mel]"])
def test_weights_that_are_no_weights_are_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fit", "--config", CONFIGS / "tiny.yaml", "--model.init_args.loss_weights", value)
    assert run_train(*words) == 2
    assert "loss_weights" in capsys.readouterr().err


@pytest.mark.parametrize("cache", [False, True])
def test_a_wrong_root_is_reported_with_a_path_that_was_tried(
    cache: bool, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(tmp_path / "run", speech, "tiny.yaml")
    words = ("--data.cache_dir", tmp_path / "cache") if cache else ()
    root = tmp_path / "nowhere"
    assert run_train("fit", "--config", config, "--data.root", root, *words) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith(f"error: root={root}: no such folder: of 12 files")
    assert printed[-1].endswith(str(root / "0.wav"))


def test_the_adversarial_stage_comes_back_without_arguments(tmp_path: Path) -> None:
    from train.losses.discriminators import Discriminators

    small = Discriminators(periods=(2,), period_width=4, windows=(128,), stft_channels=4, gain=3.0)
    stage = AdversarialStage(str(CONFIGS / "models" / "tiny.json"), discriminators=small, default_ratio=0.3)
    checkpoint: dict[str, Any] = {"state_dict": stage.state_dict(), "mimotok": stage.facts()}
    stage.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    again = AdversarialStage.load_from_checkpoint(tmp_path / "x.ckpt")
    assert again.hyperparameters() == stage.hyperparameters()
    assert again.config == stage.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), stage.state_dict().values(), strict=True))
    # sizes that the weights do not have are reported before anything is built
    checkpoint["hyper_parameters"]["model"]["d_model"] = 16384
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="does not hold the weights of its configuration"):
        AdversarialStage.load_from_checkpoint(tmp_path / "x.ckpt")


def test_models_of_the_examples_come_back_without_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from examples.asr_adapter.model import Reader
    from examples.audio_lm.model import SpeechLM
    from tests.helpers.whispers import tiny_whisper
    from train.losses import speech

    whisper = tiny_whisper()
    monkeypatch.setattr(speech, "load_speech_encoder", lambda _: whisper)
    for model in (Reader(32, 5, hidden=8), SpeechLM((8, 4), 5, width=32, layers=1)):
        content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
        torch.save(content, tmp_path / "x.ckpt")
        again = type(model).load_from_checkpoint(tmp_path / "x.ckpt")
        assert dict(again.hparams) == dict(model.hparams)
        assert all(torch.equal(tensor, content["state_dict"][name]) for name, tensor in again.state_dict().items())


def test_a_bare_command_lists_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"]):
        run_train(*words)
        listed = capsys.readouterr()
        assert " fit " in listed.out + listed.err
        assert " runs " in listed.out + listed.err


def test_figures_of_a_run_keep_the_best() -> None:
    from train.run.record import RunRecord

    record = RunRecord(Path("unused"), RunSettings({}, ""))
    record.record = {"best": {}}
    with mock.patch.object(RunRecord, "_write"):
        for step, loss, accuracy in ((1, 2.0, 0.1), (2, 1.0, 0.3), (3, 1.5, 0.2), (4, float("nan"), float("nan"))):
            metrics = {"val/mel_loss": torch.tensor(loss), "val/phone_accuracy": torch.tensor(accuracy)}
            trainer: Any = SimpleNamespace(callback_metrics=metrics, global_step=step)
            record.on_validation_end(trainer, mock.Mock(audio_seconds=0.0))
    assert record.record["best"]["mel_loss"] == {"value": 1.0, "step": 2}
    assert record.record["best"]["phone_accuracy"]["step"] == 2
