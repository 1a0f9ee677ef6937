"""The mean of two models: lies between them, keeps their codes, and is refused where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.models import TINY, make_tokenizer

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok import Tokenizer
from train.tools.average import average


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Two of one encoder."""
    tokenizer = make_tokenizer(TINY)
    tokenizer.save_pretrained(tmp_path / "first")
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer.save_pretrained(tmp_path / "second")
    return tmp_path / "first", tmp_path / "second"


def state(folder: Path) -> dict[str, torch.Tensor]:
    return Tokenizer.from_pretrained(folder).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_weight_lies_between(models: tuple[Path, Path], tmp_path: Path, share: float) -> None:
    average(*models, tmp_path / "mean", share=share, dtype="float32")
    first, second, mean = (state(folder) for folder in (*models, tmp_path / "mean"))
    for name, weight in mean.items():
        torch.testing.assert_close(weight, (1 - share) * first[name] + share * second[name], msg=name)


def test_codes_stay_valid(models: tuple[Path, Path], tmp_path: Path) -> None:
    average(*models, tmp_path / "mean", dtype="float32")
    wav = 0.1 * torch.randn(1, 9600)
    codes = [Tokenizer.from_pretrained(folder).encode(wav) for folder in (*models, tmp_path / "mean")]
    assert torch.equal(codes[0], codes[2])
    assert torch.equal(codes[1], codes[2])


def test_another_encoder_is_refused_unless_new_codes_are_wanted(models: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_tokenizer(TINY)
    with torch.no_grad():
        other.encoder.conv1.bias.add_(1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="differ in encoder"):
        average(models[0], tmp_path / "other", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    average(models[0], tmp_path / "other", tmp_path / "mean", new_codes=True, dtype="float32")
    bias = "encoder.conv1.bias"
    torch.testing.assert_close(state(tmp_path / "mean")[bias], state(models[0])[bias] + 0.5)


def test_a_share_beyond_the_two_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share=2"):
        average(*models, tmp_path / "mean", share=2.0)
