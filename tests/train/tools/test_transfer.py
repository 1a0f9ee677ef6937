"""What tuning gave is added to later weights: exactly, with their codes, and refused where codes were changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.models import TINY, make_tokenizer

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok import Tokenizer
from train.tools.transfer import transfer


def changed(tokenizer: Tokenizer, folder: Path, part: str, seed: int) -> Path:
    """Save a copy of a model, a part of which differs."""
    generator = torch.Generator().manual_seed(seed)
    copy = make_tokenizer(TINY)
    copy.load_state_dict(tokenizer.state_dict())
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            if name.startswith(part):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    copy.save_pretrained(folder)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Tuned, before, after."""
    before = make_tokenizer(TINY)
    before.save_pretrained(tmp_path / "before")
    tuned = changed(before, tmp_path / "tuned", "decoder", 1)
    return tuned, tmp_path / "before", changed(before, tmp_path / "after", "", 2)


def test_the_difference_is_added_and_codes_are_those_of_after(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    transfer(*models, tmp_path / "out", dtype="float32")
    tuned, before, after, out = (Tokenizer.from_pretrained(folder) for folder in (*models, tmp_path / "out"))
    for name, weight in out.state_dict().items():
        difference = tuned.state_dict()[name] - before.state_dict()[name]
        torch.testing.assert_close(weight, after.state_dict()[name] + difference, msg=name)
    wav = 0.1 * torch.randn(1, 9600)
    assert torch.equal(out.encode(wav), after.encode(wav))
    assert not torch.equal(out.encode(wav), before.encode(wav))


def test_a_tuned_model_of_other_codes_is_refused(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, before, after = models
    with pytest.raises(ValueError, match="differ in encoder"):
        transfer(after, before, after, tmp_path / "out")
    assert not (tmp_path / "out").exists()
