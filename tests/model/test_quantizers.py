"""Kinds of quantizers: finite scalars equal the library's, all that holds codes works with them, others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mimotok import StreamDecoder, StreamEncoder, Tokenizer, TokenizerConfig, register_quantizer
from mimotok.info import read_info
from mimotok.io.codes_file import load_codes
from mimotok.model.quantizer import PIECE, Search, Tables, search_codes, weigh
from mimotok.model.quantizers import make_quantizer
from tests.helpers.models import STREAMABLE, make_tokenizer

FSQ = replace(
    STREAMABLE, quantizer="fsq", quantizer_settings={"levels": [8, 5, 3]}, codebook_sizes=(120,), num_quantizers=3
)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [3], [4, 7]])
@torch.no_grad()
def test_finite_scalars_are_those_of_the_library(levels: list[int]) -> None:
    library = pytest.importorskip("vector_quantize_pytorch", reason="needs: pip install 'mimotok[train]'")
    size = int(np.prod(levels))
    ours = make_quantizer(replace(FSQ, quantizer_settings={"levels": levels}, codebook_sizes=(size,)))
    theirs = library.FSQ(levels, dim=FSQ.d_model, num_codebooks=3)
    theirs.load_state_dict(ours.state_dict())
    latents = 3 * torch.randn(2, 50, FSQ.d_model)
    quantized, codes = theirs(latents)
    assert torch.equal(ours.encode(latents, 3), codes.long().mT)
    torch.testing.assert_close(ours.decode(codes.long().mT), quantized)
    every = torch.arange(size).expand(3, 1, -1).transpose(0, 1)
    torch.testing.assert_close(ours.decode(every), theirs.indices_to_codes(every.mT))


@torch.no_grad()
def test_a_codebook_that_is_not_in_use_is_left_out() -> None:
    for config in (FSQ, STREAMABLE):
        quantizer = make_tokenizer(config).encoder.quantizer
        codes = quantizer.encode(torch.randn(2, 7, config.d_model), config.num_quantizers)
        without = codes.clone()
        without[:, 1:] = -1
        assert torch.equal(quantizer.decode(without), quantizer.decode(codes[:, :1]))
        assert not torch.equal(quantizer.decode(without), quantizer.decode(codes))


def residual_error(latents: Tensor, tables: list[Tensor], codes: Tensor) -> Tensor:
    """Return what codes [N, n_q] leave of latents [N, D], [N]."""
    found = torch.stack([table[code] for table, code in zip(tables, codes.T, strict=False)]).sum(0)
    return (latents - found).square().sum(1)


def test_a_beam_that_keeps_all_finds_the_best_codes_after_the_first() -> None:
    latents = torch.randn(40, 6)
    tables = [torch.randn(size, 6) / (1 + index) for index, size in enumerate((5, 4, 3))]
    found = search_codes(latents, Tables(tables), 3, Search(64, 3))
    assert torch.equal(found[:, 0], torch.cdist(latents, tables[0]).argmin(1))
    for latent, codes in zip(latents, found, strict=True):
        rest = torch.cartesian_prod(torch.arange(4), torch.arange(3))
        every = torch.cat([codes[:1].expand(len(rest), 1), rest], 1)
        errors = residual_error(latent.expand(len(every), -1), tables, every)
        torch.testing.assert_close(residual_error(latent[None], tables, codes[None])[0], errors.min())


def test_a_wider_beam_comes_closer_and_codes_of_fewer_codebooks_come_first() -> None:
    latents = torch.randn(500, 16)
    tables = [torch.randn(32, 16) * 0.7**index for index in range(6)]
    errors = []
    for beam in (1, 2, 8, 32):
        codes = search_codes(latents, Tables(tables), 6, Search(beam, 4))
        for n_q in range(1, 6):
            assert torch.equal(search_codes(latents, Tables(tables), n_q, Search(beam, 4)), codes[:, :n_q])
        errors.append(float(residual_error(latents, tables, codes[:, :4]).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.05 * errors[2]


def test_long_clips_are_searched_in_pieces_with_the_codes_of_each_alone() -> None:
    latents = torch.randn(2 * PIECE + 3, 16)
    tables = [torch.randn(64, 16) * 0.7**index for index in range(4)]
    with torch.profiler.profile(record_shapes=True) as profile:
        codes = search_codes(latents, Tables(tables), 4, Search(8, 4))
    sizes = [event.input_shapes[0][0] for event in profile.events() if event.name == "aten::topk"]
    assert max(sizes) == PIECE
    parts = [search_codes(part, Tables(tables), 4, Search(8, 4)) for part in (latents[:100], latents[100:])]
    assert torch.equal(codes, torch.cat(parts))


WEIGHTED = replace(STREAMABLE, default_n_q=3, quantizer_settings={"beam": 4, "weighted": True})


@pytest.mark.parametrize("beam", [1, 8])
def test_a_weighted_search_leaves_less_of_what_counts(beam: int) -> None:
    latents = torch.randn(500, 16)
    tables = [torch.randn(32, 16) * 0.7**index for index in range(4)]
    weighting = torch.diag(torch.linspace(0.2, 2, 16))
    plain = search_codes(latents, Tables(tables), 4, Search(beam, 4))
    weighted = search_codes(latents, weigh(tables, weighting), 4, Search(beam, 4))
    assert torch.equal(plain[:, 0], weighted[:, 0])
    seen = [table @ weighting for table in tables]
    left = [residual_error(latents @ weighting, seen, codes).mean() for codes in (plain, weighted)]
    assert left[1] < 0.95 * left[0]
    # the identity changes nothing
    same = search_codes(latents, weigh(tables, torch.eye(16)), 4, Search(beam, 4))
    assert torch.equal(same, plain)


@torch.no_grad()
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weighted_codes_follow_a_change_of_codebooks_and_weighting(mode: Callable[[], Any]) -> None:
    with mode():
        quantizer = make_tokenizer(WEIGHTED).encoder.quantizer
        latents = torch.randn(1, 200, STREAMABLE.d_model)

        def expected() -> Tensor:
            tables = weigh([book.embed for book in quantizer.codebooks()], quantizer.weighting)
            return search_codes(latents[0], tables, 3, quantizer.search).T[None]

        seen = [quantizer.encode(latents, 3)]
        assert torch.equal(seen[0], expected())
        quantizer.codebooks()[1].embed.mul_(-1)
        seen.append(quantizer.encode(latents, 3))
        assert torch.equal(seen[1], expected())
        quantizer.weighting = quantizer.weighting.roll(1, 0)
        seen.append(quantizer.encode(latents, 3))
        assert torch.equal(seen[2], expected())
        # of which no version number tells, as averages of weights are swapped in
        quantizer.codebooks()[2].embed.data.copy_(-quantizer.codebooks()[2].embed)
        seen.append(quantizer.encode(latents, 3))
        assert torch.equal(seen[3], expected())
        # a copy begins to count versions anew
        quantizer = deepcopy(quantizer)
        quantizer.codebooks()[1].embed.mul_(-1)
        seen.append(quantizer.encode(latents, 3))
        assert torch.equal(seen[4], expected())
        assert len({codes.numpy().tobytes() for codes in seen}) == 5


@pytest.mark.parametrize("config", [STREAMABLE, WEIGHTED, FSQ])
@torch.no_grad()
def test_autocast_leaves_quantizers_in_full_precision(config: TokenizerConfig) -> None:
    quantizer = make_tokenizer(config).encoder.quantizer
    latents = 10 + torch.randn(2, 300, config.d_model)
    codes = quantizer.encode(latents, 3)
    decoded = quantizer.decode(codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(latents, 3), codes)
        assert torch.equal(quantizer.decode(codes), decoded)


@torch.no_grad()
@pytest.mark.parametrize("weighted", [False, True])
def test_another_search_passes_through_files_batches_and_streams(tmp_path: Path, weighted: bool) -> None:
    plain = make_tokenizer(replace(STREAMABLE, default_n_q=3))
    changed = make_tokenizer(replace(WEIGHTED, quantizer_settings={"beam": 4, "weighted": weighted}))
    changed.load_state_dict(plain.state_dict(), strict=not weighted)
    changed.save_pretrained(tmp_path, dtype=torch.float16)
    plain.load_state_dict(Tokenizer.from_pretrained(tmp_path).state_dict(), strict=not weighted)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.encoder.quantizer.beam == 4
    if weighted:
        assert torch.equal(tokenizer.encoder.quantizer.weighting, changed.encoder.quantizer.weighting)
    wav = torch.randn(2, 24000)
    codes = tokenizer.encode(wav)
    assert torch.equal(codes[:, 0], plain.encode(wav)[:, 0])
    assert not torch.equal(codes, plain.encode(wav))
    assert torch.equal(tokenizer.encode(wav[1:]), codes[1:])
    stream = StreamEncoder(tokenizer)
    parts = [stream.push(part) for part in wav[:1].split(1000, dim=1)]
    assert torch.equal(torch.cat([*parts, stream.flush()], 2), codes[:1])


@torch.no_grad()
def test_finite_scalars_pass_through_all_that_holds_codes(tmp_path: Path) -> None:
    from mimotok.io.audio import save_audio
    from mimotok.transcode import decode_file, encode_file

    original = make_tokenizer(FSQ)
    original.save_pretrained(tmp_path / "model", dtype=torch.float16)
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert stored["quantizer"] == "fsq"
    assert stored["quantizer_settings"] == {"levels": [8, 5, 3]}
    # decisive layers stay as they are, also where the model is half precision
    half = Tokenizer.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    for name, tensor in original.encoder.quantizer.state_dict().items():
        assert torch.equal(half.half().encoder.quantizer.state_dict()[name], tensor), name
    tokenizer = Tokenizer.from_pretrained(tmp_path / "model")
    wav = torch.sin(torch.arange(24_000) * 0.05)[None] * torch.linspace(0, 0.5, 24_000)
    codes = tokenizer.encode(wav)
    assert codes.shape[1] == 3
    assert codes.unique().numel() > 5
    batch = tokenizer.encode(wav.repeat(2, 1), torch.tensor([24_000, 9_600]))
    assert torch.equal(batch.values[1:, :, :11], tokenizer.encode(wav[:, :9_600]))
    encoder = StreamEncoder(tokenizer)
    streamed = torch.cat([*(encoder.push(part) for part in wav.split(5_000, 1)), encoder.flush()], 2)
    assert torch.equal(streamed, codes)
    decoder = StreamDecoder(tokenizer)
    heard = torch.cat([*(decoder.push(part) for part in codes.split(4, 2)), decoder.flush()], 1)
    torch.testing.assert_close(heard, tokenizer.decode(codes), atol=1e-5, rtol=1e-4)
    save_audio(tmp_path / "a.wav", wav[0], 24_000)
    encode_file(tokenizer, tmp_path / "a.wav", tmp_path / "a.npz", n_q=2)
    held = load_codes(tmp_path / "a.npz")
    assert held.codebook_sizes == (120, 120)
    assert held.bitrate == pytest.approx(tokenizer.bitrate(2)) == pytest.approx(25 * 2 * np.log2(120))
    decode_file(tokenizer, tmp_path / "a.npz", tmp_path / "b.wav")
    facts = read_info(tmp_path / "model")
    assert facts["quantizer"] == "fsq"
    assert facts["codebooks"] == "3 (3 x 120 entries), 3 in use"
    with pytest.raises(ValueError, match="has 120 entries"):
        tokenizer.decode(torch.full((1, 3, 4), 120))
    with pytest.raises(ValueError, match="has 3 codebooks"):
        tokenizer.encode(wav, n_q=4)


def test_finite_scalars_in_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs: pip install 'mimotok[hf]'")
    import mimotok.hf as adapter

    tokenizer = make_tokenizer(FSQ)
    tokenizer.save_pretrained(tmp_path / "ours")
    model = adapter.MimoAudioTokenizerModel.from_pretrained(tmp_path / "ours")
    wav = torch.sin(torch.arange(9_600) * 0.05)[None]
    assert torch.equal(model.encode(wav).audio_codes, tokenizer.encode(wav))
    model.save_pretrained(tmp_path / "theirs")
    assert torch.equal(Tokenizer.from_pretrained(tmp_path / "theirs").encode(wav), tokenizer.encode(wav))


class Sign(nn.Module):
    """Codes of one bit each: the sign of the mean of a part of the latent."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(config.num_quantizers, config.d_model))

    def encode(self, latents: Tensor, n_q: int) -> Tensor:
        return (latents.chunk(len(self.scale), -1)[0].mean(-1) > 0).long()[:, None].repeat(1, n_q, 1)

    def decode(self, codes: Tensor) -> Tensor:
        return (2.0 * codes.clamp(min=0) - 1).mT @ self.scale[: codes.shape[1]]


