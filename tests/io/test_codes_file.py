"""The codes file: what is saved is loaded, plain numpy reads it, nothing forged or damaged gets through."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.io.codes.bits import code_widths, pack_codes, unpack_codes
from mimotok.io.codes.packed_npz import MAX_INFLATED
from mimotok.io.codes_file import CodesFile, load_codes, save_codes
from tests.helpers.paths import ROOT

SHA = "0123456789abcdef" * 4


def codes_file(n_q: int = 3, num_frames: int = 5, size: int = 1024, frame_size: int = 960, **changes) -> CodesFile:
    fields: dict[str, Any] = {
        "codes": np.random.default_rng(0).integers(0, size, (n_q, num_frames)).astype(np.uint16),
        "num_samples": num_frames * frame_size - 1,
        "sample_rate": 24000,
        "frame_rate": 24000 / frame_size,
        "codebook_sizes": (size,) * n_q,
        "model_name": "a model",
        "model_sha256": SHA,
    }
    return CodesFile(**(fields | changes))


def assert_same(one: CodesFile, other: CodesFile) -> None:
    for field in dataclasses.fields(CodesFile):
        if field.name == "container":
            continue
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert type(mine) is type(theirs)
        assert np.array_equal(mine, theirs), field.name


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "valid.npz"
    save_codes(path, codes_file())
    return path


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forge(tmp_path_factory.mktemp("old") / "old.npz")


def forge(path: Path, **arrays) -> Path:
    """A codes file of format 1 by plain numpy, with some fields replaced, and dropped where None."""
    fields: dict[str, Any] = {
        "codes": np.ones((2, 5), np.uint16),
        "num_samples": 4800,
        "sample_rate": 24000,
        "frame_rate": 25.0,
        "codebook_sizes": np.array([1024, 128]),
        "model": np.array(["a model", SHA]),
        "format_version": 1,
    } | arrays
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    return path


@settings(max_examples=60, deadline=None)
@given(
    n_q=st.integers(1, 32),
    num_frames=st.integers(1, 500),
    size=st.sampled_from([1, 2, 128, 1024, 65536]),
    frame_size=st.sampled_from([480, 960, 1024, 1920]),
    sample_rate=st.sampled_from([16000, 22050, 24000, 44100, 48000]),
    name=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=256),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, n_q, num_frames, size, frame_size, sample_rate, name
) -> None:
    path = tmp_path_factory.mktemp("c") / "out.npz"
    saved = codes_file(
        n_q,
        num_frames,
        size,
        frame_size,
        sample_rate=sample_rate,
        frame_rate=sample_rate / frame_size,
        model_name=name,
    )
    save_codes(path, saved)
    assert_same(load_codes(path), saved)


HEADER_1 = {
    "format_version": 2,
    "model": "a model",
    "sha256": SHA,
    "num_samples": 4799,
    "sample_rate": 24000,
    "frame_rate": 25.0,
    "codebook_sizes": [1024] * 3,
    "num_frames": 5,
}


def forge_2(path: Path, packed: bytes | None = None, save: Any = np.savez, **values: Any) -> Path:
    """A codes file of format 2 by plain numpy, with some of its header's values replaced, and dropped where None."""
    header = {name: value for name, value in (HEADER_1 | values).items() if value is not None}
    body = pack_codes(codes_file().codes, (1024,) * 3) if packed is None else packed
    save(path, packed=np.frombuffer(json.dumps(header).encode() + b"\n" + body, np.uint8))
    return path


def test_plain_numpy_reads_it(valid: Path) -> None:
    with np.load(valid, allow_pickle=False) as arrays:
        assert arrays.files == ["packed"]
        line, _, packed = arrays["packed"].tobytes().partition(b"\n")
    assert json.loads(line) == HEADER_1
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))[: 5 * 30].reshape(5, 3, 10)
    assert np.array_equal(bits @ (1 << np.arange(9, -1, -1)), codes_file().codes.T)


