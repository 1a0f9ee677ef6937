"""Speaker models: Resemblyzer, Seed-TTS-Eval's WavLM + ECAPA, and x-vectors of transformers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.metrics.base import MetricSpec
from eval.metrics.registry import make_metric
from eval.metrics.wavlm_ecapa import BACKBONE, HEAD_KEYS, WAVLM_KEYS, WavlmEcapa, load_wavlm_ecapa, renamed
from eval.protocol import SAMPLE_RATE, resample
from mimotok.io.clips.clip import Clip
from tests.helpers.evaluation_speech import CLIP, noisy, speech
from tests.helpers.wav2vec import SMALL_WAV2VEC

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def test_speaker_similarity_is_one_for_the_same_and_less_for_another() -> None:
    pytest.importorskip("resemblyzer", reason="resemblyzer (with setuptools<81) is not installed")
    metric = make_metric(MetricSpec("sim", "resemblyzer"))
    wav = speech(3.0)
    assert metric.measure(wav, wav, CLIP)["sim"] == pytest.approx(1, abs=1e-5)
    assert metric.measure(wav, noisy(wav, 0), CLIP)["sim"] < 0.99
    assert np.isnan(metric.measure(wav, np.zeros_like(wav), CLIP)["sim"])
    assert "Resemblyzer" in metric.columns[0].title


def test_each_clip_is_compared_with_its_own_original() -> None:
    pytest.importorskip("resemblyzer", reason="resemblyzer (with setuptools<81) is not installed")
    metric = make_metric(MetricSpec("sim", "resemblyzer"))
    first, second = speech(3.0), noisy(speech(3.0, 3), 0)
    metric.measure(first, first, CLIP)
    assert metric.measure(second, second, CLIP)["sim"] == pytest.approx(1, abs=1e-5)


def small_wavlm():
    return transformers.WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        conv_dim=(16, 16),
        conv_stride=(160, 2),
        conv_kernel=(160, 2),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )


OFFICIAL_HEAD = {
    "stem.": "layer1.",
    "blocks.0.": "layer2.",
    "blocks.1.": "layer3.",
    "blocks.2.": "layer4.",
    ".enter.": ".Conv1dReluBn1.",
    ".leave.": ".Conv1dReluBn2.",
    ".scales.": ".Res2Conv1dReluBn.",
    ".gate.": ".SE_Connect.",
    "join.": "conv.",
    "attend.0.": "pooling.linear1.",
    "attend.2.": "pooling.linear2.",
}
OFFICIAL_WAVLM = {
    ".conv.weight": ".0.weight",
    ".layer_norm.": ".2.1.",
}


def official_name(key):
    """A key of ours as Microsoft's file has it."""
    if not key.startswith("backbone."):
        for ours, theirs in OFFICIAL_HEAD.items():
            key = key.replace(ours, theirs) if not key.startswith("feature_weight") else key
        return key
    key = key.removeprefix("backbone.")
    if key.startswith("feature_extractor."):
        for ours, theirs in OFFICIAL_WAVLM.items():
            key = key.replace(ours, theirs)
    elif key.startswith("encoder.layers."):
        for ours, theirs in (
            ("gru_rel_pos_linear", "grep_linear"),
            ("gru_rel_pos_const", "grep_a"),
            ("rel_attn_embed", "relative_attention_bias"),
            ("feed_forward.intermediate_dense", "fc1"),
            ("feed_forward.output_dense", "fc2"),
            (".attention.", ".self_attn."),
        ):
            key = key.replace(ours, theirs)
        key = key.replace(".layer_norm.", ".self_attn_layer_norm.")
    else:
        for ours, theirs in (
            ("feature_projection.layer_norm", "layer_norm"),
            ("feature_projection.projection", "post_extract_proj"),
            ("masked_spec_embed", "mask_emb"),
            ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"),
            ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"),
            ("encoder.pos_conv_embed.conv.bias", "encoder.pos_conv.0.bias"),
        ):
            key = key.replace(ours, theirs) if key.startswith(ours) else key
    return BACKBONE + key


@pytest.mark.slow
def test_the_speaker_model_of_seed_tts_eval_loads_from_its_own_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # the head of the file has fixed widths; the WavLM under it is small here
    model = WavlmEcapa(small_wavlm()).eval()
    state = {official_name(key): tensor for key, tensor in model.state_dict().items()}
    assert len(state) == len(model.state_dict())
    assert set(renamed(state)) == set(model.state_dict())
    state["loss_calculator.projection.weight"] = torch.zeros(3)
    torch.save({"model": state}, tmp_path / "weights.pth")

    loaded = load_wavlm_ecapa(tmp_path / "weights.pth", small_wavlm())
    wav = torch.from_numpy(resample(speech(1.0), SAMPLE_RATE, 16000))[None]
    with torch.no_grad():
        embedding = loaded(wav)
        torch.testing.assert_close(embedding, model(wav))
        # WavLM-large hears a waveform of unit variance: level does not matter
        torch.testing.assert_close(loaded(0.1 * wav), embedding, atol=1e-3, rtol=1e-2)
    assert embedding.shape == (1, 256)

    del state[official_name("linear.weight")]
    torch.save({"model": state}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"lacks 1 tensors .* linear\.weight"):
        load_wavlm_ecapa(tmp_path / "less.pth", small_wavlm())
    (tmp_path / "none.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint"):
        load_wavlm_ecapa(tmp_path / "none.pth", small_wavlm())
    with pytest.raises(ValueError, match="cannot be read"):
        make_metric(MetricSpec("sim", f"wavlm:{tmp_path / 'missing.pth'}"))


def test_patterns_of_names_are_all_in_use() -> None:
    keys = [official_name(key) for key in WavlmEcapa(small_wavlm()).state_dict()]
    for pattern, _ in WAVLM_KEYS:
        assert any(re.search(pattern, key.removeprefix(BACKBONE)) for key in keys if key.startswith(BACKBONE)), pattern
    for pattern, _ in HEAD_KEYS:
        assert any(re.search(pattern, key) for key in keys if not key.startswith(BACKBONE)), pattern


def test_x_vector_models_of_transformers_give_a_similarity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        **SMALL_WAV2VEC,
        tdnn_dim=(16, 16, 16, 16, 32),
        xvector_output_dim=8,
    )
    transformers.Wav2Vec2ForXVector(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    metric = make_metric(MetricSpec("sim", str(tmp_path)))
    clip = Clip("x", str(tmp_path))
    assert metric.measure(speech(), speech(), clip)["sim"] == pytest.approx(1, abs=1e-5)
    assert metric.measure(speech(), speech(2.0, 5), clip)["sim"] < 1
    assert str(tmp_path) in metric.columns[0].title
