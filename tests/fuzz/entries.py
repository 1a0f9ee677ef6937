"""The entry points: how the input of each is made from a seed, and the real reader that reads it."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from eval.testlists import read_test_list
from mimotok import Tokenizer
from mimotok.corpus.clips import read_clip
from mimotok.corpus.inputs import read_input
from mimotok.info import read_info
from mimotok.io.audio import declared_seconds, read_blocks
from mimotok.io.codes.mimo import append_codes, mimo_bytes
from mimotok.io.codes.mimo_layout import header_size, layout_size
from mimotok.io.codes.mimo_stream import read_header, stream_frames
from mimotok.io.codes_file import CodesFile, load_codes, save_codes
from mimotok.model.code_model import CodeModel
from mimotok.streaming.pipes import decode_pipe, encode_pipe
from mimotok.transcode import decode_file
from tests.fuzz.mutations import VALUES, changed_value, damaged
from tests.helpers.code_models import make_code_model
from tests.helpers.codes_files import arrays_of_format_1
from tests.helpers.models import STREAMABLE, make_tokenizer
from tests.helpers.paths import PARITY
from train.data.manifest import read_manifest

MODEL = PARITY / "a"
RATE = 24000


class Entry(NamedTuple):
    """make: write the input of a seed into a folder; read: read it as the package does."""

    name: str
    make: Callable[[random.Random, Path], None]
    read: Callable[[Path], None]


def _only(folder: Path, prefix: str) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.name.startswith(prefix))


# --- audio


@cache
def sounds() -> dict[str, bytes]:
    """Short sounds in the formats that libsndfile writes, by the name of a file."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((2000, 2))
    kinds = {
        "wav": ("WAV", "PCM_16"), "wav24": ("WAV", "PCM_24"), "wavf": ("WAV", "FLOAT"), "wavu": ("WAV", "ULAW"),
        "ima": ("WAV", "IMA_ADPCM"), "wavex": ("WAVEX", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"), "w64": ("W64", "PCM_16"), "aiff": ("AIFF", "PCM_16"),
        "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16"), "rf64": ("RF64", "PCM_16"), "alac": ("CAF", "ALAC_16"),
    }  # fmt: skip
    sounds = {}
    for name, (container, encoding) in kinds.items():
        file = io.BytesIO()
        soundfile.write(file, noise, RATE, encoding, format=container)
        sounds[name] = file.getvalue()
    return sounds


def make_audio(rng: random.Random, folder: Path) -> None:
    name = rng.choice(sorted(sounds()))
    suffix = rng.choice((name, "wav", "mp3", "ogg", "flac"))
    folder.joinpath(f"input.{suffix}").write_bytes(damaged(rng, sounds()[name], list(sounds().values())))


def read_audio(folder: Path) -> None:
    path = _only(folder, "input")
    declared_seconds(path)
    samples = 0
    for block in read_blocks(path, RATE):
        assert block.dtype == torch.float32
        assert bool(torch.isfinite(block).all())
        samples += block.shape[1]
    assert samples


# --- codes


@cache
def tiny() -> Tokenizer:
    torch.set_num_threads(1)
    return make_tokenizer(STREAMABLE)


