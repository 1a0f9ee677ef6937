"""Codes through the range coder come back, whatever they are, wherever and in whatever company they are coded."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

pytest.importorskip("constriction", reason="needs pip install 'mimotok[entropy]'")

from mimotok.cli.main import app
from mimotok.code_models import code_model_of
from mimotok.info import read_info
from mimotok.io.codes.entropy import TOTAL, decode_blocks, encode_blocks, normalized, read_blocks
from mimotok.io.codes.mimo import append_codes, mimo_bytes, read_frames, read_mimo
from mimotok.io.codes.mimo_stream import MimoWriter, read_header, stream_frames
from mimotok.io.codes_file import CodesFile, load_codes, save_codes
from mimotok.model.code_model import STATE_UNIT, CodeModel
from mimotok.streaming.pipes import decode_pipe, encode_pipe
from mimotok.tokenizer import Tokenizer
from mimotok.transcode import decode_file, encode_file
from mimotok.weights import CODE_MODEL_NAME, sha256_of_codes
from tests.helpers.code_models import make_code_model
from tests.helpers.models import STREAMABLE, make_tokenizer
from tests.helpers.paths import ROOT
from train.tools.code_model import train_code_model

SIZES = (32, 1, 16, 300)
MODEL = make_code_model(SIZES[:3])


def random_codes(sizes, num_frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, num_frames) for size in sizes]).astype(np.uint16)


def codes_file(num_frames: int = 60) -> CodesFile:
    return CodesFile(random_codes(SIZES, num_frames), num_frames * 960 - 7, 24000, 25.0, SIZES, "a model", "01" * 32)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    n_q=st.integers(1, 4),
    blocks=st.integers(1, 5),
    frames=st.integers(1, 6),
    weights=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_any_codes_come_back_alone_and_together(seed, n_q, blocks, frames, weights) -> None:
    model = make_code_model(SIZES[:3], seed, weights=weights)
    codes = random_codes(SIZES[:n_q], blocks * frames, seed)
    data = encode_blocks(model, SIZES[:n_q], codes, frames)
    assert np.array_equal(decode_blocks(model, SIZES[:n_q], data, frames), codes)
    for index, one in enumerate(data):
        part = codes[:, index * frames :][:, :frames]
        assert encode_blocks(model, SIZES[:n_q], part, frames) == [one]
        assert np.array_equal(decode_blocks(model, SIZES[:n_q], [one], frames), part)


@pytest.mark.parametrize("weights", [1.0, 30.0])
def test_the_most_and_the_least_likely_codes_come_back(weights) -> None:
    model = make_code_model(SIZES[:3], 1, weights=weights)
    for pick in (np.argmax, np.argmin):
        prediction = model.begin(1, 3)
        chosen = []
        for _ in range(25 * 3):
            tables = prediction.frequencies()
            assert tables.min() >= 1
            assert tables.sum() == TOTAL
            chosen.append(int(pick(tables[0])))
            prediction.push(np.array([chosen[-1]]))
        codes = np.array(chosen, np.uint16).reshape(25, 3).T
        assert np.array_equal(decode_blocks(model, SIZES[:3], encode_blocks(model, SIZES[:3], codes, 25), 25), codes)


def test_another_process_with_other_threads_decodes(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "model")
    original = codes_file()
    save_codes(tmp_path / "x.mimo", original, code_model=MODEL)
    script = (
        "import sys; from pathlib import Path; from mimotok.model.code_model import CodeModel;"
        "from mimotok.io.codes_file import load_codes;"
        "held = load_codes('x.mimo', lambda: CodeModel.load(Path('model'))); print(held.codes.tolist())"
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    env = os.environ | threads | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(original.codes.tolist()), done.stderr


def test_the_coder_divides_its_range_as_the_docs_say() -> None:
    """An independent decoder, by docs/formats.md: a library that rounds otherwise would not read old files."""
    codes = random_codes(SIZES, 40, 3)
    (data,) = encode_blocks(MODEL, SIZES, codes, 40)
    point = int.from_bytes(data.ljust(8, b"\0")[:8], "big")
    data = data[8:]
    low = 0
    size = 2**64 - 1
    prediction = MODEL.begin(1, 3)
    for frame in range(40):
        for book, entries in enumerate(SIZES):
            table = prediction.frequencies()[0] if book < 3 else normalized(np.ones((1, entries), np.int64))[0]
            code = 0
            if entries > 1:
                below = np.concatenate([[0], table.cumsum()])
                starts = below * (2**24 - entries) // TOTAL + np.arange(entries + 1)
                unit = size >> 24
                code = int(np.searchsorted(starts, (point - low) % 2**64 // unit, side="right")) - 1
                low = (low + unit * int(starts[code])) % 2**64
                size = unit * int(starts[code + 1] - starts[code])
                if size < 2**32:
                    low = (low << 32) % 2**64
                    size <<= 32
                    point = (point << 32) % 2**64 + int.from_bytes(data.ljust(4, b"\0")[:4], "big")
                    data = data[4:]
            assert code == codes[book, frame]
            if book < 3:
                prediction.push(np.array([code]))


@settings(max_examples=8, deadline=None)
@given(data=st.data(), num_frames=st.integers(1, 80), ended=st.booleans())
def test_pushed_in_parts_equals_whole_and_streams(data, num_frames, ended) -> None:
    original = codes_file(num_frames)
    whole = mimo_bytes(original, MODEL)
    target = io.BytesIO()
    writer = MimoWriter(target, read_header(io.BytesIO(whole)), code_model=MODEL)
    done = 0
    while done < num_frames:
        step = data.draw(st.integers(1, 60))
        writer.write(original.codes[:, done : done + step])
        done += step
    if ended:
        writer.close(original.num_samples)
        assert target.getvalue() == whole
    else:
        writer.finish()
    target.seek(0)
    assert np.array_equal(read_mimo(target, lambda: MODEL).codes, original.codes)
    target.seek(0)
    header = read_header(target)
    assert np.array_equal(np.concatenate([*stream_frames(target, header, 9, lambda: MODEL)], axis=1), original.codes)


def test_a_stream_that_was_cut_short_says_so_after_its_whole_seconds() -> None:
    codes = codes_file(60).codes
    target = io.BytesIO()
    writer = MimoWriter(target, read_header(io.BytesIO(mimo_bytes(codes_file(60), MODEL))), code_model=MODEL)
    writer.write(codes)
    writer.finish()
    cut = io.BytesIO(target.getvalue()[:-1])
    heard: list[np.ndarray] = []
    with pytest.raises(ValueError, match="ends within a second, after 2 whole ones"):
        heard.extend(stream_frames(cut, read_header(cut), 9, lambda: MODEL))
    assert np.array_equal(np.concatenate(heard, axis=1), codes[:, :50])


def test_a_file_that_was_cut_short_keeps_its_whole_seconds() -> None:
    original = codes_file(60)
    whole = mimo_bytes(original, MODEL)
    source = io.BytesIO(whole)
    read_header(source)
    start = source.tell()
    ends = start + np.cumsum([block.size for block in read_blocks(source, 25, 4)])
    for cut in sorted({*range(start, len(whole), 9), *ends, *(ends - 1)} - {len(whole)}):
        seconds = int((ends <= cut).sum())
        if not seconds:
            with pytest.raises(ValueError, match="no whole frame"):
                read_mimo(io.BytesIO(whole[:cut]), lambda: MODEL)
            continue
        held = read_mimo(io.BytesIO(whole[:cut]), lambda: MODEL)
        assert np.array_equal(held.codes, original.codes[:, : 25 * seconds])
        assert held.missing_frames == 60 - 25 * seconds


def test_damage_is_noticed() -> None:
    whole = mimo_bytes(codes_file(30), MODEL)
    overlooked = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        try:
            read_mimo(io.BytesIO(bytes(damaged)), lambda: MODEL)
            overlooked += 1
        except ValueError:
            pass
    # CRC finds every single bit; the end of a length may still look like a file that was cut
    assert overlooked <= 2


@pytest.mark.parametrize(("before", "cut"), [(10, 0), (25, 0), (60, 0), (60, 3), (40, 20)])
def test_appended_equals_whole(tmp_path: Path, before: int, cut: int) -> None:
    original = codes_file(90)
    path = tmp_path / "x.mimo"
    first = replace(original, codes=original.codes[:, :before], num_samples=before * 960)
    data = mimo_bytes(first, MODEL)
    path.write_bytes(data[: len(data) - cut])
    kept = load_codes(path, lambda: MODEL).codes.shape[1]
    append_codes(path, original.codes[:, kept:70], get_model=lambda: MODEL)
    append_codes(path, original.codes[:, 70:], original.num_samples, get_model=lambda: MODEL)
    assert path.read_bytes() == mimo_bytes(original, MODEL)
    assert np.array_equal(read_frames(path, 20, 77, lambda: MODEL), original.codes[:, 20:77])


def test_another_model_and_none_are_refused_and_facts_need_none(tmp_path: Path) -> None:
    path = tmp_path / "x.mimo"
    save_codes(path, codes_file(), code_model=MODEL)
    with pytest.raises(ValueError, match="none was given"):
        load_codes(path)
    with pytest.raises(ValueError, match="not by"):
        load_codes(path, lambda: make_code_model(SIZES[:3], 9))
    with pytest.raises(ValueError, match="not those of the model of codes"):
        mimo_bytes(codes_file(), make_code_model((31, 1)))
    with pytest.raises(ValueError, match=r"ends so"):
        save_codes(tmp_path / "x.npz", codes_file(), code_model=MODEL)
    facts = read_info(path)
    assert "entropy-coded" in facts["codes file"]
    assert facts["frames"].startswith("60 ")


def test_weights_whose_sums_might_round_are_refused(tmp_path: Path) -> None:
    tensors = dict(MODEL._tensors)
    tensors["head.0.scale"] = np.full(32, 2**31 - 1, np.int32)
    with pytest.raises(ValueError, match="so large that sums may reach"):
        CodeModel(tensors, "")
    (tmp_path / "x").write_bytes(b"no model")
    with pytest.raises(ValueError, match="x: "):
        CodeModel.load(tmp_path / "x")


def test_sums_are_exact() -> None:
    """In whole numbers of any size: what numpy's float64 gives is what Python's integers give."""
    prediction = MODEL.begin(1, 3)
    prediction.frequencies()
    state = [int(value) for value in prediction._state[0]]
    prediction._frame = np.zeros((1, MODEL.hidden))
    seen = prediction._function("gelu", (prediction._frame + MODEL.frame_bias) * STATE_UNIT)
    exact = [
        sum(int(a) * int(b) for a, b in zip(row, seen[0], strict=True)) + int(bias)
        for row, bias in zip(MODEL.gru_input, MODEL.gru_input_bias, strict=True)
    ]
    assert exact == [int(value) for value in seen[0] @ MODEL.gru_input.T + MODEL.gru_input_bias]
    assert max(map(abs, state)) <= STATE_UNIT


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(STREAMABLE).save_pretrained(folder)
    original = Tokenizer.from_pretrained(folder)
    digest = sha256_of_codes(folder / "model.safetensors")
    make_code_model(original.codebook_sizes, codes_sha256=digest).save(folder / CODE_MODEL_NAME)
    return original


def test_encoded_decoded_and_streamed_as_without(tokenizer: Tokenizer, tmp_path: Path, monkeypatch) -> None:
    import soundfile as sf

    sound = tmp_path / "in.wav"
    sf.write(sound, np.random.default_rng(0).normal(0, 0.1, 40_000), 24000, subtype="PCM_16")
    plain = encode_file(tokenizer, sound, tmp_path / "plain.mimo")
    encode_file(tokenizer, sound, tmp_path / "x.mimo", entropy=True)
    held = decode_file(tokenizer, tmp_path / "x.mimo", tmp_path / "out.wav")
    assert np.array_equal(held.codes, plain.codes)
    stream = io.BytesIO()
    encode_pipe(tokenizer, io.BytesIO(sound.read_bytes()), stream, entropy=True)
    stream.seek(0)
    codes = read_mimo(stream, lambda: code_model_of(tokenizer)).codes
    plain_stream = io.BytesIO()
    encode_pipe(tokenizer, io.BytesIO(sound.read_bytes()), plain_stream)
    plain_stream.seek(0)
    assert np.array_equal(codes, read_mimo(plain_stream).codes)
    outputs = [io.BytesIO(), io.BytesIO()]
    for source, target in zip((stream, plain_stream), outputs, strict=True):
        source.seek(0)
        decode_pipe(tokenizer, source, target)
    assert len(outputs[0].getvalue()) == len(outputs[1].getvalue())
    with pytest.raises(ValueError, match=r"expected \.mimo"):
        encode_file(tokenizer, sound, tmp_path / "x.npz", entropy=True)
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match=r"mimotok\[entropy\]"):
        encode_file(tokenizer, sound, tmp_path / "y.mimo", entropy=True)


def test_the_command_writes_mimo_only(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import soundfile as sf

    sound = tmp_path / "in.wav"
    sf.write(sound, np.random.default_rng(1).normal(0, 0.1, 30_000), 24000, subtype="PCM_16")
    options = ["--entropy", "--model", str(tokenizer.folder)]
    refused = CliRunner().invoke(app, ["encode", str(sound), str(tmp_path / "x.npz"), *options])
    assert refused.exit_code == 2
    done = CliRunner().invoke(app, ["encode", str(sound), "--out-dir", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert "entropy-coded" in load_codes(tmp_path / "out" / "in.mimo", lambda: code_model_of(tokenizer)).container


def test_training_finds_what_codes_follow_and_whole_numbers_keep_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Codes that repeat take fewer bits than counts of entries would give, and none are lost."""
    codes = np.tile(random_codes(tokenizer.codebook_sizes, 7, 5), (1, 40))
    made_by = sha256_of_codes(tokenizer.folder / "model.safetensors")
    np.savez(tmp_path / "codes.npz", train=codes, dev=codes, made_by=np.array(made_by))
    out = tmp_path / "code_model.safetensors"
    cached = tmp_path / "codes.npz"
    summary = train_code_model("none", model=str(tokenizer.folder), out=out, codes=cached, steps=40, hidden=32)
    assert "dev:" in summary
    sizes = tokenizer.codebook_sizes
    data = encode_blocks(CodeModel.load(out), sizes, codes[:, :100], 25)
    counts = -sum(np.log2(np.mean(row[:, None] == row, axis=1)).sum() for row in codes[:, :100])
    assert 8 * sum(map(len, data)) < 0.9 * counts
    assert np.array_equal(decode_blocks(CodeModel.load(out), sizes, data, 25), codes[:, :100])


