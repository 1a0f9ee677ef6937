"""Pruning: units that do nothing go for free, those that others can stand in for too, and bad widths are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers.models import TINY, make_tokenizer

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

from mimotok import Tokenizer
from train.tools.prune import prune, second_moments

WIDTHS = ("encoder_ffn_dim", "decoder_ffn_dim", "vocoder_intermediate_dim")


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    lines = []
    for number in range(4):
        wav = 0.3 * np.random.default_rng(number).standard_normal(24_000)
        soundfile.write(tmp_path / f"{number}.wav", wav, 24_000)
        lines.append(json.dumps({"audio": f"{number}.wav", "duration": 1.0, "source": "noise", "split": "train"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    return str(tmp_path / "manifest.jsonl")


def wide_model(folder: Path) -> Tokenizer:
    """Half of the units of every layer are copies of the other half, so that nothing is lost without them."""
    tokenizer = make_tokenizer(TINY)
    with torch.no_grad():
        for stack in tokenizer.stacks():
            for block in stack.blocks():
                half = block.fc1.out_features // 2
                block.fc1.weight[half:] = block.fc1.weight[:half]
                block.fc1.bias[half:] = block.fc1.bias[:half]
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.slow
def test_units_that_others_stand_in_for_cost_nothing(tmp_path: Path, manifest: str) -> None:
    wide = wide_model(tmp_path / "wide")
    halves = {name: getattr(wide.config, name) // 2 for name in WIDTHS}
    prune(tmp_path / "wide", tmp_path / "narrow", manifest, root=str(tmp_path), widths=halves, dtype="float32")
    narrow = Tokenizer.from_pretrained(tmp_path / "narrow")
    assert {name: getattr(narrow.config, name) for name in WIDTHS} == halves
    wav = 0.3 * torch.randn(1, 24_000)
    torch.testing.assert_close(narrow.encode_latents(wav).values, wide.encode_latents(wav).values, atol=2e-2, rtol=0)
    codes = wide.encode(wav)
    torch.testing.assert_close(narrow.decode(codes), wide.decode(codes), atol=2e-3, rtol=0)


def test_a_stack_that_is_not_named_stays_as_it_is(tmp_path: Path, manifest: str) -> None:
    wide = wide_model(tmp_path / "wide")
    widths = {"vocoder_intermediate_dim": 3, "encoder_ffn_dim": None}
    prune(tmp_path / "wide", tmp_path / "narrow", manifest, root=str(tmp_path), widths=widths, dtype="float32")
    narrow = Tokenizer.from_pretrained(tmp_path / "narrow")
    assert narrow.decoder.vocoder.layers[0].fc2.in_features == 3
    assert torch.equal(narrow.encode(torch.ones(1, 960)), wide.encode(torch.ones(1, 960)))


def test_the_moments_are_those_of_the_units() -> None:
    tokenizer = make_tokenizer(TINY)
    block = next(tokenizer.encoder.layers.blocks())
    seen: list[torch.Tensor] = []
    block.fc2.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].double()))
    moments = second_moments(tokenizer, [block], iter([0.1 * torch.randn(1, 9_600)]))[block]
    torch.testing.assert_close(moments[:-1, :-1], seen[0].T @ seen[0])
    torch.testing.assert_close(moments[-1, :-1], seen[0].sum(0))
    assert moments[-1, -1] == len(seen[0])


@pytest.mark.parametrize("width", [0, 10**6])
def test_a_width_that_is_not_narrower_is_refused(tmp_path: Path, manifest: str, width: int) -> None:
    wide_model(tmp_path / "wide")
    with pytest.raises(ValueError, match=f"encoder_ffn_dim={width}: give 1 to"):
        prune(tmp_path / "wide", tmp_path / "out", manifest, root=str(tmp_path), widths={"encoder_ffn_dim": width})
    assert not (tmp_path / "out").exists()


def test_a_corpus_without_readable_clips_is_refused(tmp_path: Path, manifest: str) -> None:
    wide_model(tmp_path / "wide")
    with pytest.raises(ValueError, match="no training clip could be read"):
        prune(tmp_path / "wide", tmp_path / "out", manifest, root="/nowhere", widths={"encoder_ffn_dim": 4})


def test_a_file_in_the_place_of_the_folder_is_told_before_the_work(
    tmp_path: Path, manifest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide_model(tmp_path / "wide")
    (tmp_path / "file").touch()
    monkeypatch.setattr("train.tools.prune.second_moments", lambda *_: pytest.fail("it measured first"))
    with pytest.raises(ValueError, match=r"its folder .*file is not a folder"):
        prune(tmp_path / "wide", tmp_path / "file", manifest, root=str(tmp_path), widths={"encoder_ffn_dim": 4})