@cache
def codes_bytes(frames: int) -> bytes:
    codes = np.random.default_rng(0).integers(0, 16, (4, frames)).astype(np.uint16)
    sizes = tiny().codebook_sizes
    file = CodesFile(codes, frames * 960, RATE, 25.0, sizes, "tiny", "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        save_codes(Path(folder, "x.npz"), file)
        return Path(folder, "x.npz").read_bytes()


def make_codes(rng: random.Random, folder: Path) -> None:
    data = codes_bytes(rng.choice((1, 7, 100)))
    if rng.random() < 0.5:
        folder.joinpath("input.npz").write_bytes(damaged(rng, data, [codes_bytes(9)]))
        return
    if rng.random() < 0.5:
        _forge_header(rng, folder, data)
        return
    with tempfile.TemporaryDirectory() as name:
        Path(name, "x.npz").write_bytes(data)
        fields = arrays_of_format_1(Path(name, "x.npz"))
    for name in rng.sample(sorted(fields), rng.choice((1, 1, 2))):
        fields[name] = _forged(rng, fields[name])
    save = np.savez_compressed if rng.random() < 0.1 else np.savez
    save(folder / "input.npz", **fields)


def _forge_header(rng: random.Random, folder: Path, data: bytes) -> None:
    """Change the line of JSON of format 2, or the codes behind it."""
    with np.load(io.BytesIO(data)) as loaded:
        line, _, packed = loaded["packed"].tobytes().partition(b"\n")
    if rng.random() < 0.8:
        line = _json(rng, changed_value(rng, json.loads(line)))
    else:
        packed = damaged(rng, packed)
    save = np.savez_compressed if rng.random() < 0.3 else np.savez
    save(folder / "input.npz", packed=np.frombuffer(line + b"\n" + packed, np.uint8))


SCALARS = [value for value in VALUES if isinstance(value, (int, float, str)) and value not in (2**64, 10**400)]
DTYPES = ("<f8", ">u2", "<U4", "<i8", "|i1", "<c16", "|b1")


def _forged(rng: random.Random, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "U":
        other = np.array(["\U0010ffff" * 300, "x"])
    else:
        other = array.astype(rng.choice(DTYPES), casting="unsafe")
    choices = (
        np.array(rng.choice(SCALARS)),
        np.array(array.tolist()),
        other,
        array.reshape(-1, 1)[: rng.randrange(3)],
        np.asfortranarray(array),
        np.zeros((0, 3), np.uint16),
        np.full((2000, 3), 7, np.uint16),
    )
    return choices[rng.randrange(len(choices))]


def read_codes(folder: Path) -> None:
    path = folder / "input.npz"
    read_info(path)
    if load_codes(path).codes.shape[1] < 500:
        decode_file(tiny(), path, folder / "out.wav", force=True)


# --- .mimo


@cache
def code_model() -> CodeModel:
    return make_code_model(tiny().codebook_sizes[:2])


@cache
def mimo_file(frames: int, n_q: int, own_layout: bool, is_coded: bool = False) -> bytes:
    sizes = (*tiny().codebook_sizes, *[16] * 4)[:n_q] if own_layout else (1024, 1024, *[128] * 6)[:n_q]
    codes = np.random.default_rng(0).integers(0, min(sizes), (n_q, frames)).astype(np.uint16)
    original = CodesFile(codes, frames * 960, RATE, 25.0, sizes, "tiny", "0" * 64)
    return mimo_bytes(original, code_model() if is_coded else None)


def make_mimo(rng: random.Random, folder: Path) -> None:
    is_coded = rng.random() < 0.4
    data = mimo_file(rng.choice((1, 30, 100)), rng.choice((1, 4, 4, 4, 8)), is_coded or rng.random() < 0.8, is_coded)
    if rng.random() < 0.5:
        data = damaged(rng, data, [mimo_file(30, 4, True), code_stream()])
    else:
        data = _signed_header(rng, data)
    (folder / "input.mimo").write_bytes(data)


def _signed_header(rng: random.Random, data: bytes) -> bytes:
    """Change the header and sign it again, so that what it claims is believed."""
    fixed = header_size(data)
    size = fixed + layout_size(data)
    start = data[: fixed - 2]
    layout = data[fixed:size]
    if rng.random() < 0.7:
        # the magic and the version are compared and no more
        first = rng.choice((0, 3, 3, 4, 9, 9))
        start = (start[:first] + damaged(rng, start[first:])).ljust(fixed - 2, b"\0")[: fixed - 2]
    if layout and rng.random() < 0.3:
        layout = damaged(rng, layout)
    check = zlib.crc32(start + layout) & 0xFFFF
    return start + struct.pack("<H", check) + layout + data[size:]


def read_mimo_files(folder: Path) -> None:
    path = folder / "input.mimo"
    more = np.zeros((4, 3), np.uint16)
    refusals = [
        _attempt(lambda: _decode_both(path)),
        _attempt(lambda: _read_coded(path)),
        _attempt(lambda: append_codes(path, more, get_model=code_model)),
    ]
    for refusal in refusals:
        if refusal is not None:
            raise refusal


def _read_coded(path: Path) -> None:
    held = load_codes(path, code_model).codes
    with path.open("rb") as source:
        parts = list(stream_frames(source, read_header(source), 100, code_model))
    assert np.array_equal(np.concatenate(parts, axis=1)[:, : held.shape[1]], held)


def _decode_both(path: Path) -> None:
    read_info(path)
    with path.open("rb") as source:
        decode_pipe(tiny(), source, io.BytesIO(), force=True)
    if load_codes(path).codes.shape[1] < 500:
        decode_file(tiny(), path, path.parent / "out.wav", force=True)


# --- model folders


def _model(folder: Path, config: bytes | None = None, weights: bytes | None = None) -> None:
    for name, data in (("config.json", config), ("model.safetensors", weights)):
        if data is None:
            os.symlink(MODEL / name, folder / name)
        else:
            (folder / name).write_bytes(data)


def make_config(rng: random.Random, folder: Path) -> None:
    text = (MODEL / "config.json").read_bytes()
    if rng.random() < 0.3:
        _model(folder, config=damaged(rng, text, [(MODEL.parent / "c" / "config.json").read_bytes()]))
    else:
        _model(folder, config=_json(rng, changed_value(rng, json.loads(text))))


def _json(rng: random.Random, value: Any) -> bytes:
    if rng.random() < 0.02:
        return (b"[" if rng.random() < 0.5 else b'{"a":') * 100_000
    return json.dumps(value).encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16")), "surrogatepass")


@cache
def weights() -> bytes:
    return (MODEL / "model.safetensors").read_bytes()


def make_headers(rng: random.Random, folder: Path) -> None:
    size = int.from_bytes(weights()[:8], "little")
    if rng.random() < 0.4:
        # near the start, where the header is
        data = damaged(rng, weights()[: 8 + size]) + weights()[8 + size :]
        _model(folder, weights=data)
        return
    header = json.loads(weights()[8 : 8 + size])
    for _ in range(rng.choice((1, 1, 2, 5))):
        _change_header(rng, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    length = rng.choice((len(text),) * 8 + (0, 2**40, 2**64 - 1, len(text) + 1))
    _model(folder, weights=length.to_bytes(8, "little") + text + weights()[8 + size :])


def _change_header(rng: random.Random, header: dict[str, Any]) -> None:
    key = rng.choice(sorted(header))
    other = rng.choice(sorted(header))
    action = rng.randrange(6)
    if action == 0:
        header[key] = changed_value(rng, header[key])
    elif action == 1:
        header[rng.choice((key + "x", "\x1b[2J", "encoder.layers.999999999.x", "a" * 5000))] = header.pop(key)
    elif action == 2:
        header[key] = header[other]
    elif action == 3 and isinstance(header[key], dict) and "dtype" in header[key]:
        header[key]["dtype"] = rng.choice(("F64", "BF16", "I8", "U8", "F8_E4M3", "BOOL", "I64", "C64", "F4"))
    elif action == 4 and isinstance(header[key], dict) and "shape" in header[key]:
        header[key]["shape"] = rng.choice(([], [0], [2**63], [2**32, 2**32], [1] * 70, header[key]["shape"][::-1]))
    else:
        del header[key]
    if not header:
        header["a"] = {}


def read_model(folder: Path) -> None:
    read_info(folder)
    tokenizer = Tokenizer.from_pretrained(folder)
    codes = tokenizer.encode(torch.zeros(1, 4800))
    assert bool(torch.isfinite(tokenizer.decode(codes)).all())


# --- manifests and tars

CUT = {
    "id": "c", "start": 0.0, "duration": 0.05, "channel": 0, "type": "MonoCut",
    "supervisions": [{"id": "s", "recording_id": "r", "start": 0.0, "duration": 0.05, "text": "hi", "speaker": "me"}],
    "recording": {
        "id": "r", "sampling_rate": RATE, "num_samples": 2000, "duration": 0.0833333,
        "sources": [{"type": "file", "channels": [0, 1], "source": "a.wav"}],
    },
}  # fmt: skip
ROW = {"id": "k", "audio": "a.wav", "duration": 0.08, "text": "hi", "speaker": "me", "split": "test", "language": "en"}


def make_manifest(rng: random.Random, folder: Path) -> None:
    (folder / "a.wav").write_bytes(sounds()["wav"])
    rows = [CUT if rng.random() < 0.4 else ROW for _ in range(rng.choice((1, 2, 4)))]
    rows = [{**row, "id": f"{row['id']}{i}"} for i, row in enumerate(rows)]
    if rng.random() < 0.8:
        place = rng.randrange(len(rows))
        rows[place] = changed_value(rng, rows[place])
    data = "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        data = damaged(rng, data, [json.dumps(CUT).encode(), b"[" * 5000])
    suffix = rng.choice(("jsonl", "jsonl", "jsonl.gz"))
    if suffix.endswith("gz"):
        data = gzip.compress(data)
        data = damaged(rng, data) if rng.random() < 0.3 else data
    (folder / f"input.{suffix}").write_bytes(data)


def read_manifests(folder: Path) -> None:
    path = _only(folder, "input")
    refusals = [
        _attempt(lambda: _read_clips(path, folder)),
        _attempt(lambda: read_manifest(str(path), str(folder))),
        _attempt(lambda: read_test_list(path, root=folder)),
    ]
    for refusal in refusals:
        if refusal is not None:
            raise refusal


def _attempt(read: Callable[[], Any]) -> ValueError | None:
    try:
        read()
    except ValueError as error:
        return error
    return None


def _read_clips(path: Path, root: Path) -> None:
    refusal: Exception | None = None
    for clip in islice(read_input(str(path), root=str(root)).clips, 5):
        json.dumps(clip.metadata)
        try:
            for _ in read_clip(clip, RATE):
                pass
        except MemoryError:
            raise
        except Exception as error:  # a clip may fail in any way: its reader puts it into failed.jsonl
            refusal = error
    if refusal is not None:
        raise ValueError(f"{type(refusal).__name__} of a clip: {' '.join(str(refusal).split())[:500]}")


def make_tar(rng: random.Random, folder: Path) -> None:
    file = io.BytesIO()
    kind = rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name in rng.sample(("a.wav", "a.json", "a.txt", "b/c.flac", "d.1.opus", "d.2.mp3", "é" * 60 + ".wav"), 4):
            data = sounds().get(name.rpartition(".")[2], b'{"duration": 0.1, "text": "hi"}')
            if rng.random() < 0.2:
                data = damaged(rng, data)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.type = rng.choice(
                (tarfile.REGTYPE,) * 12 + (tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE)
            )
            member.linkname = rng.choice(("a.wav", "/etc/passwd"))
            tar.addfile(member, io.BytesIO(data))
    data = file.getvalue()
    (folder / "input.tar").write_bytes(damaged(rng, data) if rng.random() < 0.8 else data)


def read_tar(folder: Path) -> None:
    _read_clips(folder / "input.tar", folder)


# --- streams


@cache
def code_stream() -> bytes:
    target = io.BytesIO()
    encode_pipe(tiny(), io.BytesIO(np.zeros(4800, "<i2").tobytes()), target, raw=True)
    return target.getvalue()


def make_stream(rng: random.Random, folder: Path) -> None:
    if rng.random() < 0.5:
        data = code_stream()
        data = _signed_header(rng, data) if rng.random() < 0.6 else damaged(rng, data)
        (folder / "input.codes").write_bytes(data)
        return
    name = rng.choice(("wav", "wav", "wav24", "wavf", "wavex", "flac", "ogg"))
    data = sounds()[name]
    if rng.random() < 0.2:
        data = data[:12] + b"LIST" + struct.pack("<I", rng.choice((3, 26, 2**32 - 1))) + bytes(26) + data[12:]
    suffix = "raw" if rng.random() < 0.1 else "sound"
    (folder / f"input.{suffix}").write_bytes(damaged(rng, data, [code_stream()]))


def read_stream(folder: Path) -> None:
    path = _only(folder, "input")
    with path.open("rb") as source:
        if path.suffix == ".codes":
            decode_pipe(tiny(), source, io.BytesIO(), force=True)
        else:
            encode_pipe(tiny(), source, io.BytesIO(), raw=path.suffix == ".raw")


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("audio", make_audio, read_audio),
        Entry("codes", make_codes, read_codes),
        Entry("mimo", make_mimo, read_mimo_files),
        Entry("config", make_config, read_model),
        Entry("headers", make_headers, read_model),
        Entry("manifests", make_manifest, read_manifests),
        Entry("tars", make_tar, read_tar),
        Entry("streams", make_stream, read_stream),
    )
}


def warm_up() -> None:
    """Do once in the parent what every child would do: make the sounds and the model, and import what is lazy."""
    import lhotse  # noqa: F401

    mimo_file(1, 4, True, True)
    code_stream()
    sounds()
    codes_bytes(1)
    weights()
