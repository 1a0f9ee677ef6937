"""Every config parses as the command line would take it; the published model exists on the meta device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok import Tokenizer, TokenizerConfig
from scripts.ablation import ARMS
from tests.helpers.paths import CONFIGS
from train.run.cli import StageCLI
from train.stages.base import StageConfig
from train.stages.joint import JointStage

pytestmark = pytest.mark.slow

# base.yaml holds what all share, gpu.yaml what a GPU takes
ALONE = [path for path in sorted(CONFIGS.glob("*.yaml")) if path.stem not in ("base", "gpu")]
RECIPE = CONFIGS / "recipe"
STAGES = ("1_joint", "2_adversarial")
RUNS: list[list[Path]] = [
    *([path] for path in ALONE),
    *(arm.configs for arm in ARMS),
    *([RECIPE / f"{stage}.yaml"] for stage in STAGES),
    [RECIPE / "1_joint.yaml", RECIPE / "phones.yaml"],
    [RECIPE / "1_joint.yaml", RECIPE / "phones.yaml", RECIPE / "readers.yaml"],
    [RECIPE / f"{name}.yaml" for name in ("1_joint", "phones", "sound", "meaning")],
    [RECIPE / "2_adversarial.yaml", RECIPE / "refine.yaml"],
    *([RECIPE / f"{stage}.yaml", more] for stage in STAGES for more in (CONFIGS / "gpu.yaml", RECIPE / "sources.yaml")),
]


@pytest.mark.parametrize("paths", RUNS, ids=lambda paths: "-".join(path.stem for path in paths))
def test_config_parses(paths: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for path in paths for word in ("--config", str(path))]
    with mock.patch("sys.argv", ["train"]), pytest.raises(SystemExit) as stopped:
        StageCLI(args=["fit", *words, "--print_config"])
    assert stopped.value.code == 0
    assert "class_path: train." in capsys.readouterr().out


def test_no_config_for_anybodys_data_names_a_source_of_ours() -> None:
    named = [path for path in CONFIGS.rglob("*.yaml") if "source_weights" in path.read_text()]
    assert named == [CONFIGS / "recipe" / "sources.yaml"]


def test_values_are_given_once_and_a_run_lies_in_its_folder(tmp_path: Path) -> None:
    given = {"seed_everything": 3, "trainer.max_steps": 9, "trainer.default_root_dir": tmp_path}
    words = [f"--{name}={value}" for name, value in given.items()]
    with mock.patch.object(StageCLI, "_run_subcommand"):
        cli = StageCLI(args=["fit", "--config", str(CONFIGS / "tiny.yaml"), *words])
    assert cli.datamodule.seed == cli.model.config.seed == 3
    assert cli.model.config.optimizer.max_steps == 9
    assert cli.trainer.check_val_every_n_epoch is None, "base.yaml is read by itself"
    assert cli.trainer.checkpoint_callback.dirpath == str(tmp_path / "checkpoints")
    assert [logger.log_dir for logger in cli.trainer.loggers] == [
        str(tmp_path / name / "version_0") for name in ("tensorboard", "csv")
    ]


@pytest.mark.parametrize("path", sorted((CONFIGS / "models").glob("*.json")), ids=lambda path: path.stem)
def test_model_configs_make_models(path: Path) -> None:
    config = TokenizerConfig.load(path)
    with torch.device("meta"):
        tokenizer = Tokenizer(config)
    assert config.bitrate(min(8, config.num_quantizers)) == 1550 or path.stem == "tiny"
    if path.stem == "paper":
        assert 1.1e9 < sum(p.numel() for p in tokenizer.parameters()) < 1.3e9


def test_one_step_of_the_published_model_at_reduced_depth(tmp_path: Path) -> None:
    """Published widths, windows, norms and losses, one layer each."""
    from train.data.batches import Batch

    config = replace(
        TokenizerConfig.load(CONFIGS / "models" / "paper.json"),
        encoder_layers=3,
        decoder_layers=1,
        vocoder_num_layers=1,
    )
    (tmp_path / "model.json").write_text(config.to_json())
    stage = JointStage(str(tmp_path / "model.json"), training=StageConfig(segment_seconds=0.48))
    wav = 0.1 * torch.randn(2, 24_000)
    losses = stage.losses(Batch(wav, torch.tensor([24_000, 20_000]), ["one", "two"], ["1", "2"]))
    assert losses.keys() == {"text", "mel", "commitment"}
    total = torch.stack([stage.loss_weights[name] * loss for name, loss in losses.items()]).sum()
    total.backward()
    for name, parameter in stage.tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