def test_plain_numpy_writes_it(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        assert_same(load_codes(forge_2(tmp_path / "in.npz", save=save)), codes_file())


def test_a_file_of_format_1_is_read() -> None:
    loaded = load_codes(ROOT / "tests/fixtures/codes_format_1.npz")
    codes = np.arange(8 * 30).reshape(8, 30) * 7 % 128
    codes[:2] += 800
    assert loaded.container == "npz, format 1"
    assert np.array_equal(loaded.codes, codes)
    assert (loaded.num_samples, loaded.sample_rate, loaded.frame_rate) == (28700, 24000, 25.0)
    assert loaded.codebook_sizes == (1024, 1024) + (128,) * 6
    assert (loaded.model_name, loaded.model_sha256) == ("a model", SHA)


def test_plain_numpy_writes_format_1(tmp_path: Path) -> None:
    loaded = load_codes(
        forge(tmp_path / "in.npz", codes=np.asfortranarray(np.arange(10, dtype=np.uint16).reshape(2, 5)))
    )
    assert loaded.codes.tolist() == np.arange(10).reshape(2, 5).tolist()
    assert loaded.n_q == 2
    assert loaded.frame_size == 960
    assert loaded.duration == pytest.approx(0.2)
    assert loaded.bitrate == pytest.approx(25 * 17)


def test_the_same_codes_give_the_same_bytes(valid: Path, tmp_path: Path) -> None:
    save_codes(tmp_path / "again.npz", load_codes(valid))
    assert (tmp_path / "again.npz").read_bytes() == valid.read_bytes()


def test_existing_files_are_replaced_only_when_asked(valid: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="exists already"):
        save_codes(path, load_codes(valid), overwrite=False)
    assert path.read_bytes() == b"precious"
    save_codes(path, load_codes(valid))
    assert path.read_bytes() == valid.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["nowhere/out.npz", "valid.npz/out.npz", "folder"])
def test_unwritable_outputs(valid: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "valid.npz").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="cannot be written") as caught:
        save_codes(tmp_path / name, load_codes(valid))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


BAD_FIELDS = [
    ("codes", np.ones((2, 5), np.int64)),
    ("codes", np.ones((2, 5), np.float32)),
    ("codes", np.ones((2, 5), ">u2")),
    ("codes", np.ones((2, 5), np.uint8)),
    ("codes", np.ones(10, np.uint16)),
    ("codes", np.ones((1, 2, 5), np.uint16)),
    ("codes", np.ones((2, 0), np.uint16)),
    ("codes", np.ones((0, 5), np.uint16)),
    ("codes", np.ones((3, 5), np.uint16)),
    ("codes", np.full((2, 5), 128, np.uint16)),
    ("codes", np.full((2, 5), None)),
    ("codes", np.zeros((2, 5), "u2,u2")),
    ("codes", None),
    ("num_samples", 0),
    ("num_samples", -4800),
    ("num_samples", 4801),
    ("num_samples", 3599),
    ("num_samples", 4800.0),
    ("num_samples", np.array([4800])),
    ("num_samples", np.uint64(2**63)),
    ("sample_rate", 0),
    ("sample_rate", -24000),
    ("sample_rate", "24000"),
    ("frame_rate", 0.0),
    ("frame_rate", -25.0),
    ("frame_rate", np.nan),
    ("frame_rate", np.inf),
    ("frame_rate", 5e-324),
    ("frame_rate", 25.01),
    ("frame_rate", 25),
    ("frame_rate", 1e9),
    ("codebook_sizes", np.array([1024])),
    ("codebook_sizes", np.array([1024, 0])),
    ("codebook_sizes", np.array([1024, 65537])),
    ("codebook_sizes", np.array([[1024, 128]])),
    ("codebook_sizes", np.array([1024.0, 128.0])),
    ("codebook_sizes", np.full(100_000, 1024)),
    ("model", np.array(["a model"])),
    ("model", np.array(["a model", "short"])),
    ("model", np.array(["a model", SHA.upper()])),
    ("model", np.array(["", SHA])),
    ("model", np.array(["two\nlines", SHA])),
    ("model", np.array(["\x1b[31mred", SHA])),
    ("model", np.array(["x" * 257, SHA])),
    ("model", np.array(["x" * 5000, SHA])),
    ("model", np.array([b"a model", SHA.encode()])),
    ("model", np.full(2 * 64, 0x110000, "<u4").view("<U64")),
    ("format_version", 2),
    ("format_version", 0),
    ("unknown", np.array(1)),
    ("packed", np.array([1], np.uint8)),
]
BAD_HEADERS: list[tuple[str, Any]] = [
    *[(field, None) for field in HEADER_1],
    *[(field, [[]]) for field in HEADER_1],
    *[(field, True) for field in HEADER_1],
    *[(field, 10**400) for field in HEADER_1],
    *[(field, -1) for field in HEADER_1],
    *[(field, "x") for field in HEADER_1 if field != "model"],
    ("format_version", 1),
    ("format_version", 3),
    ("num_samples", 4801),
    ("num_samples", 3599),
    ("num_samples", 4799.0),
    ("sample_rate", 0),
    ("frame_rate", float("nan")),
    ("frame_rate", float("inf")),
    ("frame_rate", 5e-324),
    ("frame_rate", 25.01),
    ("codebook_sizes", [1024] * 2),
    ("codebook_sizes", [1024, 1024, 65537]),
    ("codebook_sizes", [1024, 1024, 0]),
    ("codebook_sizes", [1024, 1024, 600]),
    ("codebook_sizes", [1024.0] * 3),
    ("codebook_sizes", [1024] * 5000),
    ("model", ""),
    ("model", "two\nlines"),
    ("model", "\x1b[31mred"),
    ("model", "\ud800"),
    ("model", "x" * 257),
    ("sha256", SHA.upper()),
    ("sha256", SHA[:20]),
    ("num_frames", 4),
    ("num_frames", 6),
    ("num_frames", 10**18),
    ("unknown", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_every_field_is_checked(tmp_path: Path, field, value) -> None:
    path = forge(tmp_path / "in.npz", **{field: value})
    with pytest.raises(ValueError, match=r"in\.npz: ") as caught:
        load_codes(path)
    message = str(caught.value)
    assert field in message or "expected 7" in message
    assert "\n" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize(("field", "value"), BAD_HEADERS)
def test_every_value_of_the_header_is_checked(tmp_path: Path, field: str, value: object) -> None:
    values: dict[str, Any] = {field: value}
    path = forge_2(tmp_path / "in.npz", **values)
    with pytest.raises(ValueError, match=r"in\.npz: ") as caught:
        load_codes(path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert_refused_or_sound(path)


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"", "0 bytes of codes, but 5 frames of 30 bits take 19"),
        (bytes(18), "18 bytes"),
        (bytes(20), "20 bytes"),
        (bytes(18) + b"\1", "bits follow the last code"),
    ],
)
def test_packed_codes_are_exactly_those_of_their_frames(tmp_path: Path, packed: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_codes(forge_2(tmp_path / "in.npz", packed))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_codes_are_packed_into_the_bits_of_their_books(data) -> None:
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 128, 1000, 1024, 65536]), min_size=1, max_size=9))
    frames = data.draw(st.sampled_from([1, 7, 8, 9, 300, 8192, 8193]))
    rng = np.random.default_rng(frames)
    codes = np.stack([rng.integers(0, size, frames) for size in sizes]).astype(np.uint16)
    packed = pack_codes(codes, sizes)
    assert len(packed) == -(-frames * sum(code_widths(sizes)) // 8)
    assert np.array_equal(unpack_codes(packed, frames, sizes), codes)


@pytest.mark.parametrize(("seconds", "factor"), [(10, 1.25), (60, 1.05)])
def test_a_file_is_hardly_larger_than_its_codes(tmp_path: Path, seconds: int, factor: float) -> None:
    """Codes that are as good as random, which nothing makes smaller."""
    sizes = (1024, 1024, *[128] * 6)
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 25 * seconds + 1) for size in sizes]).astype(np.uint16)
    original = codes_file(codes=codes, codebook_sizes=sizes, num_samples=24000 * seconds, model_name="mimotok-default")
    save_codes(tmp_path / "out.npz", original)
    assert 8 * (tmp_path / "out.npz").stat().st_size <= factor * original.bitrate * seconds
    assert_same(load_codes(tmp_path / "out.npz"), original)


