"""transformers' Auto classes on our files: the plain library's codes and sound, files that go both ways, gradients."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from mimotok import Tokenizer, TokenizerConfig
from mimotok.model.precision import float32_names
from mimotok.weights import PREPROCESSOR_NAME, WEIGHTS_NAME, WINDOW_KEY, embedded_folder
from tests.helpers.models import STREAMABLE, TINY, make_tokenizer
from tests.helpers.paths import PARITY

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers", minversion="5", reason="needs: pip install 'mimotok[hf]'")
modeling_layers = pytest.importorskip("transformers.modeling_layers", reason="needs: pip install 'mimotok[hf]'")
hf = pytest.importorskip("mimotok.hf", reason="needs: pip install 'mimotok[hf]'")

CONFIGS = {
    "group norm, unlimited": TINY,
    "layer norm, windowed": STREAMABLE,
    "RMSNorm, hybrid, 50 Hz": replace(
        TINY, ln_type="RMSNorm", hybrid_attention=True, swa_per_block=2, encoder_causal=True,
        encoder_attn_window_size=(6, 0), avg_pooler=1, default_n_q=2,
    ),
}  # fmt: skip


def auto(folder: Path, **options: Any) -> Any:
    return transformers.AutoModel.from_pretrained(folder, **options)


@pytest.fixture(scope="module", params=list(CONFIGS.values()), ids=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """A random model of the plain library, and the adapter's from the folder that it saved."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(request.param)
    tokenizer.save_pretrained(folder)
    return tokenizer, auto(folder)


def blocks(model: Any) -> list[Any]:
    """All Transformer blocks of an adapter."""
    return [*model.encoder.layers, *model.decoder.layers, *model.decoder.vocoder.layers]


def batch(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """wav [B, T] and its padding_mask."""
    wav = 0.3 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(wav.shape[1]) < torch.tensor(lengths)[:, None]
    return wav * mask, mask.int()


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=3))
def test_codes_and_sound_are_the_plain_librarys(pair: tuple[Tokenizer, Any], lengths: list[int]) -> None:
    tokenizer, model = pair
    wav, mask = batch(lengths)
    codes, frames = tokenizer.encode(wav, torch.tensor(lengths))
    sound, _ = tokenizer.decode(codes, frames, length=wav.shape[1])
    with torch.no_grad():
        out = model(wav[:, None], mask)
    assert torch.equal(out.audio_codes, codes)
    torch.testing.assert_close(out.audio_values, sound[:, None], atol=1e-5, rtol=0)
    assert torch.equal(model.encode(wav, mask).audio_codes_mask.sum(1), frames)
    for row, length in enumerate(lengths):
        alone = model.encode(wav[row : row + 1, None, :length]).audio_codes
        assert torch.equal(alone[0], codes[row, :, : int(frames[row])])


def test_fewer_codebooks_and_tuples(pair: tuple[Tokenizer, Any]) -> None:
    tokenizer, model = pair
    wav, mask = batch([5000])
    codes = tokenizer.encode(wav, n_q=1)
    assert torch.equal(model.encode(wav, num_quantizers=1, return_dict=False)[0], codes)
    (values,) = model.decode(codes, mask, return_dict=False)
    torch.testing.assert_close(values[:, 0], tokenizer.decode(codes, length=5000))
    given_codes, values_again = model(wav, audio_codes=codes, return_dict=False)
    assert given_codes is codes
    assert torch.equal(values_again, values)


