"""Model folders from strangers: what makes no model is refused in one line, before anything is built by it."""

from __future__ import annotations

import io
import json
import os
import resource
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimotok import Tokenizer
from mimotok.config import TokenizerConfig
from mimotok.fields import limits_of
from mimotok.info import read_facts, read_info
from mimotok.streaming.pipes import decode_pipe
from mimotok.weights import MAX_HEADER, looks_like_path
from tests.helpers.paths import PARITY

MODEL = PARITY / "a"
CONFIG: dict[str, Any] = json.loads((MODEL / "config.json").read_text())
# What no field takes, each with what a field might make of it.
HOSTILE: list[Any] = [
    -2, 10**9, 2**62, 10**4000, 1e308, float("nan"), float("inf"), "x", "", "8", [], [1], [[1, 1], 2], [10**6, 10**6],
    [1, 2, 3], [True, False], {}, {"a": 1}, None, True, False, 0,
]  # fmt: skip


def folder_of(tmp_path: Path, changes: dict[str, Any] | None = None, text: str | None = None) -> Path:
    """A model's folder with other values in its config.json, or another text."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (changes or {})) if text is None else text)
    if not (folder / "model.safetensors").exists():
        os.symlink(MODEL / "model.safetensors", folder / "model.safetensors")
    return folder


def refusal(call: Callable[[], Any]) -> str:
    """The one line of a refusal that costs less than 300 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 1000
    return line


def test_every_field_of_a_configuration_has_limits() -> None:
    assert {*limits_of(TokenizerConfig), "extra"} == set(TokenizerConfig.__dataclass_fields__)


@pytest.mark.parametrize("key", sorted(key for key in CONFIG if key not in ("max_audio_seconds", "scale_embedding")))
def test_no_field_takes_what_makes_no_model(key: str, tmp_path: Path) -> None:
    """A value is refused by the field's name, or makes a model that fits its weights: no other error, no bomb."""
    values = [value for value in HOSTILE if not may_be(key, value)]
    for value in values:
        message = refusal(partial(TokenizerConfig.load, folder_of(tmp_path, {key: value}) / "config.json"))
        assert key in message, (value, message)
    assert len(values) >= 18


def may_be(key: str, value: Any) -> bool:
    """Whether the field may hold one of the hostile values."""
    if isinstance(value, bool):
        return isinstance(CONFIG[key], bool)
    if value is None:
        return key in ("fmax", "encoder_skip_layer_id")
    if isinstance(value, str):
        return key == "model_type" and bool(value)
    if value == 10**9:
        return key in ("threshold_ema_dead_code", "rope_theta")
    return (value == 0 and key in ("fmin", "threshold_ema_dead_code")) or (
        value in ([1], [1, 2, 3]) and key == "codebook_size"
    )


# Allowed by their fields; only the weights show that they are wrong.
TOO_MUCH: list[dict[str, Any]] = [
    {"encoder_layers": 256},
    {"decoder_layers": 256},
    {"vocoder_num_layers": 1, "encoder_layers": 5},
    {"num_quantizers": 256},
    {"codebook_size": 65536},
    {"d_model": 16384},
    {"encoder_ffn_dim": 131072},
    {"vocoder_dim": 16384},
    {"n_mels": 1024},
    {"nfft": 4096, "window_size": 4096},
    {"avg_pooler": 16},
    {"d_model": 16384, "encoder_layers": 256, "decoder_layers": 256, "num_quantizers": 256, "codebook_size": 65536},
]


