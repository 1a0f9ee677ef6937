"""The joint stage with its losses for meaning: it resumes exactly, and says what it lacks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.paths import CONFIGS
from tests.helpers.training_runs import make_speech

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint

from mimotok import Tokenizer
from tests.helpers.whispers import tiny_whisper
from train.data.batches import Batch
from train.data.manifest import read_manifest
from train.data.module import SpeechDataModule
from train.losses.meaning import CharacterConfig
from train.losses.semantic import SemanticConfig
from train.losses.spectral import MelLoss
from train.losses.speech import SpeechFeatureLoss
from train.stages.base import StageConfig
from train.stages.joint import JointStage
from train.stages.optim import OptimizerConfig
from train.tools.export import export

pytestmark = pytest.mark.slow

MODEL = str(CONFIGS / "models" / "tiny.json")
WEIGHTS: dict[str, float | None] = {
    "mel": 0.5,
    "commitment": 0.1,
    "phone": 1.0,
    "characters": 1.0,
    "semantic": 1.0,
    "speech": 1.0,
}


def make_stage(weights: dict[str, float | None] = WEIGHTS) -> JointStage:
    lightning.seed_everything(0)
    training = StageConfig(
        mel_loss=MelLoss(scales=[(64, 480, 240)]),
        segment_seconds=0.48,
        optimizer=OptimizerConfig(warmup_steps=1, max_steps=4, average_decay=0.5),
    )
    speech = SpeechFeatureLoss(layers=(1, 2))
    semantic = SemanticConfig(layer=2, share=0.5)
    encoder = tiny_whisper(layers=2)
    for teacher in (speech, semantic):
        teacher._held["encoder"] = encoder
    return JointStage(
        MODEL,
        loss_weights=weights,
        training=training,
        characters=CharacterConfig(hidden=8),
        semantic=semantic,
        speech=speech,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a data module over twelve clips, eight of which have labels."""
    root = make_speech(tmp_path_factory.mktemp("speech"))
    rows = [
        {"audio": clip.id, "phones": [["SIL", 0.0, 0.3], ["AH", 0.3, clip.duration]]}
        for clip in read_manifest(str(root / "manifest.jsonl"), str(root))
    ]
    # texts that can be spelled: letters in place of the numbers
    manifest = root / "manifest.jsonl"
    lettered = re.sub(r'"clip (\d+)"', lambda found: f'"clip {chr(97 + int(found[1]))}"', manifest.read_text())
    manifest.write_text(lettered)
    labels = root / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows if int(str(row["audio"])[0]) % 3))
    return {
        **{"manifest": str(root / "manifest.jsonl"), "root": str(root), "alignments": str(labels)},
        **{"batch_seconds": 4.0, "max_seconds": 3.0, "crop_seconds": (0.48, 0.96)},
    }


def fit(folder: Path, data: dict[str, Any], max_steps: int, resume: str | None = None) -> dict[str, Any]:
    saving = ModelCheckpoint(folder, save_last=True, every_n_train_steps=2)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        callbacks=[saving],
        logger=False,
        num_sanity_val_steps=0,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(make_stage(), SpeechDataModule(**data), ckpt_path=resume)
    return {
        "metrics": trainer.callback_metrics,
        "state": torch.load(folder / "last.ckpt", weights_only=True)["state_dict"],
    }


def test_resumed_equals_uninterrupted_and_everything_is_logged(data: dict[str, Any], tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", data, 4)
    fit(tmp_path / "part", data, 2)
    resumed = fit(tmp_path / "part", data, 4, resume=str(tmp_path / "part" / "last.ckpt"))
    assert whole["state"].keys() == resumed["state"].keys()
    assert not [name for name, value in whole["state"].items() if not value.equal(resumed["state"][name])]
    for name in ("train/phone_loss", "train/phone_accuracy", "train/characters_loss", "train/semantic_loss"):
        assert torch.isfinite(whole["metrics"][name]), name
    for name in ("val/phone_accuracy", "val/characters_loss", "val/semantic_loss", "val/unquantized_speech_loss"):
        assert torch.isfinite(whole["metrics"][name]), name
    # the frozen encoder is no part of the checkpoint, and the heads no part of the exported model
    parts = {name.split(".")[0] for name in whole["state"]}
    assert parts == {"tokenizer", "averaged", "quantizer", "phone_classifier", "character_reader", "semantic_reader"}
    export(tmp_path / "whole" / "last.ckpt", tmp_path / "exported")
    assert Tokenizer.from_pretrained(tmp_path / "exported").config.d_model == 32


def test_every_loss_reaches_the_encoder() -> None:
    stage = make_stage()
    stage.log = lambda *_, **__: None  # type: ignore[method-assign]
    labels = torch.zeros(2, 25, dtype=torch.int64)
    batch = Batch(0.1 * torch.randn(2, 24_000), torch.tensor([24_000, 20_000]), ["one", "two"], ["1", "2"], labels)
    losses = stage.losses(batch)
    assert losses.keys() == WEIGHTS.keys()
    weight = stage.tokenizer.encoder.conv1.weight
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.any(), name
    # meaning is read in the codes and leaves the decoder alone
    decoder = next(stage.tokenizer.decoder.parameters())
    for name, reached in (("phone", False), ("characters", False), ("semantic", False), ("speech", True)):
        (gradient,) = torch.autograd.grad(losses[name], decoder, retain_graph=True, allow_unused=True)
        assert (gradient is not None) == reached, name


def test_phones_without_labels_are_refused() -> None:
    stage = make_stage({"mel": 1.0, "phone": 1.0})
    with pytest.raises(ValueError, match=r"give data\.alignments a file"):
        stage.losses(Batch(torch.randn(1, 24_000), torch.tensor([24_000]), ["one"], ["1"]))


def test_a_threshold_of_the_official_format_is_told_to_have_no_effect(tmp_path: Path) -> None:
    changed = tmp_path / "config.json"
    changed.write_text(json.dumps({**json.loads(Path(MODEL).read_text()), "threshold_ema_dead_code": 5}))
    with pytest.warns(UserWarning, match="threshold_ema_dead_code=5 has no effect: dead codes are revived by"):
        JointStage(str(changed))