def test_the_folder_goes_both_ways(pair: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    tokenizer, model = pair
    model.save_pretrained(tmp_path)
    wav, _ = batch([4000])
    again = Tokenizer.from_pretrained(tmp_path)
    assert torch.equal(again.encode(wav), tokenizer.encode(wav))
    assert replace(again.config, extra={}) == tokenizer.config
    assert torch.equal(auto(tmp_path).encode(wav).audio_codes, tokenizer.encode(wav))
    tokenizer.save_pretrained(tmp_path / "plain")
    with safe_open(tmp_path / WEIGHTS_NAME, "pt") as ours, safe_open(tmp_path / "plain" / WEIGHTS_NAME, "pt") as plain:
        assert set(ours.keys()) == set(plain.keys())
        assert WINDOW_KEY in set(ours.keys())


def test_pushed_to_the_hub_go_the_files_of_a_whole_checkpoint(
    pair: tuple[Tokenizer, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, model = pair
    sent: dict[str, bytes] = {}

    def upload(_: Any, folder: str, *__: Any, **___: Any) -> None:
        sent.update({path.name: path.read_bytes() for path in Path(folder).iterdir()})

    hub = "transformers.utils.hub."
    monkeypatch.setattr(hub + "PushToHubMixin._upload_modified_files", upload)
    monkeypatch.setattr(hub + "hf_api", lambda *_, **__: _NoHub())
    card = transformers.utils.hub.ModelCard("---\ntags: []\n---\n")
    monkeypatch.setattr(hub + "create_and_tag_model_card", lambda *_, **__: card)
    model.push_to_hub("owner/name")
    assert {"config.json", WEIGHTS_NAME, PREPROCESSOR_NAME} <= set(sent)
    assert TokenizerConfig.from_official(json.loads(sent["config.json"])).d_model == tokenizer.config.d_model


class _NoHub:
    """Stands where the hub's client would be."""

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return type("Repo", (), {"repo_id": repo_id})


@pytest.mark.parametrize("name", ["a", "c"])
def test_official_files_and_tokens(name: str) -> None:
    model = auto(PARITY / name)
    expected = np.load(PARITY / name / "expected.npz")
    clips = [key.removeprefix("wav") for key in expected if key.startswith("wav")]
    assert clips
    for clip in clips:
        codes = model.encode(torch.from_numpy(expected["wav" + clip])[None, None]).audio_codes
        np.testing.assert_array_equal(codes[0].numpy(), expected["codes" + clip])


@pytest.mark.skipif(not (embedded_folder() / WEIGHTS_NAME).is_file(), reason="no embedded checkpoint in this tree")
def test_the_embedded_checkpoint() -> None:
    model, tokenizer = auto(embedded_folder()), Tokenizer.from_pretrained()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(embedded_folder())
    wav, _ = batch([30000, 12345])
    inputs = extractor([wav[0].numpy(), wav[1, :12345].numpy()], sampling_rate=24000, return_tensors="pt")
    codes, _ = tokenizer.encode(wav, torch.tensor([30000, 12345]))
    assert torch.equal(model(**inputs).audio_codes, codes)


def test_every_auto_class_finds_ours() -> None:
    config = transformers.AutoConfig.from_pretrained(PARITY / "a")
    assert type(config) is hf.MimoAudioTokenizerConfig
    assert type(transformers.AutoModelForAudioTokenization.from_config(config)) is hf.MimoAudioTokenizerModel
    assert config.to_tokenizer_config() == replace(TokenizerConfig.load(PARITY / "a" / "config.json"), extra={})


def test_audio_processors_are_found_where_transformers_has_them() -> None:
    """The stand-in has the one method of the drafts that counts; for a version without any it returns None."""
    registered: list[tuple[Any, ...]] = []

    class AutoAudioProcessor:
        @staticmethod
        def register(config_class: type, processor: type, exist_ok: bool = False) -> None:
            registered.append((config_class, processor.__name__, exist_ok))

    hf.register_audio_processor(None)
    hf.register_audio_processor(AutoAudioProcessor)
    # drafts put this name together from the extractor's
    name = hf.MimoAudioTokenizerFeatureExtractor.__name__.replace("FeatureExtractor", "AudioProcessor")
    assert registered == [(hf.MimoAudioTokenizerConfig, name, True)]
    wavs = [np.ones(900, np.float32), np.ones(500, np.float32)]
    options = {"sampling_rate": 24000, "return_tensors": "pt"}
    old = hf.MimoAudioTokenizerFeatureExtractor()(wavs, **options)
    new = hf.MimoAudioTokenizerAudioProcessor()(wavs, **options)
    assert new.keys() == {"audio_values", "audio_values_mask"}
    assert torch.equal(new.audio_values, old.input_values)
    assert torch.equal(new.audio_values_mask, old.padding_mask)


def test_a_folder_without_a_preprocessor_still_gives_the_extractor(tmp_path: Path) -> None:
    shutil.copy(PARITY / "c" / "config.json", tmp_path)
    extractor = hf.MimoAudioTokenizerFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.sampling_rate == TokenizerConfig.load(tmp_path / "config.json").sample_rate
    extractor.save_pretrained(tmp_path)
    assert transformers.AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == extractor.sampling_rate
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"config\.json"):
        hf.MimoAudioTokenizerFeatureExtractor.from_pretrained(tmp_path / "empty")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_leaves_the_codebooks_alone(dtype: torch.dtype, tmp_path: Path) -> None:
    make_tokenizer(STREAMABLE).save_pretrained(tmp_path)
    wav, _ = batch([4000])
    loaded, cast = auto(tmp_path, dtype=dtype), auto(tmp_path).to(dtype)
    begun = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path), dtype=dtype)
    names = float32_names(loaded)
    for model in (loaded, cast, begun):
        assert model.dtype == dtype
        assert {name for name, tensor in model.state_dict().items() if tensor.dtype == torch.float32} == names
        assert {book.embed.dtype for book in model.encoder.quantizer.codebooks()} == {torch.float32}
        skip = model.encoder.layers.skip
        assert {block.fc1.weight.dtype for block in list(model.encoder.layers)[:skip]} == {torch.float32}
    codes = loaded(wav).audio_codes
    assert torch.equal(codes, cast(wav).audio_codes)
    loaded.save_pretrained(tmp_path / "half")
    assert auto(tmp_path / "half").dtype == torch.float32
    assert torch.equal(auto(tmp_path / "half", dtype="auto").encode(wav).audio_codes, codes)
    assert torch.equal(Tokenizer.from_pretrained(tmp_path / "half", dtype=dtype).encode(wav), codes)


