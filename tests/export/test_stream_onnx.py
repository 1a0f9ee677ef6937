"""Stream graphs against the streams of torch: any split into blocks; streams in step begin and end by themselves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok import Tokenizer
from mimotok.streaming import StreamDecoder, StreamEncoder
from tests.helpers.paths import ROOT

WANTED = "needs: pip install 'mimotok[onnx]'"
pytest.importorskip("onnxscript", reason=WANTED)
onnxruntime = pytest.importorskip("onnxruntime", reason=WANTED)

from mimotok.export.stream_onnx import OnnxStreamDecoder, OnnxStreamEncoder  # noqa: E402

pytestmark = pytest.mark.slow
Export = tuple[Tokenizer, Path]


def noise(batch: int, samples: int) -> np.ndarray:
    return (0.3 * np.random.default_rng(samples).standard_normal((batch, samples))).astype(np.float32)


def parts(whole: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Cut an array along its last dimension; no part is empty."""
    return [part for part in np.split(whole, np.cumsum(sizes), axis=-1) if part.shape[-1]]


@settings(max_examples=8)
@given(samples=st.integers(1, 50_000), sizes=st.lists(st.integers(1, 9_000), max_size=9), batch=st.integers(1, 2))
def test_any_split_gives_what_the_streams_of_torch_give(
    windowed_export: Export, samples: int, sizes: list[int], batch: int
) -> None:
    tokenizer, folder = windowed_export
    wav = noise(batch, samples)
    blocks = parts(wav, sizes)
    encoder = OnnxStreamEncoder(folder, threads=1)
    codes = np.concatenate([*map(encoder.push, blocks), encoder.flush()], axis=2)
    stream = StreamEncoder(tokenizer, n_q=3)
    expected = torch.cat([*(stream.push(torch.from_numpy(block)) for block in blocks), stream.flush()], dim=2)
    np.testing.assert_array_equal(codes, expected.numpy())
    decoder = OnnxStreamDecoder(folder, threads=1)
    sound = np.concatenate([*map(decoder.push, parts(codes, [size // 960 for size in sizes])), decoder.flush()], axis=1)
    player = StreamDecoder(tokenizer)
    expected_sound = torch.cat([player.push(expected), player.flush()], dim=1)
    np.testing.assert_allclose(sound, expected_sound.numpy(), atol=1e-4)


def test_streams_in_step_do_not_affect_each_other(windowed_export: Export) -> None:
    """One of two begins two steps after the other and ends with it."""
    tokenizer, folder = windowed_export
    graph = onnxruntime.InferenceSession(folder / "decoder_stream.onnx")
    assert [value.shape[0] for value in (*graph.get_inputs(), *graph.get_outputs())] == ["batch"] * (
        2 * len(graph.get_inputs())
    )
    assert graph.get_inputs()[0].shape == ["batch", 3, "frames"]
    codes = torch.randint(0, 16, (2, 3, 8))
    state = {value.name: np.zeros((2, *value.shape[1:]), np.float32) for value in graph.get_inputs()[2:]}
    sounds: list[list[np.ndarray]] = [[], []]
    for step in range(8 + tokenizer.num_frames(0) + 8):
        lengths = np.array([step < 8, 2 <= step < 8], np.int64)
        block = codes[:, :, min(step, 7)][:, :, None].numpy()
        wav, valid, *after = graph.run(None, {"codes": block, "lengths": lengths, **state})
        state = dict(zip(state, after, strict=True))
        for row in range(2):
            sounds[row].append(wav[row, valid[row]].reshape(-1))
    for row, first in enumerate((0, 2)):
        expected = tokenizer.decode(codes[row : row + 1, :, first:])[0]
        np.testing.assert_allclose(np.concatenate(sounds[row]), expected.numpy(), atol=1e-4)


def test_the_loop_of_the_page_gives_the_whole_clip(windowed_export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, folder = windowed_export
    monkeypatch.chdir(folder.parent)
    page = (ROOT / "docs/onnx.md").read_text()
    loop = next(text for text in re.findall(r"^```py\n(.*?)^```", page, re.S | re.M) if "encoder_stream" in text)
    wav = noise(1, 9000)
    found: dict = {"wav": wav}
    exec(compile(loop, "docs/onnx.md", "exec"), found)
    codes = tokenizer.encode(torch.from_numpy(wav), n_q=3)
    np.testing.assert_array_equal(found["codes"], codes.numpy())
    np.testing.assert_allclose(found["sound"], tokenizer.decode(codes).numpy(), atol=1e-4)


def test_streams_refuse_in_one_line_what_they_cannot_take(windowed_export: Export, tmp_path: Path) -> None:
    _, folder = windowed_export
    encoder = OnnxStreamEncoder(folder)
    decoder = OnnxStreamDecoder(folder)
    encoder.push(noise(2, 100))
    decoder.push(np.zeros((1, 2, 1), np.int64))
    whole_only = tmp_path / "whole"
    whole_only.mkdir()
    shutil.copy(folder / "mimotok.json", whole_only)
    for message, call in {
        "stream began with 2": lambda: encoder.push(noise(1, 100)),
        "NaN": lambda: encoder.push(np.full((2, 9), np.nan)),
        "before its first sample": lambda: OnnxStreamEncoder(folder).flush(),
        "before its first code": lambda: OnnxStreamDecoder(folder).flush(),
        r"codes\[0, 1, 0\]=99": lambda: decoder.push(np.array([[[0], [99]]])),
        "export it with --streaming": lambda: OnnxStreamEncoder(whole_only),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    encoder.flush()
    with pytest.raises(ValueError, match="call reset"):
        encoder.push(noise(2, 100))
    encoder.reset()
    assert encoder.push(noise(1, 5000)).shape[:2] == (1, 3)
