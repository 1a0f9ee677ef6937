"""Sizes and rates over a named base: one step of tiny models at all sample and frame rates, by configs and by flags."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from tests.helpers.paths import CONFIGS
from tests.helpers.training_runs import make_speech

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from train.losses.spectral import MelLoss
from train.run.cli import StageCLI

pytestmark = pytest.mark.slow

SIZES = "--model.init_args.model"
# all that filter by frequency
WEIGHTS = "{mel: 1.0, commitment: 1.0, disturbance: 0.1, stoi: 1.0, stft: 0.1, complex: 0.1}"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_speech(tmp_path_factory.mktemp("speech"))


def parsed(speech: Path, *words: object) -> StageCLI:
    data = ("--data.manifest", speech / "manifest.jsonl", "--data.root", speech)
    with mock.patch.object(StageCLI, "_run_subcommand"), mock.patch("sys.argv", ["train"]):
        return StageCLI(args=["fit", "--config", *map(str, (CONFIGS / "tiny.yaml", *words, *data))])


def rates(*names: str) -> list[str]:
    return [word for name in names for word in ("--config", str(CONFIGS / "rate" / f"{name}.yaml"))]


@pytest.mark.parametrize(
    ("words", "sample_rate", "frame_rate"),
    [
        (rates("16k"), 16_000, 25.0),
        (rates("12hz5"), 24_000, 12.5),
        (rates("44k1", "50hz"), 44_100, 50.0),
        ([f"{SIZES}.sampling_rate=48000", f"{SIZES}.hop_length=480", f"{SIZES}.nfft=1920", f"{SIZES}.window_size=1920",
          f"{SIZES}.d_model", 48, f"{SIZES}.avg_pooler", 4], 48_000, 12.5),
    ],
    ids=["16k", "12.5 Hz", "44.1k 50 Hz", "48k by flags"],
)  # fmt: skip
def test_a_step_at_every_rate(words: list[object], sample_rate: int, frame_rate: float, speech: Path) -> None:
    cli = parsed(speech, *words, "--model.init_args.loss_weights", WEIGHTS)
    stage = cli.model
    config = stage.tokenizer.config
    assert (config.sample_rate, config.frame_rate) == (sample_rate, frame_rate)
    assert config.d_model == (48 if 48 in words else 32)
    assert config.codebook_sizes == (32, 32, 16, 16), "what is not changed is the base's"
    assert cli.datamodule.sample_rate == stage.config.mel_loss.sample_rate == sample_rate
    stage.trainer = SimpleNamespace(datamodule=cli.datamodule)
    stage.setup()
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert batch.lengths.max() / sample_rate < 3
    losses = stage.losses(batch)
    assert set(losses) == {"mel", "commitment", "disturbance", "stoi", "stft", "complex"}
    torch.stack([stage.loss_weights[name] * loss for name, loss in losses.items()]).sum().backward()
    for name, parameter in stage.tokenizer.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_data_of_another_rate_is_refused(speech: Path) -> None:
    cli = parsed(speech, "--data.sample_rate", 22_050)
    cli.model.trainer = SimpleNamespace(datamodule=cli.datamodule)
    with pytest.raises(ValueError, match=r"data\.sample_rate=22050, but the model is of 24000 Hz"):
        cli.model.setup()


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_the_mel_loss_has_windows_of_the_same_times_at_every_rate(rate: int) -> None:
    recipe = MelLoss(((32, 240, 120), (64, 480, 240), (128, 960, 480), (256, 1920, 480)), (0.0, 0.3))
    assert recipe.at_rate(24_000) is recipe
    # building it checks that no filter is empty
    loss = recipe.at_rate(rate)
    assert loss.sample_rate == rate
    for (bins, window, hop), (given_bins, given_window, given_hop) in zip(loss.scales, recipe.scales, strict=True):
        assert window / rate == pytest.approx(given_window / 24_000, rel=0.01)
        assert hop / rate == pytest.approx(given_hop / 24_000, rel=0.01)
        assert (bins > given_bins) == (rate > 24_000)
    wav = 0.1 * torch.randn(2, rate)
    assert float(loss(wav, wav)) == 0
    assert float(loss(wav, 0.5 * wav)) > 0