def test_codes_that_repeat_are_deflated(tmp_path: Path) -> None:
    original = codes_file(num_frames=10_000, codes=np.full((3, 10_000), 7, np.uint16))
    save_codes(tmp_path / "out.npz", original)
    assert (tmp_path / "out.npz").stat().st_size < 1000
    assert_same(load_codes(tmp_path / "out.npz"), original)


def test_what_inflates_beyond_the_limit_is_refused_before_it_does(tmp_path: Path) -> None:
    for size in (MAX_INFLATED + 1, 2 * MAX_INFLATED):
        with zipfile.ZipFile(tmp_path / "in.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("packed.npy", bytes(size))
        with pytest.raises(ValueError, match="inflates to"):
            load_codes(tmp_path / "in.npz")
        assert_refused_or_sound(tmp_path / "in.npz")
        # a directory that claims less than what comes out
        data = bytearray((tmp_path / "in.npz").read_bytes())
        struct.pack_into("<L", data, directory_of(data) + 24, 1000)
        (tmp_path / "in.npz").write_bytes(data)
        assert_refused_or_sound(tmp_path / "in.npz")


def test_the_last_frame_may_reach_past_the_recording() -> None:
    for num_samples in (960 * 4 - 240, 960 * 4, 960 * 5):
        assert codes_file(num_samples=num_samples).num_samples == num_samples
    assert codes_file(num_frames=1, num_samples=1).duration == pytest.approx(1 / 24000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"x", "not a codes file"),
        (b"hello\n" * 1000, "not a codes file"),
        (b"PK\5\6" + bytes(18), "0 fields"),
    ],
)
def test_no_codes_file_at_all(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "in.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_codes(path)
    with pytest.raises(ValueError, match="not a regular file"):
        load_codes(tmp_path)


def test_compressed_members_of_format_1_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with np.load(forge(tmp_path / "in.npz")) as arrays:
        np.savez_compressed(tmp_path / "in.npz", **arrays)
    with pytest.raises(ValueError, match=r"write it with numpy\.savez"):
        load_codes(tmp_path / "in.npz")


def test_every_truncation_is_noticed(valid: Path, tmp_path: Path) -> None:
    data, path = valid.read_bytes(), tmp_path / "in.npz"
    for length in (*range(0, len(data), 7), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"in\.npz: "):
            load_codes(path)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(st.data())
def test_flipped_bytes_are_noticed_or_change_nothing(
    valid: Path, tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    content = bytearray(valid.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    path.write_bytes(content)
    message, loaded = outcome(path)
    assert "\n" not in message
    if loaded is not None:
        assert_same(loaded, codes_file())


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_forged_members_allocate_no_more_than_the_file(
    valid: Path, tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    """Byte flips behind a valid checksum, so that headers are forged and not only damaged."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(valid) as source, zipfile.ZipFile(buffer, "w") as target:
        for info in source.infolist():
            content = bytearray(source.read(info))
            for _ in range(data.draw(st.integers(0, 3))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            target.writestr(info.filename, bytes(content))
    path = tmp_path_factory.getbasetemp() / "forged.npz"
    path.write_bytes(buffer.getvalue())
    assert_refused_or_sound(path)


def outcome(path: Path) -> tuple[str, CodesFile | None]:
    """The ValueError's text, or what was loaded."""
    try:
        return "", load_codes(path)
    except ValueError as error:
        return str(error), None


def assert_refused_or_sound(path: Path) -> None:
    tracemalloc.start()
    message, _ = outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in message
    # one bit of a file may be a code, which takes two bytes
    assert peak < 40 * path.stat().st_size + 200_000


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("<u2", "(8, 1000000000000)"),
        ("<u2", "(999999999999999999, 999999999999999999)"),
        ("<u2", "(8, -5)"),
        ("<u2", "(0, 5)"),
        ("<u2", "(9" + "9" * 3000 + ",)"),
        ("<U999999999", "(2,)"),
        ("|O", "(3, 5)"),
        ("|V30", "(1, 1)"),
        ("<u2", "(3, 5), 'more': 1"),
        ("<u2", "__import__('os')"),
        ("<u2", "(" * 1500),
    ],
)
@pytest.mark.parametrize("field", ["codes", "packed"])
def test_forged_array_headers(old: Path, valid: Path, tmp_path: Path, descr: str, shape, field: str) -> None:
    header = (HEADER % (descr, shape) + "\n").encode()
    forged = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(30)
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(old if field == "codes" else valid) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, forged if info.filename == f"{field}.npy" else source.read(info))
    with pytest.raises(ValueError, match=field):
        load_codes(path)
    assert_refused_or_sound(path)


def test_a_header_length_beyond_the_array_is_refused(old: Path, tmp_path: Path) -> None:
    content = b"\x93NUMPY\1\0\xff\xff" + bytes(20)
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, content if info.filename == "codes.npy" else source.read(info))
    with pytest.raises(ValueError, match="codes"):
        load_codes(path)


