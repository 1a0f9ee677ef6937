"""The library's promises: shapes, lengths, errors, saving and loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mimotok import StreamDecoder, Tokenizer, TokenizerConfig
from mimotok.model import mel
from mimotok.model.linear import ExactLinear
from mimotok.model.precision import ExactConv1d, ExactLayerNorm, float32_names
from tests.helpers.paths import PARITY


@pytest.fixture(scope="module")
def tokenizer(parity_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(parity_dir)


@settings(deadline=None, max_examples=25)
@given(samples=st.integers(1, 8_000), n_q=st.integers(1, 6), avg_pooler=st.sampled_from([1, 2]))
def test_lengths(tiny: Callable[..., Tokenizer], samples: int, n_q: int, avg_pooler: int) -> None:
    tokenizer = tiny(avg_pooler=avg_pooler, num_quantizers=6)
    codes = tokenizer.encode(torch.randn(1, samples), n_q=n_q)
    assert codes.shape == (1, n_q, tokenizer.num_frames(samples))
    assert codes.dtype == torch.int64
    assert tokenizer.decode(codes).shape == (1, codes.shape[2] * tokenizer.frame_size)
    assert tokenizer.decode(codes, length=samples).shape == (1, samples)


def test_fewer_codebooks_are_the_first_ones(tokenizer: Tokenizer) -> None:
    wav = torch.randn(2, 5_000)
    assert torch.equal(tokenizer.encode(wav, n_q=2), tokenizer.encode(wav)[:, :2])


def test_latents_quantize_to_the_codes(tokenizer: Tokenizer) -> None:
    wav = torch.randn(2, 5_000)
    latents, codes = tokenizer.encode_latents(wav).values, tokenizer.encode(wav)
    assert torch.equal(tokenizer.encoder.quantizer.encode(latents, tokenizer.n_q), codes)
    error = (tokenizer.dequantize(codes) - latents).norm()
    assert error < (tokenizer.dequantize(codes[:, :1]) - latents).norm()
    torch.testing.assert_close(tokenizer.decode_latents(tokenizer.dequantize(codes)).values, tokenizer.decode(codes))
    torch.testing.assert_close(tokenizer.reconstruct(wav), tokenizer.decode(codes, length=5_000))


def test_bitrate_of_the_released_model() -> None:
    config = TokenizerConfig()
    assert config.frame_rate == 25.0
    assert [config.bitrate(n_q) for n_q in (4, 8, 12, 20)] == [850.0, 1550.0, 2250.0, 3650.0]


def test_default_codebooks_in_use(tiny: Callable[..., Tokenizer]) -> None:
    tokenizer = tiny(default_n_q=2)
    assert tokenizer.n_q == 2
    assert tokenizer.encode(torch.randn(1, 999)).shape[1] == 2
    assert tokenizer.encode(torch.randn(1, 999), n_q=4).shape[1] == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_save_and_load(tiny: Callable[..., Tokenizer], tmp_path: Path, dtype: torch.dtype) -> None:
    saved = tiny()
    saved.save_pretrained(tmp_path, dtype=dtype)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.config == saved.config
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, tensor in saved.state_dict().items():
        kept = tensor if name in float32_names(saved) else tensor.to(dtype).float()
        assert torch.equal(loaded.state_dict()[name], kept), name
    assert loaded.weights_sha256 != saved.weights_sha256 or dtype == torch.float32


def test_a_file_in_the_place_of_the_folder_is_told(tiny: Callable[..., Tokenizer], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file: cannot be written \(File exists\)"):
        tiny().save_pretrained(tmp_path / "file")


def test_the_official_layout_is_written(tokenizer: Tokenizer, parity_dir: Path, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    official, ours = load_file(parity_dir / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert official.keys() == ours.keys()
    assert all(torch.equal(official[key], ours[key]) for key in official)
    values = json.loads((tmp_path / "config.json").read_text())
    assert json.loads((parity_dir / "config.json").read_text()).items() <= values.items()


def test_bf16(parity_dir: Path) -> None:
    half = Tokenizer.from_pretrained(parity_dir, dtype=torch.bfloat16)
    full = Tokenizer.from_pretrained(parity_dir)
    wav = 0.1 * torch.randn(1, 24_000)
    assert half.dtype == torch.bfloat16
    # what decides codes stays as it is, whichever way the model became half as precise
    blocks = list(half.encoder.layers.blocks())
    skip = half.config.encoder_skip_layer_id
    assert 0 < skip < len(blocks)
    assert {block.fc1.weight.dtype for block in blocks[:skip]} == {torch.float32}
    assert {block.fc1.weight.dtype for block in blocks[skip:]} == {torch.bfloat16}
    assert {block.fc2.weight.dtype for block in blocks} == {torch.bfloat16}
    assert half.encoder.conv1.weight.dtype == half.encoder.layer_norm.weight.dtype == torch.float32
    latents = half.encode_latents(0.1 * torch.randn(1, 9_600)).values
    assert latents.dtype == torch.float32
    assert {b.embed.dtype for b in half.encoder.quantizer.codebooks()} == {torch.float32}
    codes = full.encode(wav)
    assert (half.encode(wav) == codes)[:, 0].float().mean() > 0.8
    decoded = half.decode(codes)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, full.decode(codes), atol=0.02, rtol=0.1)
    converted = Tokenizer.from_pretrained(parity_dir).to(torch.bfloat16)
    assert torch.equal(converted.encode(wav), half.encode(wav))


def test_unknown_config_keys_survive(tmp_path: Path, tiny: Callable[..., Tokenizer]) -> None:
    tiny(extra={"transformers_version": "9.9", "architectures": ["X"]}).save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.config.extra["transformers_version"] == "9.9"
    assert again.config.to_official()["architectures"] == ["X"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_mels": 0}, "n_mels=0"),
        ({"d_model": 33}, "heads of even width"),
        ({"ln_type": "BatchNorm"}, "ln_type='BatchNorm'"),
        ({"activation_function": "tanh"}, "activation_function"),
        ({"encoder_attn_window_size": [1, 2, 3]}, "encoder_attn_window_size"),
        ({"codebook_size": []}, "codebook_size"),
        ({"fmax": 20_000}, "fmax"),
        ({"default_n_q": 99}, "default_n_q=99"),
        ({"hop_length": 480}, "hop_length"),
        ({"vocoder_padding": "center"}, "vocoder_padding"),
        ({"encoder_layers": "four"}, "encoder_layers='four'"),
    ],
)
def test_bad_configs_are_refused_by_name(parity_dir: Path, tmp_path: Path, changes: dict, message: str) -> None:
    values = json.loads((parity_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_weights_are_named(parity_dir: Path, tmp_path: Path) -> None:
    state = load_file(parity_dir / "model.safetensors")
    (tmp_path / "config.json").write_text((parity_dir / "config.json").read_text())
    state["stranger"] = state.pop("encoder.conv1.bias")
    state["encoder.conv2.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: encoder.conv1.bias; unexpected: stranger; mis-shaped: encoder.c"):
        Tokenizer.from_pretrained(tmp_path)


def test_sources_that_are_none(tmp_path: Path) -> None:
    for source, message in (
        (tmp_path / "nowhere", "neither a folder nor a hub id"),
        (tmp_path, "config.json: cannot be read"),
        ("no/such-model-anywhere", "no such folder, and the hub did not give it"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Tokenizer.from_pretrained(source)
        assert "\n" not in str(caught.value)


def test_pickles_are_not_read(parity_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((parity_dir / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        Tokenizer.from_pretrained(tmp_path)


def test_no_such_device(parity_dir: Path) -> None:
    for device in ("banana", "cuda:7", "cpu:7"):
        with pytest.raises(ValueError, match=f"device={device}"):
            Tokenizer.from_pretrained(parity_dir, device=device)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (torch.zeros(5), "give \\[batch, samples\\]"),
        (torch.zeros(1, 0), "at least one clip and one sample"),
        (torch.zeros(1, 9, dtype=torch.int16), "floating point"),
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinite"),
    ],
)
def test_bad_wav(tokenizer: Tokenizer, wav: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(wav)


def test_bad_arguments(tokenizer: Tokenizer) -> None:
    wav, codes = torch.zeros(2, 960), torch.zeros(2, 3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="n_q=7, but this checkpoint has 6 codebooks"):
        tokenizer.encode(wav, n_q=7)
    with pytest.raises(ValueError, match="lengths has shape"):
        tokenizer.encode(wav, torch.tensor([1]))
    with pytest.raises(ValueError, match="each must lie in 1 to 960"):
        tokenizer.encode(wav, torch.tensor([1, 961]))
    wrong = codes.clone()
    wrong[1, 2, 3] = 16
    with pytest.raises(ValueError, match=r"codes\[1, 2, 3\]=16, but codebook 2 has 16 entries"):
        tokenizer.decode(wrong)
    with pytest.raises(ValueError, match="give integers"):
        tokenizer.decode(codes.float())
    with pytest.raises(ValueError, match="n_q=9"):
        tokenizer.decode(torch.zeros(1, 9, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="length=9999"):
        tokenizer.decode(codes, length=9999)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32, torch.uint32, torch.uint64]
)
def test_codes_of_any_integer_dtype_decode_alike(streamable: Callable[..., Tokenizer], dtype: torch.dtype) -> None:
    tokenizer = streamable()
    codes = torch.randint(0, 16, (2, 4, 9))
    assert torch.equal(tokenizer.decode(codes.to(dtype)), tokenizer.decode(codes))
    streams = [StreamDecoder(tokenizer) for _ in range(2)]
    parts = [
        (stream.push(each), stream.flush()) for stream, each in zip(streams, (codes.to(dtype), codes), strict=True)
    ]
    assert torch.equal(torch.cat(parts[0], 1), torch.cat(parts[1], 1))
    with pytest.raises(ValueError, match="codebook 0 has"):
        tokenizer.decode((codes + 100).to(dtype))


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_changes_neither_codes_nor_later_models(default: torch.dtype) -> None:
    wav = 0.3 * torch.randn(1, 9_600)
    expected = Tokenizer.from_pretrained(PARITY / "a").encode(wav)
    mel._kept_window.cache_clear()
    mel._kept_bank.cache_clear()
    torch.set_default_dtype(default)
    try:
        assert torch.equal(Tokenizer.from_pretrained(PARITY / "a").encode(wav), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(Tokenizer.from_pretrained(PARITY / "a").encode(wav), expected)


@pytest.mark.parametrize("lengths", [torch.tensor([1.0, 0.5]), torch.tensor([True, True]), torch.tensor([9600.0, 9.0])])
def test_lengths_are_whole_numbers(tokenizer: Tokenizer, lengths: torch.Tensor) -> None:
    """Shares of the padded size, as SpeechBrain has them, would all be 1 or 0."""
    codes = torch.zeros(2, 2, 10, dtype=torch.int64)
    for call in (
        lambda: tokenizer.encode(torch.zeros(2, 9600), lengths),
        lambda: tokenizer.decode(codes, lengths),
        lambda: tokenizer.quantize(tokenizer.dequantize(codes), lengths),
    ):
        with pytest.raises(ValueError, match=f"lengths has dtype {lengths.dtype}: give whole numbers of"):
            call()


def test_latents_are_checked(tokenizer: Tokenizer) -> None:
    width = tokenizer.config.d_model
    good = torch.zeros(1, 5, width)
    for latents, message in (
        (good[0], "latents have shape"),
        (good[:, :0], "none of them 0"),
        (good[..., 1:], f"give \\[batch, frames, {width}\\]"),
        (good.long(), "latents have dtype torch.int64"),
    ):
        for call in (tokenizer.quantize, tokenizer.decode_latents):
            with pytest.raises(ValueError, match=message):
                call(latents)
    for lengths, message in (([1, 2], "the batch holds 1 clips"), ([6], "in 1 to 5 frames")):
        with pytest.raises(ValueError, match=message):
            tokenizer.quantize(good, torch.tensor(lengths))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.bool])
def test_weights_of_another_dtype_are_refused(tokenizer: Tokenizer, tmp_path: Path, dtype: torch.dtype) -> None:
    tokenizer.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"dtype={dtype}: give torch.float32"):
        tokenizer.save_pretrained(tmp_path, dtype=dtype)
    with pytest.raises(ValueError, match=f"dtype={dtype}: give torch.float32"):
        Tokenizer.from_pretrained(tmp_path, dtype=dtype)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("silence", [0, 2000, 9600])
def test_digital_silence_has_gradients(tiny: Callable[..., Tokenizer], silence: int) -> None:
    model = tiny()
    wav = torch.cat([torch.zeros(1, silence), 0.1 * torch.randn(1, 9600 - silence)], 1).requires_grad_()
    model.encode_latents(wav, gradients=True).values.square().sum().backward()
    assert wav.grad is not None
    assert bool(wav.grad.isfinite().all())


@torch.no_grad()
def test_autocast_leaves_in_full_precision_what_codes_depend_on(tiny: Callable[..., Tokenizer]) -> None:
    model = tiny()
    wav = 0.1 * torch.randn(2, 9600)
    bands, _ = mel.log_mel(wav, None, model.config)
    layers = [
        (ExactConv1d(8, 4, 3), torch.randn(2, 8, 20)),
        (ExactLinear(8, 4), torch.randn(2, 8)),
        (ExactLayerNorm(8), torch.randn(2, 8)),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel.log_mel(wav, None, model.config)[0], bands)
        given = [layer(x) for layer, x in layers]
        half = [layer(x.bfloat16()) for layer, x in layers]
    for (layer, x), found, of_half in zip(layers, given, half, strict=True):
        torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(of_half, layer(x.bfloat16().float()), rtol=1e-5, atol=1e-6)


def test_arrays_and_lists_are_told_how_they_become_tensors(tokenizer: Tokenizer) -> None:
    model: Any = tokenizer
    wav, codes = torch.zeros(1, 9600), torch.zeros(1, 2, 10, dtype=torch.int64)
    numpy, tensor = r"torch.from_numpy\({}\)", r"is of type list: give a tensor, torch.tensor\({}\)"
    for call, message in (
        (lambda: model.encode(wav.numpy()), numpy.format("wav")),
        (lambda: model.encode(wav.tolist()), tensor.format("wav")),
        (lambda: model.decode(codes.numpy()), numpy.format("codes")),
        (lambda: model.decode_latents(wav.numpy()), numpy.format("latents")),
        (lambda: model.encode(wav, [9600]), tensor.format("lengths")),
        (lambda: model.decode(codes, [10]), tensor.format("lengths")),
        (lambda: model.encode(wav, n_q="2"), "n_q='2': give a whole number"),
        (lambda: model.encode(wav, n_q=2.0), "n_q=2.0: give a whole number"),
        (lambda: model.encode(wav, n_q=True), "n_q=True: give a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_call_is_a_reconstruction(tokenizer: Tokenizer) -> None:
    wav = 0.1 * torch.randn(2, 5000)
    assert torch.equal(tokenizer(wav, n_q=2), tokenizer.reconstruct(wav, n_q=2))


def test_padding_of_latents_may_hold_anything_and_valid_latents_may_not(tokenizer: Tokenizer) -> None:
    latents = torch.randn(2, 12, tokenizer.config.d_model)
    lengths = torch.tensor([12, 5])
    latents[1, 5:] = 0
    spoilt = latents.clone()
    spoilt[1, 5:] = float("nan")
    for call in (tokenizer.quantize, lambda *args: tokenizer.decode_latents(*args).values):
        assert torch.equal(call(latents, lengths), call(spoilt, lengths))
        with pytest.raises(ValueError, match="latents hold NaN or infinite values"):
            call(spoilt)


def test_loud_magnitudes_have_gradients(tiny: Callable[..., Tokenizer]) -> None:
    model = tiny()
    with torch.no_grad():
        model.decoder.vocoder.head.out.bias[3] = 89.0
    wav = model.decode_latents(torch.randn(1, 6, model.config.d_model), gradients=True).values
    wav.square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.decoder.parameters() if p.grad is not None)


def test_a_model_in_float64_encodes(tiny: Callable[..., Tokenizer]) -> None:
    wav = 0.1 * torch.randn(1, 9600)
    model = tiny()
    exact = model.encode_latents(wav).values
    doubled = model.double()
    assert torch.allclose(doubled.encode_latents(wav).values.float(), exact, atol=1e-4)
    assert doubled.reconstruct(wav).shape == wav.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_both_ways_to_half_precision_give_one_model(
    tiny: Callable[..., Tokenizer], tmp_path: Path, dtype: torch.dtype
) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "exact")
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    converted, stored = (Tokenizer.from_pretrained(tmp_path / name, dtype=dtype) for name in ("exact", "half"))
    for name, tensor in converted.state_dict().items():
        assert torch.equal(tensor, stored.state_dict()[name]), name


def test_no_weights_are_loaded_to_nowhere(parity_dir: Path) -> None:
    with pytest.raises(ValueError, match="device=meta holds no weights"):
        Tokenizer.from_pretrained(parity_dir, device="meta")


def test_a_default_device_changes_no_mel_bank(tokenizer: Tokenizer) -> None:
    wav = torch.randn(2, 5000)
    expected = tokenizer.encode(wav)
    mel._kept_bank.cache_clear()
    with torch.device("meta"):
        mel.log_mel(torch.zeros(1, 4800, device="cpu"), None, tokenizer.config)
    assert torch.equal(tokenizer.encode(wav), expected)


def test_equal_configs_have_equal_hashes() -> None:
    one, same, other = (TokenizerConfig(quantizer_settings={"beam": beam}) for beam in (2, 2, 3))
    assert hash(one) == hash(same)
    assert len({one, same, other}) == 2