def test_devices(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs: pip install 'mimotok[hf]'")
    tokenizer = make_tokenizer(STREAMABLE)
    tokenizer.save_pretrained(tmp_path)
    wav, _ = batch([4000])
    for device_map in ("cpu", "auto"):
        assert torch.equal(auto(tmp_path, device_map=device_map).encode(wav).audio_codes, tokenizer.encode(wav))
    with torch.device("meta"):
        empty = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    empty.load_state_dict(auto(tmp_path).state_dict(), assign=True)
    assert torch.equal(empty.encode(wav).audio_codes, tokenizer.encode(wav))


@pytest.mark.parametrize("by_name", [False, True])
def test_weights_that_do_not_fit_are_refused_however_the_folder_is_given(tmp_path: Path, by_name: bool) -> None:
    make_tokenizer(STREAMABLE).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_layers": config["encoder_layers"] + 1}))
    named = {"pretrained_model_name_or_path": tmp_path} if by_name else {}
    with pytest.raises(ValueError, match="encoder_layers"):
        hf.MimoAudioTokenizerModel.from_pretrained(*([] if by_name else [tmp_path]), **named)


def test_what_a_checkpoint_lacks_is_initialised(tmp_path: Path) -> None:
    model = transformers.AutoModel.from_config(hf.MimoAudioTokenizerConfig(**STREAMABLE.to_official()))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("decoder.vocoder")}
    model.save_pretrained(tmp_path, state_dict=state)
    torch.manual_seed(1)
    again = auto(tmp_path)
    scales = [each.decoder.vocoder.head.out.weight.detach().std() for each in (model, again)]
    torch.testing.assert_close(*scales, rtol=0.1, atol=0)
    assert torch.equal(again.encoder.conv1.weight, model.encoder.conv1.weight)