def test_an_own_kind_lives_where_it_is_registered_and_is_refused_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mimotok.model import quantizers

    monkeypatch.setattr(quantizers, "_registered", {})
    register_quantizer("sign", Sign)
    config = replace(STREAMABLE, quantizer="sign", codebook_sizes=(2,), num_quantizers=3)
    make_quantizer(config)
    tokenizer = Tokenizer(config)
    tokenizer.save_pretrained(tmp_path)
    wav = torch.sin(torch.arange(9_600) * 0.05)[None]
    assert torch.equal(Tokenizer.from_pretrained(tmp_path).encode(wav), tokenizer.encode(wav))
    quantizers._registered.clear()
    message = r"quantizer='sign': known here are residual_vq, fsq; .*register_quantizer\('sign'"
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_pretrained(tmp_path)
    assert read_info(tmp_path)["quantizer"] == "sign (not known here)"
    with pytest.raises(ValueError, match="mimotok has one of this name"):
        register_quantizer("fsq", Sign)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "os.system"}, "quantizer='os.system': known here are"),
        ({"quantizer_settings": {"levels": [2, 5]}}, r"levels=\[2, 5\]: give 1 to 16 whole numbers of at least 3"),
        ({"quantizer_settings": {"levels": [65535, 65535]}}, "whose product is at most 65536"),
        ({"quantizer_settings": {"levels": 5}}, "fsq takes levels"),
        ({"quantizer_settings": {}}, "fsq takes levels"),
        ({"quantizer_settings": {"levels": [8, 5], "more": 1}}, "fsq takes levels"),
        ({"quantizer_settings": {"levels": [8, 5]}}, "make 40 entries of every codebook: give 40"),
        ({"quantizer_settings": {"a": {"b": 1}}}, "quantizer_settings={'a': {'b': 1}}: give at most 16 names"),
        ({"quantizer": "residual_vq"}, "residual_vq takes a beam of 1 to 64 candidates, and weighted"),
        ({"quantizer": "residual_vq", "quantizer_settings": {"beam": 0}}, "takes a beam of 1 to 64"),
        ({"quantizer": "residual_vq", "quantizer_settings": {"beam": True}}, "takes a beam of 1 to 64"),
        ({"quantizer": "residual_vq", "quantizer_settings": {"weighted": 1}}, "weighted, true or false"),
        ({"quantizer": 3}, "quantizer=3: give 1 to 64 printable characters"),
    ],
)
def test_configurations_of_strangers_are_refused_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        Tokenizer(replace(FSQ, **changes))
    assert "\n" not in str(refused.value)


def test_the_official_kind_leaves_no_trace_in_files() -> None:
    assert not {"quantizer", "quantizer_settings"} & STREAMABLE.to_official().keys()
    assert TokenizerConfig.from_official(FSQ.to_official()) == FSQ
