"""The codes file: what is saved is loaded, plain numpy reads it, nothing forged or damaged gets through."""

from __future__ import annotations

import dataclasses
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimotok.io.codes_file import FIELDS, CodesFile, load_codes, save_codes

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
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert type(mine) is type(theirs)
        assert np.array_equal(mine, theirs), field.name


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "valid.npz"
    save_codes(path, codes_file())
    return path


def forge(path: Path, **arrays) -> Path:
    """A codes file by plain numpy, with some fields replaced, and dropped where None."""
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


def test_plain_numpy_reads_it(valid: Path) -> None:
    with np.load(valid, allow_pickle=False) as arrays:
        assert set(arrays.files) == set(FIELDS)
        assert arrays["codes"].dtype == np.uint16
        assert arrays["codes"].shape == (3, 5)
        assert arrays["num_samples"] == 4799
        assert arrays["sample_rate"] == 24000
        assert arrays["frame_rate"] == 25.0
        assert arrays["codebook_sizes"].tolist() == [1024] * 3
        assert arrays["model"].tolist() == ["a model", SHA]
        assert arrays["format_version"] == 1


def test_plain_numpy_writes_it(tmp_path: Path) -> None:
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
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_every_field_is_checked(tmp_path: Path, field, value) -> None:
    path = forge(tmp_path / "in.npz", **{field: value})
    with pytest.raises(ValueError, match=r"in\.npz: ") as caught:
        load_codes(path)
    told = str(caught.value)
    assert field in told or "expected 7" in told
    assert "\n" not in told
    assert "\x1b" not in told


def test_the_last_frame_may_reach_past_the_recording() -> None:
    for num_samples in (960 * 4 - 240, 960 * 4, 960 * 5):
        assert codes_file(num_samples=num_samples).num_samples == num_samples
    assert codes_file(num_frames=1, num_samples=1).duration == pytest.approx(1 / 24000)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"x", "not a codes file"),
        (b"hello\n" * 1000, "not a codes file"),
        (b"PK\5\6" + bytes(18), "0 fields"),
    ],
)
def test_no_codes_file_at_all(tmp_path: Path, content, told: str) -> None:
    path = tmp_path / "in.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        load_codes(path)
    with pytest.raises(ValueError, match="not a regular file"):
        load_codes(tmp_path)


def test_compressed_members_are_refused_with_a_remedy(valid: Path, tmp_path: Path) -> None:
    with np.load(valid) as arrays:
        np.savez_compressed(tmp_path / "in.npz", **arrays)
    with pytest.raises(ValueError, match=r"write it with numpy\.savez"):
        load_codes(tmp_path / "in.npz")


def test_every_truncation_is_noticed(valid: Path, tmp_path: Path) -> None:
    data, path = valid.read_bytes(), tmp_path / "in.npz"
    for length in (*range(0, len(data), 7), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"in\.npz: "):
            load_codes(path)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_flipped_bytes_are_noticed_or_change_nothing(
    valid: Path, tmp_path_factory: pytest.TempPathFactory, data
) -> None:
    content = bytearray(valid.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    path.write_bytes(content)
    told, loaded = outcome(path)
    assert "\n" not in told
    if loaded is not None:
        assert_same(loaded, codes_file())


@settings(max_examples=300, deadline=None)
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
    told, _ = outcome(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in told
    assert peak < path.stat().st_size + 100_000


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
def test_forged_array_headers(valid: Path, tmp_path: Path, descr: str, shape) -> None:
    header = (HEADER % (descr, shape) + "\n").encode()
    forged = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(30)
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(valid) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, forged if info.filename == "codes.npy" else source.read(info))
    with pytest.raises(ValueError, match="codes"):
        load_codes(path)
    assert_refused_or_sound(path)


def test_a_header_length_beyond_the_array_is_refused(valid: Path, tmp_path: Path) -> None:
    content = b"\x93NUMPY\1\0\xff\xff" + bytes(20)
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(valid) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, content if info.filename == "codes.npy" else source.read(info))
    with pytest.raises(ValueError, match="codes"):
        load_codes(path)


def directory_of(data: bytes | bytearray) -> int:
    return struct.unpack("<L", data[-6:-2])[0]


@pytest.mark.parametrize("size", [0, 1, 10**6, 2**31, 2**32 - 1])
def test_forged_sizes_in_the_directory(valid: Path, tmp_path: Path, size) -> None:
    data, path = bytearray(valid.read_bytes()), tmp_path / "in.npz"
    struct.pack_into("<2L", data, directory_of(data) + 20, size, size)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="codes"):
        load_codes(path)
    assert_refused_or_sound(path)


def test_overlapping_members_are_refused(valid: Path, tmp_path: Path) -> None:
    data, path = bytearray(valid.read_bytes()), tmp_path / "in.npz"
    first = directory_of(data)
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"larger than its place|damaged"):
        load_codes(path)


def test_a_name_that_occurs_twice_is_refused(valid: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(valid.read_bytes().replace(b"sample_rate.npy", b"num_samples.npy"))
    with pytest.raises(ValueError, match="2 fields num_samples"):
        load_codes(path)


def test_many_members_are_not_even_listed(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20_000):
            archive.writestr(str(i), b"")
    with pytest.raises(ValueError, match="20000 fields, expected 7"):
        load_codes(path)
    assert_refused_or_sound(path)


def test_checksums_are_compared(valid: Path, tmp_path: Path) -> None:
    data, path = bytearray(valid.read_bytes()), tmp_path / "in.npz"
    codes = load_codes(valid).codes.tobytes()
    data[data.index(codes)] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        load_codes(path)
