"""Models of other people, at small random configurations: codecs, recognisers and speaker models of transformers."""

import re

import numpy as np
import pytest
import torch

from eval.codecs import CodecSpec, make_codec
from eval.metrics import MetricSpec, make_metric
from eval.probe import run_probe
from eval.probe_model import Budget, Tokens, train_probe
from eval.protocol import SAMPLE_RATE, resample
from eval.testlists import Clip
from eval.wavlm_ecapa import BACKBONE, HEAD_KEYS, WAVLM_KEYS, WavlmEcapa, load_wavlm_ecapa, renamed
from tests.helpers.evaluation_speech import no_progress, speech

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def encodec():
    return transformers.EncodecModel(
        transformers.EncodecConfig(
            target_bandwidths=[1.5, 3.0],
            num_filters=4,
            hidden_size=16,
            codebook_dim=16,
            num_lstm_layers=1,
            upsampling_ratios=[8, 5, 4, 2],
        )
    )


def mimi():
    return transformers.MimiModel(
        transformers.MimiConfig(
            num_filters=4,
            hidden_size=32,
            codebook_size=64,
            codebook_dim=16,
            vector_quantization_hidden_dimension=16,
            num_quantizers=4,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            upsample_groups=32,
            intermediate_size=32,
        )
    )


def dac():
    return transformers.DacModel(
        transformers.DacConfig(
            encoder_hidden_size=8,
            decoder_hidden_size=64,
            downsampling_ratios=[2, 4, 8, 8],
            upsampling_ratios=[8, 8, 4, 2],
            n_codebooks=3,
            codebook_size=32,
            hidden_size=128,
        )
    )


EXTRACTORS = {
    "encodec": lambda: transformers.EncodecFeatureExtractor(sampling_rate=24000),
    "mimi": lambda: transformers.EncodecFeatureExtractor(sampling_rate=24000),
    "dac": lambda: transformers.DacFeatureExtractor(sampling_rate=16000, hop_length=512),
}
MODELS = {"encodec": encodec, "mimi": mimi, "dac": dac}


@pytest.fixture(params=MODELS)
def saved(request, tmp_path):
    torch.manual_seed(0)
    MODELS[request.param]().eval().save_pretrained(tmp_path / request.param)
    EXTRACTORS[request.param]().save_pretrained(tmp_path / request.param)
    return f"hf:{tmp_path / request.param}"


def test_codecs_of_transformers_code_and_keep_the_length(saved):
    full = make_codec(CodecSpec(saved))
    wav = resample(speech(1.0), SAMPLE_RATE, full.sample_rate)
    result = full.encode_decode(wav)
    assert abs(len(result.wav) - len(wav)) <= 0.05 * full.sample_rate
    assert result.codes.shape[0] == len(full.codebook_sizes)
    assert result.codes.max() < full.codebook_sizes[0]
    # one second may end within a frame
    assert full.nominal_bitrate <= result.stream_bits <= 1.3 * full.nominal_bitrate

    fewer = make_codec(CodecSpec(saved, 2))
    assert np.array_equal(fewer.encode(wav), result.codes[:2])
    assert fewer.nominal_bitrate == pytest.approx(full.nominal_bitrate * 2 / len(full.codebook_sizes))
    assert fewer.encode_decode(wav).wav.shape == result.wav.shape
    with pytest.raises(ValueError, match="codebooks"):
        make_codec(CodecSpec(saved, 99))


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


def test_the_speaker_model_of_seed_tts_eval_loads_from_its_own_names(tmp_path):
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


def test_patterns_of_names_are_all_in_use():
    keys = [official_name(key) for key in WavlmEcapa(small_wavlm()).state_dict()]
    for pattern, _ in WAVLM_KEYS:
        assert any(re.search(pattern, key.removeprefix(BACKBONE)) for key in keys if key.startswith(BACKBONE)), pattern
    for pattern, _ in HEAD_KEYS:
        assert any(re.search(pattern, key) for key in keys if not key.startswith(BACKBONE)), pattern


