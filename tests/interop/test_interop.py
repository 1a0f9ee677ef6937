"""Our models under others' interfaces: their signatures as published, and the codes of `Tokenizer`, batched or not."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mimotok.interop import audiocodecs, codec_superb
from mimotok.interop.torchaudio import MIMO_TOKENIZER, MimoTokenizerBundle
from mimotok.io.audio import resample
from mimotok.tokenizer import Tokenizer
from tests.helpers.models import TINY, make_tokenizer
from tests.model.test_quantizers import FSQ

# As published: audiocodecs 0.0.2 (audiocodecs/codec.py, mimi.py), Codec-SUPERB (SoundCodec/base_codec/general.py).
AUDIOCODECS = {
    "__init__": ["self", "sample_rate", "mode", "num_codebooks"],
    "forward": ["self", "input", "length"],
    "sig_to_toks": ["self", "sig", "length"],
    "sig_to_feats": ["self", "sig", "length"],
    "sig_to_qfeats": ["self", "sig", "length"],
    "toks_to_sig": ["self", "toks", "length"],
    "toks_to_qfeats": ["self", "toks", "length"],
    "feats_to_sig": ["self", "feats", "length"],
    "resample": ["self", "toks", "p", "temp", "top_k", "top_p"],
    "logits": ["self"],
    "embs": ["self"],
}
CODEC_SUPERB = {
    "__init__": ["self"],
    "config": ["self"],
    "extract_unit": ["self", "data"],
    "decode_unit": ["self", "stuff_for_synth"],
    "is_1d": ["self"],
    "synth": ["self", "data", "local_save"],
    "batch_extract_unit": ["self", "data_list"],
    "batch_decode_unit": ["self", "batch_extracted_unit"],
    "batch_synth": ["self", "data_list", "local_save"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    make_tokenizer(TINY).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(folder)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "published"), [(audiocodecs.MimoCodec, AUDIOCODECS), (codec_superb.Codec, CODEC_SUPERB)]
)
def test_signatures_are_those_that_are_published(kind: type, published: dict[str, list[str]]) -> None:
    for method, names in published.items():
        parameters = inspect.signature(getattr(kind, method)).parameters
        assert list(parameters)[: len(names)] == names, method
        # what we have besides is never needed
        assert all(p.default is not p.empty for p in list(parameters.values())[len(names) :]), method


def test_audiocodecs_gives_the_tokens_of_the_tokenizer_in_its_shapes(folder: Path, tokenizer: Tokenizer) -> None:
    codec = audiocodecs.MimoCodec(24000, num_codebooks=3, source=folder)
    wav = torch.from_numpy(np.stack([noise(4800), noise(4800, 1)]))
    wav[1, 2400:] = 0
    toks = codec.sig_to_toks(wav, torch.tensor([1.0, 0.5]))
    assert toks.shape == (2, 6, 3)
    assert torch.equal(toks[0].T, tokenizer.encode(wav[:1], n_q=3)[0])
    alone = tokenizer.encode(wav[1:, :2400], n_q=3)[0]
    assert torch.equal(toks[1, : alone.shape[1]].T, alone)
    assert not toks[1, alone.shape[1] :].any()
    feats = codec.sig_to_feats(wav)
    assert torch.equal(feats, tokenizer.encode_latents(wav).values)
    torch.testing.assert_close(codec.toks_to_sig(toks[:1]), tokenizer.decode(toks[:1].movedim(2, 1)))
    embs = codec.embs()
    assert embs.shape == (3, codec.vocab_size, feats.shape[2])
    # features minus nothing is what the first codebook is searched with
    assert torch.equal(torch.cdist(feats[0], embs[0]).argmin(1), codec.sig_to_toks(wav)[0, :, 0])


def test_audiocodecs_features_lead_to_the_same_sound(folder: Path) -> None:
    codec = audiocodecs.MimoCodec(24000, num_codebooks=3, source=folder)
    wav = torch.from_numpy(np.stack([noise(4800), noise(4800, 1)]))
    share = torch.tensor([1.0, 0.5])
    toks = codec.sig_to_toks(wav, share)
    frames = torch.tensor([1.0, 3 / 6])
    quantized = codec.sig_to_qfeats(wav, share)
    assert torch.equal(quantized, codec.toks_to_qfeats(toks, frames))
    assert quantized.shape == codec.sig_to_feats(wav, share).shape
    assert not quantized[1, 3:].any()
    torch.testing.assert_close(codec.feats_to_sig(quantized, frames), codec.toks_to_sig(toks, frames))


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_p": 0.5}])
def test_audiocodecs_draws_other_tokens_of_the_same_codebooks(folder: Path, options: dict) -> None:
    """The last codebook is half as large as the others."""
    codec = audiocodecs.MimoCodec(24000, num_codebooks=3, source=folder)
    toks = torch.stack([torch.randint(0, size, (2, 40)) for size in codec.model.codebook_sizes[:3]], dim=2)
    others = codec.resample(toks, p=1.0, **options)
    assert (others != toks).all()
    codec.model.dequantize(others.movedim(2, 1))
    if options.get("top_k") == 1:
        assert torch.equal(others[0, :, 2], codec.logits()[2].argmax(1)[toks[0, :, 2]])
    assert torch.equal(codec.resample(toks, p=0.0), toks)
    with pytest.raises(ValueError, match="give one of them"):
        codec.resample(toks, top_k=1, top_p=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", audiocodecs.MODES)
def test_audiocodecs_does_what_its_mode_says_at_any_rate(folder: Path, mode: str) -> None:
    codec = audiocodecs.MimoCodec(10000, mode, source=folder)
    wav = torch.from_numpy(noise(5000))[None]
    high = torch.from_numpy(resample(wav[0].numpy(), 10000, 24000))[None]
    toks = codec.model.encode(high).movedim(1, 2)
    if mode == "encode":
        assert torch.equal(codec(wav), toks)
    elif mode == "decode":
        assert codec(toks).shape == (1, round(toks.shape[1] * 960 * 10000 / 24000))
    else:
        assert codec(wav).shape == wav.shape


def test_audiocodecs_refuses_another_mode(folder: Path) -> None:
    with pytest.raises(ValueError, match="encode, decode, reconstruct"):
        audiocodecs.MimoCodec(24000, "both", source=folder)


@pytest.fixture
def superb(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> codec_superb.Codec:
    monkeypatch.chdir(tmp_path)

    class Tiny(codec_superb.Codec):
        source = folder
        n_q = 2

    return Tiny()


def item(samples: int, rate: int = 24000, seed: int = 0) -> dict:
    return {"id": f"clip{seed}", "audio": {"array": noise(samples, seed).astype(np.float64), "sampling_rate": rate}}


def test_codec_superb_batches_equal_single_items(superb: codec_superb.Codec, tokenizer: Tokenizer) -> None:
    items = [item(4800), item(3000, seed=1), item(2000, 16000, seed=2)]
    together = superb.batch_extract_unit(items)
    sounds = superb.batch_decode_unit(together)
    assert together.batch_size == 3
    for data, unit, wav in zip(items, together.units, sounds, strict=True):
        alone = superb.extract_unit(data)
        assert alone.to_dict().keys() == {"unit", "stuff_for_synth"}
        assert torch.equal(alone.unit, unit)
        np.testing.assert_allclose(superb.decode_unit(alone.stuff_for_synth), wav, atol=1e-5)
    assert torch.equal(together.units[0], tokenizer.encode(torch.from_numpy(noise(4800))[None], n_q=2)[0])
    assert [len(wav) for wav in sounds] == [4800, 3000, 3000]
    assert not superb.is_1d()
    with pytest.raises(ValueError, match="one channel"):
        superb.extract_unit({"audio": {"array": np.zeros((2, 100)), "sampling_rate": 24000}})


def test_codec_superb_synthesizes_at_the_rate_of_its_input(superb: codec_superb.Codec) -> None:
    data = superb.synth(item(2000, 16000), local_save=False)
    assert data["audio"]["sampling_rate"] == 16000
    assert data["audio"]["array"].shape == (2000,)
    assert data["unit"].shape[0] == 2
    data = superb.synth(item(2000, 16000))
    assert data["audio"] == {"path": str(Path("reconstructed_mimotok_2q/clip0.wav")), "sampling_rate": 16000}
    assert soundfile.info(data["audio"]["path"]).samplerate == 16000
    # a file is a sound as well
    again = superb.extract_unit({"audio": data["audio"]["path"]})
    assert torch.equal(superb.extract_unit(data).unit, again.unit)
    assert superb.batch_synth([item(2000, 16000)])[0]["audio"] == str(Path("dummy_mimotok_2q/clip0.wav"))
    assert superb.batch_synth([]) == []


def test_a_bundle_knows_its_rates_and_gives_a_module(folder: Path, tokenizer: Tokenizer) -> None:
    bundle = MimoTokenizerBundle(folder, n_q=2)
    assert (bundle.sample_rate, bundle.frame_rate, len(bundle.codebook_sizes)) == (24000, 25.0, 2)
    model = bundle.get_model()
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    wav = torch.from_numpy(np.stack([noise(4800), noise(4800, 1)]))
    codes, none = model(wav)
    assert none is None
    assert torch.equal(codes, tokenizer.encode(wav, n_q=2))
    lengths = torch.tensor([4800, 2400])
    codes, frames = model(wav, lengths)
    assert torch.equal(codes, tokenizer.encode(wav, lengths, n_q=2).values)
    sound, samples = model.decode(codes, frames)
    wanted = tokenizer.decode(codes, frames)
    assert torch.equal(sound, wanted.values)
    assert samples is not None
    assert torch.equal(samples, wanted.lengths)
    # what the module is called from is a value: equal bundles are one
    assert MimoTokenizerBundle() == MIMO_TOKENIZER


@pytest.mark.parametrize("samples", [5047, 4800, 4801, 900])
def test_audiocodecs_reconstructs_padded_items_as_alone(folder: Path, samples: int) -> None:
    codec = audiocodecs.MimoCodec(24000, source=folder)
    wavs = torch.from_numpy(np.stack([noise(10_300, seed) for seed in (0, 1)]))
    length = torch.tensor([1.0, samples / 10_300])
    wavs[1, samples:] = 0
    together = codec(wavs, length)
    alone = codec(wavs[1:, :samples])
    torch.testing.assert_close(together[1, :samples], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [[1.0, 0.0], [1.0, -1.0], [10_300, 5_000], [1.0, float("nan")], [1.0]])
def test_audiocodecs_refuses_what_is_no_share(folder: Path, length: list[float]) -> None:
    codec = audiocodecs.MimoCodec(24000, source=folder)
    for call, given in ((codec, torch.zeros(2, 10_300)), (codec.toks_to_sig, torch.zeros(2, 11, 4, dtype=torch.int64))):
        with pytest.raises(ValueError, match="its valid share"):
            call(given, torch.tensor(length))


def test_audiocodecs_refuses_what_it_cannot_draw_from(folder: Path, tmp_path: Path) -> None:
    codec = audiocodecs.MimoCodec(24000, source=folder)
    toks = torch.zeros(1, 5, codec.num_codebooks, dtype=torch.int64)
    with pytest.raises(ValueError, match="top_k=0"):
        codec.resample(toks, top_k=0)
    with pytest.raises(ValueError, match="toks has shape"):
        codec.resample(toks[..., 1:])
    make_tokenizer(FSQ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no codebooks"):
        audiocodecs.MimoCodec(24000, source=tmp_path).embs()


@pytest.mark.parametrize("name", ["../esc", "a/../../esc", "/esc"])
def test_codec_superb_writes_below_its_folder_alone(
    superb: codec_superb.Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    name = name if name != "/esc" else str(tmp_path / "esc")
    item = {"audio": {"array": noise(2_000), "sampling_rate": 24_000}, "id": name}
    with pytest.raises(ValueError, match="a file of that name would lie outside"):
        superb.synth(dict(item))
    assert not list(tmp_path.rglob("*.wav"))
    superb.synth(item | {"id": "speaker/one"})
    assert len(list(inside.rglob("one.wav"))) == 1


def test_codec_superb_takes_paths_and_refuses_a_rate_of_0(superb: codec_superb.Codec, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(2_000), 24_000)
    unit = superb.extract_unit({"audio": tmp_path / "a.wav"}).unit
    assert torch.equal(unit, superb.extract_unit({"audio": str(tmp_path / "a.wav")}).unit)
    with pytest.raises(ValueError, match="sampling_rate=0"):
        superb.extract_unit({"audio": {"array": noise(2_000), "sampling_rate": 0}})