def test_what_is_missing_and_what_is_foreign_is_listed(tmp_path: Path) -> None:
    model = transformers.AutoModel.from_config(hf.MimoAudioTokenizerConfig(**STREAMABLE.to_official()))
    model.save_pretrained(tmp_path)
    save_file({"foreign": torch.tensor([1, 2])}, tmp_path / WEIGHTS_NAME, metadata={"format": "pt"})
    _, listed = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(listed["missing_keys"]) == set(model.state_dict())
    assert set(listed["unexpected_keys"]) == {"foreign"}
    bias = model.encoder.conv1.bias.long()
    save_file({"encoder.conv1.bias": bias}, tmp_path / WEIGHTS_NAME, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.conv1\.bias I64; convert them"):
        auto(tmp_path)


def test_gradients_reach_what_can_be_trained(streamable: Callable[..., Tokenizer], tmp_path: Path) -> None:
    streamable().save_pretrained(tmp_path)
    model = auto(tmp_path)
    wav, mask = batch([4000, 3000])
    encoded = model.encode(wav[:, None], mask)
    model.decode(latents=encoded.latents, padding_mask=mask).audio_values.square().sum().backward()
    unreached = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not unreached
    model.zero_grad()
    model(wav[:, None], mask).audio_values.square().sum().backward()
    assert all(weight.grad is None for weight in model.encoder.parameters())
    assert all(weight.grad is not None for weight in model.decoder.parameters())


def test_hidden_states_are_those_of_each_clip_alone(pair: tuple[Tokenizer, Any]) -> None:
    _, model = pair
    config = model.config
    wav, mask = batch([5000, 3000])
    out = model(wav[:, None], mask, output_hidden_states=True)
    plain = model(wav[:, None], mask)
    assert plain.encoder_hidden_states is None
    assert torch.equal(out.audio_codes, plain.audio_codes)
    assert len(out.encoder_hidden_states) == config.num_hidden_layers + 1 == config.encoder_layers + 1
    assert len(out.decoder_hidden_states) == config.decoder_layers + 1
    alone = model.encode(wav[1:, None, :3000], output_hidden_states=True)
    for one, both in zip(alone.hidden_states, out.encoder_hidden_states, strict=True):
        assert one.shape[2] == config.hidden_size == config.d_model
        torch.testing.assert_close(both[1:, : one.shape[1]], one, atol=1e-4, rtol=0)
    last = alone.hidden_states[-1]
    if config.encoder_skip_layer_id is not None:
        last = last + alone.hidden_states[config.encoder_skip_layer_id]
    mel = torch.nn.functional.pad(model.encoder.layer_norm(last), (0, 0, 0, -last.shape[1] % config.avg_pooler))
    torch.testing.assert_close(model.encoder._downsampled(mel), alone.latents, atol=1e-4, rtol=0)
    decoded = model.decode(out.audio_codes[1:], output_hidden_states=True)
    assert decoded.hidden_states[0].shape[0] == 1
    most = model._tokenizer.chunking.chunk_frames
    with pytest.raises(ValueError, match=f"at most {most}"):
        model.decode(torch.zeros(1, 1, most + 1, dtype=torch.int64), output_hidden_states=True)


def test_lengths_and_masks_of_codes(pair: tuple[Tokenizer, Any]) -> None:
    tokenizer, model = pair
    lengths = [1, 239, 240, 5000, 4799]
    wav, mask = batch(lengths)
    encoded = model.encode(wav, mask)
    assert torch.equal(model.get_audio_codes_mask(mask), encoded.audio_codes_mask)
    assert torch.equal(model.get_audio_codes_mask(mask[:, None], padding_side="left"), encoded.audio_codes_mask.flip(1))
    assert torch.equal(model.get_encoded_length(torch.tensor(lengths)), encoded.audio_codes_mask.sum(1))
    assert model.config.frame_rate == tokenizer.frame_rate
    assert model.config.frame_size == tokenizer.frame_size
    assert model.config.audio_channels == 1


def test_other_models_names_of_the_sizes() -> None:
    heads: dict[str, Any] = {"decoder_attention_heads": 2, "num_attention_heads": 2}
    config = hf.MimoAudioTokenizerConfig(hidden_size=40, num_hidden_layers=5, frame_rate=25.0, **heads)
    assert (config.d_model, config.encoder_layers, config.encoder_attention_heads) == (40, 5, 2)
    assert hf.MimoAudioTokenizerConfig(hidden_size=64, d_model=64, **heads).to_dict()["d_model"] == 64
    again = hf.MimoAudioTokenizerConfig.from_dict(config.to_dict())
    assert again.to_tokenizer_config() == config.to_tokenizer_config()
    refused: dict[str, dict[str, Any]] = {
        "hidden_size=32, but d_model=64": {"hidden_size": 32, "d_model": 64},
        "d_model=33": {"hidden_size": 33},
        "num_hidden_layers=1, but encoder_layers=2": {"num_hidden_layers": 1, "encoder_layers": 2},
        "frame_rate=12.5, but this model's is 25.0": {"frame_rate": 12.5},
        "audio_channels=2": {"audio_channels": 2},
    }
    for message, values in refused.items():
        with pytest.raises(ValueError, match=message):
            hf.MimoAudioTokenizerConfig(**values)


def test_gradient_checkpointing_changes_no_gradient(streamable: Callable[..., Tokenizer], tmp_path: Path) -> None:
    streamable().save_pretrained(tmp_path)
    wav, mask = batch([4000, 3000])
    found = []
    calls = []
    for checkpointed in (False, True):
        model = auto(tmp_path).train()
        assert model.supports_gradient_checkpointing
        # what transformers can set one by one
        assert all(isinstance(block, modeling_layers.GradientCheckpointingLayer) for block in blocks(model))
        if checkpointed:
            model.gradient_checkpointing_enable()
        first = model.encoder.layers[0]
        count: list[int] = []
        first.self_attn.register_forward_hook(lambda *_, count=count: count.append(1))
        encoded = model.encode(wav[:, None], mask)
        model.decode(latents=encoded.latents, padding_mask=mask).audio_values.square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
        calls.append(len(count))
    assert calls == [1, 2], "the backward pass computes the block anew"
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_second_generation_folder(tmp_path: Path) -> None:
    """The tokenizer lies within its language model's folder: causal, every second layer with a window, bfloat16."""
    config = replace(
        TINY, hybrid_attention=True, swa_per_block=2, encoder_causal=True, encoder_attn_window_size=(8, 0),
        num_quantizers=5, codebook_sizes=(32, 32, 24, 16), extra={"hybrid_block_size": 8, "max_audio_seconds": 300},
    )  # fmt: skip
    official = make_tokenizer(config)
    inner = tmp_path / "audio_tokenizer"
    official.save_pretrained(inner, dtype=torch.bfloat16)
    (inner / PREPROCESSOR_NAME).unlink()
    (tmp_path / "config.json").write_text('{"model_type": "mimo_v2", "hidden_size": 4096}')
    plain = Tokenizer.from_pretrained(tmp_path)
    assert plain.folder == inner
    assert plain.codebook_sizes == (32, 32, 24, 16, 16)
    assert plain.config.encoder_windows() == [(8, 0), (-1, 0)] * 2
    model = hf.MimoAudioTokenizerModel.from_pretrained(tmp_path, subfolder="audio_tokenizer")
    wav, _ = batch([9000])
    latents = plain.encode_latents(wav).values
    assert torch.equal(model.encode(wav).audio_codes, plain.encode(wav))
    changed = wav.clone()
    changed[:, 6000:] = 0
    heard = plain.encode_latents(changed).values
    torch.testing.assert_close(heard[:, :5], latents[:, :5], atol=1e-5, rtol=0)
    assert not torch.allclose(heard[:, 7:], latents[:, 7:], atol=1e-3)


def test_bad_input_is_reported_in_one_line(streamable: Callable[..., Tokenizer], tmp_path: Path) -> None:
    streamable().save_pretrained(tmp_path)
    model = auto(tmp_path)
    wav, mask = batch([3000, 2000])
    for message, call in {
        r"input_values has shape \[2, 2, 3000\]": lambda: model.encode(torch.stack((wav, wav), 1)),
        r"padding_mask\[1\] has padding before sound": lambda: model.encode(wav, mask.flip(1)),
        r"lengths=\[0, 0\]": lambda: model.encode(wav, 0 * mask),
        r"n_q=9": lambda: model.encode(wav, num_quantizers=9),
        r"one of them": lambda: model.decode(),
        r"codebook 0 has 32 entries": lambda: model.decode(torch.full((1, 2, 3), 32)),
        r"d_model=33": lambda: hf.MimoAudioTokenizerConfig(d_model=33),
    }.items():
        with pytest.raises(ValueError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_a_replaced_module_is_the_one_that_works() -> None:
    model = transformers.AutoModel.from_pretrained(PARITY / "a")
    wav, codes = torch.randn(1, 1, 9_600), torch.zeros(1, 4, 5, dtype=torch.int64)
    before = model.decode(codes).audio_values, model.encode(wav).latents
    for part in (model.decoder, model.encoder):
        silent = copy.deepcopy(part)
        for parameter in silent.parameters():
            parameter.data.zero_()
        setattr(model, "decoder" if part is model.decoder else "encoder", silent)
    assert not torch.equal(model.decode(codes).audio_values, before[0])
    assert not torch.equal(model.encode(wav).latents, before[1])
