"""Exported graphs against the torch path: any length and batch, no torch at run time, folders whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok import Tokenizer

pytestmark = pytest.mark.slow

WANTED = "needs: pip install 'mimotok[onnx]'"
pytest.importorskip("onnxscript", reason=WANTED)
pytest.importorskip("onnxruntime", reason=WANTED)

from mimotok.export import onnx as exporter  # noqa: E402
from mimotok.export.graphs import dft_kernels  # noqa: E402
from mimotok.export.onnx import export_facts, export_onnx  # noqa: E402
from mimotok.export.run_onnx import OnnxTokenizer  # noqa: E402
from mimotok.export.stream_onnx import OnnxStreamDecoder  # noqa: E402
from tests.helpers.exports import command  # noqa: E402

FILES = {"encoder.onnx", "decoder.onnx", "mimotok.json", "run_onnx.py"}
STREAM_FILES = {"encoder_stream.onnx", "decoder_stream.onnx", "stream_onnx.py"}


def compare(tokenizer: Tokenizer, graphs: OnnxTokenizer, wav: torch.Tensor, lengths: torch.Tensor) -> None:
    codes, frames = tokenizer.encode(wav, lengths, n_q=graphs.n_q)
    found, found_frames = graphs.encode(wav.numpy(), lengths.numpy())
    np.testing.assert_array_equal(found_frames, frames.numpy())
    np.testing.assert_array_equal(found, codes.numpy())
    sound, samples = tokenizer.decode(codes, frames, length=wav.shape[1])
    found_sound, found_samples = graphs.decode(codes.numpy(), frames.numpy(), length=wav.shape[1])
    np.testing.assert_array_equal(found_samples, samples.numpy())
    np.testing.assert_allclose(found_sound, sound.numpy(), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_codes_and_sound_of_any_batch(exported: tuple[Tokenizer, Path], lengths: list[int], seed: int) -> None:
    tokenizer, folder = exported
    wav = 0.3 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    valid = torch.tensor(lengths)
    compare(tokenizer, OnnxTokenizer(folder), wav * (torch.arange(max(lengths)) < valid[:, None]), valid)


def test_one_graph_decodes_any_number_of_codebooks(exported: tuple[Tokenizer, Path]) -> None:
    tokenizer, folder = exported
    graphs = OnnxTokenizer(folder)
    codes, _ = graphs.encode(0.3 * np.random.default_rng(1).standard_normal((2, 9000)).astype("float32"))
    for n in range(1, graphs.n_q + 1):
        expected = tokenizer.decode(torch.from_numpy(codes[:, :n]))
        np.testing.assert_allclose(graphs.decode(codes[:, :n])[0], expected.numpy(), atol=1e-4)


def test_lengths_far_beyond_the_traced_one(exported: tuple[Tokenizer, Path]) -> None:
    tokenizer, folder = exported
    for length in (64 * 240, 64 * 480 + 1, 150_001):
        wav = 0.3 * torch.randn(1, length, generator=torch.Generator().manual_seed(length))
        compare(tokenizer, OnnxTokenizer(folder, threads=1), wav, torch.tensor([length]))


def test_int8_keeps_the_codes_and_nearly_the_sound(
    windowed_export: tuple[Tokenizer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, folder = windowed_export
    # tracing the same graphs again takes long
    monkeypatch.setattr(exporter, "_write", lambda *given: shutil.copyfile(folder / given[-1].name, given[-1]))
    graphs = OnnxTokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "model")
    options = ("--int8", "--streaming", "--model", tmp_path / "model", "--n-q", graphs.n_q)
    assert command("export", tmp_path / "small", *options) == 0
    assert {path.name for path in (tmp_path / "small").iterdir()} == FILES | STREAM_FILES
    small = OnnxTokenizer(tmp_path / "small")
    wav = 0.3 * np.random.default_rng(0).standard_normal((2, 30_000)).astype("float32")
    codes, _ = graphs.encode(wav)
    np.testing.assert_array_equal(small.encode(wav)[0], codes)
    exact, rounded = (way.decode(codes, length=wav.shape[1])[0] for way in (graphs, small))
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.1
    stream = OnnxStreamDecoder(tmp_path / "small")
    sound = np.concatenate((stream.push(codes), stream.flush()), axis=1)[:, : wav.shape[1]]
    assert 1e-5 < np.linalg.norm(sound - exact) / np.linalg.norm(exact) < 0.1


def test_the_folder_needs_neither_torch_nor_this_package(exported: tuple[Tokenizer, Path]) -> None:
    tokenizer, folder = exported
    extra = STREAM_FILES if tokenizer.config.decoder_is_bounded else set()
    assert {path.name for path in folder.iterdir()} == FILES | extra
    np.save(folder.parent / "wav.npy", 0.3 * np.random.default_rng(0).standard_normal((1, 9000)).astype("float32"))
    code = (
        "import sys; sys.modules['torch'] = sys.modules['mimotok'] = None\n"
        "import numpy; from run_onnx import OnnxTokenizer\n"
        "t = OnnxTokenizer('.'); wav = numpy.load('../wav.npy'); codes, _ = t.encode(wav)\n"
        "numpy.savez('../out.npz', codes=codes, wav=t.decode(codes, length=wav.shape[1])[0])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    wav, out = torch.from_numpy(np.load(folder.parent / "wav.npy")), np.load(folder.parent / "out.npz")
    codes = tokenizer.encode(wav, n_q=out["codes"].shape[1])
    np.testing.assert_array_equal(out["codes"], codes.numpy())
    np.testing.assert_allclose(out["wav"], tokenizer.decode(codes, length=9000).numpy(), atol=1e-4)


def test_unlimited_attention_stops_where_the_official_pipeline_cuts(exported: tuple[Tokenizer, Path]) -> None:
    tokenizer, folder = exported
    graphs = OnnxTokenizer(folder)
    if tokenizer.config.encoder_is_bounded:
        assert graphs.encode(np.zeros((1, 61 * 24000), np.float32))[0].shape[2] == tokenizer.num_frames(61 * 24000)
        return
    with pytest.raises(ValueError, match="60 s at once"):
        graphs.encode(np.zeros((1, 61 * 24000), np.float32))
    with pytest.raises(ValueError, match="60 s at once"):
        graphs.decode(np.zeros((1, graphs.n_q, 1501), np.int64))


def test_bad_input_of_the_graphs_is_reported_in_one_line(exported: tuple[Tokenizer, Path], tmp_path: Path) -> None:
    _, folder = exported
    graphs = OnnxTokenizer(folder)
    codes = np.zeros((1, graphs.n_q, 3), np.int64)
    wrong = codes.copy()
    wrong[0, 1, 2] = 999
    for message, call in {
        r"wav is int16 \[1, 9\]": lambda: graphs.encode(np.zeros((1, 9), np.int16)),
        "NaN": lambda: graphs.encode(np.full((1, 9), np.nan)),
        r"lengths=\[10\]": lambda: graphs.encode(np.zeros((1, 9)), np.array([10])),
        rf"codes are int64 \[1, {2 * graphs.n_q}, 3\]": lambda: graphs.decode(np.repeat(codes, 2, axis=1)),
        r"codes\[0, 1, 2\]=999": lambda: graphs.decode(wrong),
        "not an export": lambda: OnnxTokenizer(tmp_path),
    }.items():
        with pytest.raises(ValueError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_what_cannot_be_exported(
    streamable: Callable[..., Tokenizer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = streamable()
    for message, call in {
        "exists already": lambda: export_onnx(tokenizer, tmp_path),
        "does not exist": lambda: export_onnx(tokenizer, tmp_path / "no" / "where"),
        "n_q=9": lambda: export_onnx(tokenizer, tmp_path / "new", n_q=9),
        "export it as float32": lambda: export_onnx(streamable().to(torch.bfloat16), tmp_path / "new"),
        "export it without streaming": lambda: export_onnx(
            streamable(upsample_norm="group"), tmp_path / "new", streaming=True
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    for arguments in ((tmp_path,), (tmp_path / "new", "--format", "tflite")):
        assert command("export", *arguments) == 2
        assert re.fullmatch(r"mimotok: .*\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_export_cut_short_leaves_nothing(
    interruption: type[BaseException],
    streamable: Callable[..., Tokenizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        Path(str(arguments[-1])).write_bytes(b"half")
        raise interruption

    monkeypatch.setattr(exporter, "_write", fail)
    with pytest.raises(interruption):
        export_onnx(streamable(), tmp_path / "exported")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("n_fft", "window_size"), [(960, 960), (64, 40)])
def test_the_kernels_are_the_short_time_fourier_transform(n_fft: int, window_size: int) -> None:
    wav = torch.randn(1, 4 * n_fft)
    hop = n_fft // 4
    found = torch.nn.functional.conv1d(wav[:, None], dft_kernels(n_fft, window_size)[:, None], stride=hop)
    window = torch.hann_window(window_size)
    expected = torch.stft(wav, n_fft, hop, window_size, window, center=False, return_complex=True)
    torch.testing.assert_close(found, torch.cat((expected.real, expected.imag), 1), atol=1e-4, rtol=0)


def test_facts_tell_another_search_of_the_same_weights(streamable: Callable[..., Tokenizer], tmp_path: Path) -> None:
    """Whoever keeps an export asks them whether it is still that of the model."""
    streamable().save_pretrained(tmp_path)
    facts = export_facts(Tokenizer.from_pretrained(tmp_path), 3)
    assert facts == export_facts(Tokenizer.from_pretrained(tmp_path), 3)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantizer_settings": {"beam": 2}}))
    other = export_facts(Tokenizer.from_pretrained(tmp_path), 3)
    assert other["weights_sha256"] == facts["weights_sha256"]
    assert other != facts


def test_int8_leaves_nothing_of_a_large_graph_beside_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = np.random.default_rng(0).standard_normal((64, 64)).astype("float32")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 64])],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    path = tmp_path / "decoder.onnx"
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, f"{path.name}.data"}
    exporter._quantize(path)
    assert {each.name for each in tmp_path.iterdir()} == {path.name}
    assert not any(tensor.external_data for tensor in onnx.load(path, load_external_data=False).graph.initializer)