def test_a_model_beside_other_weights_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The decoder's weights have no say in codes, and the encoder's have."""
    assert tokenizer.folder is not None
    model = CodeModel.load(tokenizer.folder / CODE_MODEL_NAME)
    for seed, part in enumerate((tokenizer.decoder, tokenizer.encoder)):
        folder = tmp_path / str(seed)
        other = Tokenizer.from_pretrained(tokenizer.folder)
        own = part is tokenizer.encoder
        with torch.no_grad():
            next((other.encoder if own else other.decoder).parameters()).add_(1)
        other.save_pretrained(folder)
        model.save(folder / CODE_MODEL_NAME)
        if own:
            with pytest.raises(ValueError, match="made for the codes of other weights"):
                code_model_of(Tokenizer.from_pretrained(folder))
        else:
            assert code_model_of(Tokenizer.from_pretrained(folder)).digest == model.digest
    other.folder = tmp_path
    with pytest.raises(ValueError, match="train code-model"):
        code_model_of(other)


def test_what_cannot_be_appended_leaves_the_open_block(tmp_path: Path) -> None:
    path = tmp_path / "x.mimo"
    save_codes(path, codes_file(30), code_model=MODEL)
    before = path.read_bytes()
    for more, num_samples in ((np.full((len(SIZES), 1), max(SIZES), np.uint16), None), (more_of(3), 1)):
        with pytest.raises(ValueError, match=r"entries|stand for"):
            append_codes(path, more, num_samples, lambda: MODEL)
        assert path.read_bytes() == before


def more_of(frames: int) -> np.ndarray:
    return random_codes(SIZES, frames, 1)


def test_a_model_that_was_trained_anew_is_read_anew(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.folder is not None
    folder = tmp_path / "model"
    shutil.copytree(tokenizer.folder, folder)
    read = Tokenizer.from_pretrained(folder)
    before = code_model_of(read)
    assert code_model_of(read) is before
    other = make_code_model(read.codebook_sizes, 9)
    other.codes_sha256 = before.codes_sha256
    other.save(folder / CODE_MODEL_NAME)
    assert code_model_of(read).digest == other.digest != before.digest


def test_a_file_that_needs_the_coder_stops_no_other(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile as sf

    sf.write(tmp_path / "in.wav", np.random.default_rng(1).normal(0, 0.1, 30_000), 24000, subtype="PCM_16")
    encode_file(tokenizer, tmp_path / "in.wav", tmp_path / "a.mimo", entropy=True)
    encode_file(tokenizer, tmp_path / "in.wav", tmp_path / "b.npz")
    monkeypatch.setitem(sys.modules, "constriction", None)
    files = [str(tmp_path / name) for name in ("a.mimo", "b.npz")]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["decode", *files, "--out-dir", str(out), "--model", str(tokenizer.folder)])
    assert done.exit_code == 2
    assert f"{files[0]}: entropy coding needs" in done.output
    assert [path.name for path in out.iterdir()] == ["b.wav"]