SMALL_WAV2VEC = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (160, 2),
    "conv_kernel": (160, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def test_x_vector_models_of_transformers_give_a_similarity(tmp_path):
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        **SMALL_WAV2VEC,
        tdnn_dim=(16, 16, 16, 16, 32),
        xvector_output_dim=8,
    )
    transformers.Wav2Vec2ForXVector(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    metric = make_metric(MetricSpec("sim", str(tmp_path)))
    clip = Clip("x", tmp_path)
    assert metric.measure(speech(), speech(), clip)["sim"] == pytest.approx(1, abs=1e-5)
    assert metric.measure(speech(), speech(2.0, 5), clip)["sim"] < 1
    assert str(tmp_path) in metric.columns[0].title


def test_recognisers_of_transformers_are_measured(tmp_path):
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=6,
        **SMALL_WAV2VEC,
    )
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "|": 1, "<unk>": 2, "a": 3, "b": 4, "c": 5}')
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    metric = make_metric(MetricSpec("asr", f"transformers:{tmp_path}"))
    figures = metric.measure(speech(), speech(), Clip("x", tmp_path, "a b", "fr"))
    assert figures["words"] == 2


class Letters:
    """A codec whose codes spell the text: frame i of a clip says its letter."""

    label, sample_rate, identity = "letters", SAMPLE_RATE, {"kind": "fake"}
    codebook_sizes = (8, 8)
    nominal_bitrate = 25 * 6.0


def spelled(text, generator):
    codes = np.repeat([ord(c) - 96 if c != " " else 0 for c in text], 3)
    return Tokens(torch.tensor(np.stack([codes, generator.integers(0, 8, len(codes))])), text)


def test_the_probe_reads_codes_that_spell_and_none_that_do_not():
    pytest.importorskip("jiwer", reason="jiwer is not installed")
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abcdefg "), 8)).strip() for _ in range(60)]
    texts = [" ".join(text.split()) for text in texts if text]
    spelling = [spelled(text, generator) for text in texts]
    budget = Budget(steps=120, width=32, learning_rate=1e-2)
    options = {"budget": budget, "device": "cpu", "progress": no_progress}
    result = train_probe(Letters(), spelling[:45], spelling[45:], **options)
    mute = [Tokens(torch.randint(0, 8, tokens.codes.shape), tokens.text) for tokens in spelling]
    nothing = train_probe(Letters(), mute[:45], mute[45:], **options)
    assert result.cer.mean + 0.1 < nothing.cer.mean


def test_the_seed_decides_what_the_probe_learns():
    pytest.importorskip("jiwer", reason="jiwer is not installed")
    generator = np.random.default_rng(0)
    spelling = [spelled("abc de", generator) for _ in range(8)]

    def score(seed):
        budget = Budget(steps=15, width=16, learning_rate=1e-2, seed=seed)
        return train_probe(Letters(), spelling, spelling, budget=budget, device="cpu", progress=no_progress)

    assert score(1) == score(1)


def test_the_probe_encodes_a_corpus_once_and_needs_codes(corpus, tmp_path, parity_dir):
    pytest.importorskip("jiwer", reason="jiwer is not installed")
    clips = [Clip(path.name, path, "a b") for path in sorted(corpus.iterdir())]
    told = []
    options = {"budget": Budget(steps=2, width=8), "out": tmp_path / "probe", "tell": told.append}
    missing = Clip("gone", corpus / "gone.wav", "a")
    result = run_probe(CodecSpec(str(parity_dir), 2), [*clips[:2], missing], clips[2:], progress=no_progress, **options)
    assert (result.train_clips, result.clips) == (2, 1)
    assert len(told) == 1
    with pytest.raises(ValueError, match="no codes"):
        run_probe(CodecSpec("copy"), clips, clips, progress=no_progress, **options)