def directory_of(data: bytes | bytearray) -> int:
    return struct.unpack("<L", data[-6:-2])[0]


@pytest.mark.parametrize("size", [0, 1, 10**6, 2**31, 2**32 - 1])
def test_forged_sizes_in_the_directory(old: Path, tmp_path: Path, size) -> None:
    data, path = bytearray(old.read_bytes()), tmp_path / "in.npz"
    struct.pack_into("<2L", data, directory_of(data) + 20, size, size)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="codes"):
        load_codes(path)
    assert_refused_or_sound(path)


def test_overlapping_members_are_refused(old: Path, tmp_path: Path) -> None:
    data, path = bytearray(old.read_bytes()), tmp_path / "in.npz"
    first = directory_of(data)
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"larger than its place|damaged"):
        load_codes(path)


def test_a_name_that_occurs_twice_is_refused(old: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(old.read_bytes().replace(b"sample_rate.npy", b"num_samples.npy"))
    with pytest.raises(ValueError, match="2 fields num_samples"):
        load_codes(path)


@pytest.mark.slow
def test_many_members_are_not_even_listed(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20_000):
            archive.writestr(str(i), b"")
    with pytest.raises(ValueError, match="20000 fields, expected 7"):
        load_codes(path)
    assert_refused_or_sound(path)


def test_checksums_are_compared(tmp_path: Path) -> None:
    original = codes_file(num_frames=1000)
    path = tmp_path / "in.npz"
    save_codes(path, original)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        load_codes(path)