@pytest.mark.parametrize("changes", TOO_MUCH, ids=str)
def test_sizes_that_the_weights_do_not_have_are_refused_before_they_are_built(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path, changes)
    assert "does not fit its config.json" in refusal(lambda: Tokenizer.from_pretrained(folder))
    if changes.keys() & {"codebook_size"} != changes.keys():
        monkeypatch.setattr(Tokenizer, "__init__", lambda *_, **__: pytest.fail("built"))
        assert next(iter(changes)) in refusal(lambda: Tokenizer.from_pretrained(folder))
        assert next(iter(changes)) in refusal(lambda: read_info(folder))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "1", "{", "", "\0", '{"x": "' + "y" * (1 << 20) + '"}',
     json.dumps(CONFIG | {"mine": json.loads("[" * 40 + "]" * 40)})],
    ids=lambda text: f"{text[:5]} {len(text)}",
)  # fmt: skip
def test_texts_that_are_no_configuration(text: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, text=text)
    assert "config.json" in refusal(lambda: Tokenizer.from_pretrained(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_pipes_and_devices_are_not_waited_for(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for place in (lambda path: os.mkfifo(path), lambda path: os.symlink("/dev/zero", path)):
        (folder / name).unlink()
        place(folder / name)
        assert name in refusal(lambda: Tokenizer.from_pretrained(folder))
        assert name in refusal(lambda: read_info(folder))


def with_weights(tmp_path: Path, key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    folder = folder_of(tmp_path)
    state = load_file(MODEL / "model.safetensors")
    state[key] = change(state[key]).contiguous()
    (folder / "model.safetensors").unlink()
    save_file(state, folder / "model.safetensors")
    return folder


def spoiled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: torch.where(torch.arange(tensor.numel()).view(tensor.shape) == 3, value, tensor)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": spoiled(float("nan")),
    "infinity": spoiled(float("-inf")),
    "too large for float32": lambda tensor: spoiled(1e300)(tensor.double()),
    "int8": lambda tensor: tensor.to(torch.int8),
    "int64": lambda tensor: tensor.to(torch.int64),
    "bool": lambda tensor: tensor.bool(),
    "8 bit float": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "complex": lambda tensor: tensor.to(torch.complex64),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("key", ["encoder.conv2.weight", "encoder.quantizer.vq.layers.1._codebook.embed"])
def test_weights_that_are_no_finite_floats_are_refused_by_name(key: str, change: str, tmp_path: Path) -> None:
    folder = with_weights(tmp_path, key, CHANGES[change])
    assert key in refusal(lambda: Tokenizer.from_pretrained(folder))


def test_weights_that_overflow_in_the_dtype_asked_for_are_named(tmp_path: Path) -> None:
    key = "encoder.layers.0.fc2.weight"  # not one of those that stay in float32
    folder = with_weights(tmp_path, key, spoiled(1e30))
    assert Tokenizer.from_pretrained(folder).dtype == torch.float32
    assert key in refusal(lambda: Tokenizer.from_pretrained(folder, dtype=torch.float16))


def test_headers_of_weights_are_bounded(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    weights = folder / "model.safetensors"
    weights.unlink()
    many = {f"encoder.layers.{i}.x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
    for header in (b"{" * 1000, json.dumps(many).encode(), b"{}" + b" " * (2 * MAX_HEADER)):
        weights.write_bytes(len(header).to_bytes(8, "little") + header)
        refusal(lambda: Tokenizer.from_pretrained(folder))
    for size in (2**63, 2**40, 100):
        weights.write_bytes(size.to_bytes(8, "little") + b"{}")
        assert "safetensors" in refusal(lambda: Tokenizer.from_pretrained(folder))


@pytest.mark.parametrize("what", ["layers", "NaN", "int8"])
def test_the_transformers_adapter_refuses_them_too(what: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import mimotok.hf  # noqa: F401

    folder = folder_of(tmp_path, {"encoder_layers": 200})
    if what != "layers":
        folder = with_weights(tmp_path, "encoder.conv2.weight", CHANGES[what])
    refusal(lambda: transformers.AutoModel.from_pretrained(folder))


def test_feature_extractors_of_no_model_are_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import mimotok.hf

    folder = folder_of(tmp_path)
    good = {"feature_extractor_type": "MimoAudioTokenizerFeatureExtractor", "sampling_rate": 24000}
    for changes in ({"sampling_rate": 2**62}, {"sampling_rate": True}, {"chunk_length_s": 1e9}, {"feature_size": 2}):
        (folder / "preprocessor_config.json").write_text(json.dumps(good | changes))
        assert next(iter(changes)) in refusal(lambda: transformers.AutoFeatureExtractor.from_pretrained(folder))
    for rate in (8000, 24000, 192_000):
        extractor = mimotok.hf.MimoAudioTokenizerFeatureExtractor(sampling_rate=rate)
        extractor.save_pretrained(folder)
        assert transformers.AutoFeatureExtractor.from_pretrained(folder).sampling_rate == rate


@pytest.mark.slow
def test_text_decoders_and_checkpoints_are_bounded_by_what_they_hold(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs: pip install 'mimotok[train]'")
    from train.stages.text_decoder import TextDecoder, TextDecoderConfig, load_text_decoder
    from train.tools.export import export

    small = TextDecoderConfig(hidden_size=16, num_layers=1, num_heads=2, ffn_dim=16)
    TextDecoder(8, small).save(tmp_path / "text")
    load_text_decoder(tmp_path / "text")
    good = json.loads((tmp_path / "text" / "config.json").read_text())
    for change in ({"num_layers": 256}, {"ffn_dim": 10**5}, {"hidden_size": 16384}, {"stack": 2.0}, {"ctc": 1}):
        (tmp_path / "text" / "config.json").write_text(json.dumps(good | change))
        assert next(iter(change)) in refusal(lambda: load_text_decoder(tmp_path / "text"))
    huge = CONFIG | {"d_model": 16384, "encoder_layers": 256}
    for config in (huge, None, {"encoder_layers": "x"}):
        torch.save({"state_dict": {}, "mimotok": {"config": config}}, tmp_path / "x.ckpt")
        assert "x.ckpt" in refusal(lambda: export(tmp_path / "x.ckpt", tmp_path / "out"))


HEADER = {"format": "mimotok-stream-1", "model": "a", "sha256": "0" * 64, "n_q": 4}


@pytest.mark.parametrize(
    "header",
    [
        *({**HEADER, "n_q": value} for value in (float("inf"), float("nan"), 1e400, 10**400, "4", [4], None, True, 0)),
        {**HEADER, "model": ["a"]},
        {**HEADER, "sha256": 7},
        "[" * 4000,
        '{"a":' * 600,
        "null",
    ],
    ids=lambda header: str(header)[-40:],
)
def test_headers_of_streams_of_codes(header: Any, streamable: Callable[..., Tokenizer]) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    with pytest.raises(ValueError, match=r"not a stream of codes|n_q=") as caught:
        decode_pipe(streamable(), io.BytesIO(text.encode() + b"\n" + bytes(64)), io.BytesIO(), force=True)
    assert "\n" not in str(caught.value)


def test_what_looks_like_a_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    paths = ["./a/b", "../b", "~/model", "/tmp/model", "runs/model", "runs", "a/model.safetensors", "a/config.json"]
    given: list[str | Path] = [*paths, Path("owner/name")]
    for source in given:
        assert looks_like_path(source), source
    for name in ("owner/name", "XiaomiMiMo/MiMo-Audio-Tokenizer", "a/b-1.5"):
        assert not looks_like_path(name), name
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for name in (*paths, "one", "a b/c", "a/b/c"):
        assert "hub id" in refusal(partial(Tokenizer.from_pretrained, name)) or name == "runs"


@pytest.mark.parametrize("source", [None, MODEL, str(MODEL)])
def test_a_revision_of_what_has_none_is_refused(source: str | Path | None) -> None:
    for call in (Tokenizer.from_pretrained, read_info):
        assert "revision=v2" in refusal(partial(call, source, revision="v2"))


def test_a_revision_of_a_codes_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.touch()
    for call in (read_info, read_facts):
        assert "is a file, which has none" in refusal(partial(call, path, revision="v2"))


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_working_directory(name: str) -> None:
    for call in (Tokenizer.from_pretrained, read_info):
        assert "the model's name is empty" in refusal(partial(call, name))


def test_a_misspelt_key_is_reported(tmp_path: Path) -> None:
    """In a config.json that we train from strictly; elsewhere by a warning, where the right key is not there."""
    path = tmp_path / "config.json"
    for wrong, right in (("d_modle", "d_model"), ("sample_rate", "sampling_rate"), ("decoder_layer", "decoder_layers")):
        official = {key: value for key, value in CONFIG.items() if key != right}
        path.write_text(json.dumps(official | {wrong: CONFIG[right]}))
        message = f"config.json: unknown key '{wrong}': did you mean {right}[?]"
        with pytest.raises(ValueError, match=message):
            TokenizerConfig.load(path, strict=True)
        with pytest.warns(UserWarning, match=f"'{wrong}' has no effect: did you mean {right}[?]"):
            TokenizerConfig.load(path)
    path.write_text(json.dumps(CONFIG | {"max_audio_seconds": 1, "vendor": {"x": 1}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TokenizerConfig.load(path).extra["vendor"] == {"x": 1}
    with pytest.raises(ValueError, match="unknown key 'vendor': known are"):
        TokenizerConfig.load(path, strict=True)
