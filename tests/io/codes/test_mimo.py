"""The .mimo file: small, read from its middle and up to where it is cut, appended to, and never believed blindly."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimotok.io.codes.mimo import append_codes, mimo_bytes, read_frames, read_mimo
from mimotok.io.codes.mimo_layout import MAX_CODEBOOKS, VERSION, MimoHeader, header_size
from mimotok.io.codes.mimo_stream import MimoWriter, read_header, stream_frames
from mimotok.io.codes_file import CodesFile, load_codes, save_codes
from tests.helpers.paths import ROOT

SHA = "0123456789abcdef" * 4
USUAL = (1024, 1024, *[128] * 6)
# codebooks and rates of all kinds: frames narrower than a byte, no power of two, seconds of no whole number of frames
SHAPES = [
    (USUAL, 24000, 960),
    ((128,), 24000, 960),
    ((2,), 16000, 640),
    ((1,), 16000, 5000),
    ((1000, 3, 65536), 44100, 1920),
    ((4096,), 24000, 50_000),
]


def random_codes(sizes: tuple[int, ...], num_frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, num_frames) for size in sizes]).astype(np.uint16)


def codes_file(shape=SHAPES[0], num_frames: int = 60, missing: int = 7) -> CodesFile:
    sizes, sample_rate, frame_size = shape
    codes = random_codes(sizes, num_frames)
    return CodesFile(
        codes, num_frames * frame_size - missing, sample_rate, sample_rate / frame_size, sizes, "a model", SHA
    )


def header_of(original: CodesFile, *, whole_bytes: bool = False, version: int = VERSION) -> MimoHeader:
    return MimoHeader(
        original.codebook_sizes,
        original.sample_rate,
        original.frame_size,
        original.model_sha256,
        whole_bytes=whole_bytes,
        version=version,
    )


def bytes_of(original: CodesFile, version: int) -> bytes:
    target = io.BytesIO()
    writer = MimoWriter(target, header_of(original, version=version))
    writer.write(original.codes)
    writer.close(original.num_samples)
    return target.getvalue()


shapes = st.sampled_from(SHAPES)
versions = st.sampled_from([1, 2])


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(shapes, versions, st.integers(1, 130), st.integers(0, 300), st.booleans(), st.data())
def test_what_is_written_is_read_however_it_comes(
    shape, version: int, num_frames: int, missing: int, whole: bool, data
) -> None:
    original = codes_file(shape, num_frames, missing)
    target = io.BytesIO()
    writer = MimoWriter(target, header_of(original, whole_bytes=whole, version=version))
    done = 0
    while done < num_frames:
        count = data.draw(st.integers(1, 40))
        writer.write(original.codes[:, done : done + count])
        done += count
        if whole:
            # nothing is held back
            assert read_mimo(target).codes.shape[1] == min(done, num_frames)
            target.seek(0, os.SEEK_END)
    writer.close(original.num_samples)
    if not whole and version == VERSION:
        assert target.getvalue() == mimo_bytes(original)
    held = read_mimo(target)
    assert np.array_equal(held.codes, original.codes)
    assert held.num_samples == original.num_samples
    assert (held.sample_rate, held.frame_rate, held.codebook_sizes) == (
        original.sample_rate,
        original.frame_rate,
        original.codebook_sizes,
    )
    assert held.model_sha256 == SHA[: 16 if version == 1 else 8]
    assert held.container == f"mimo, version {version}"
    assert held.missing_frames == 0
    # and as a stream, in reads of any size
    target.seek(0)
    header = read_header(target)
    parts = list(stream_frames(target, header, data.draw(st.integers(1, 50))))
    assert np.array_equal(np.concatenate(parts, axis=1), original.codes)


@pytest.mark.parametrize(("seconds", "factor"), [(10, 1.02), (60, 1.01)])
def test_a_file_is_hardly_larger_than_the_bitrate_promises(seconds: int, factor: float) -> None:
    """The frame that begins with the recording's last sample counts as overhead."""
    original = codes_file(SHAPES[0], 25 * seconds + 1, 960)
    assert 8 * len(mimo_bytes(original)) <= factor * 1550 * seconds


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 60), st.data())
def test_a_cut_file_holds_the_frames_that_are_whole(shape, num_frames: int, data) -> None:
    original = codes_file(shape, num_frames, 0)
    whole = mimo_bytes(original)
    header = header_of(original)
    start = len(header.to_bytes())
    cut = data.draw(st.integers(start, len(whole) - 1))
    blocks, rest = divmod(cut - start, header.block_bytes(header.block_frames))
    expected = blocks * header.block_frames + min(header.block_frames, 8 * rest // header.stride)
    expected = min(expected, num_frames)
    if not expected:
        with pytest.raises(ValueError, match="no whole frame"):
            read_mimo(io.BytesIO(whole[:cut]))
        return
    held = read_mimo(io.BytesIO(whole[:cut]))
    assert np.array_equal(held.codes, original.codes[:, :expected])
    assert held.missing_frames == num_frames - expected
    assert held.num_samples == expected * header.frame_size


@settings(max_examples=60, deadline=None)
@given(shapes, versions, st.integers(1, 60), st.integers(0, 60), st.integers(0, 9), st.data())
def test_appending_gives_the_file_that_holds_all(
    tmp_path_factory: pytest.TempPathFactory, shape, version: int, before: int, after: int, cut: int, data
) -> None:
    original = codes_file(shape, before + after, 3)
    path = tmp_path_factory.getbasetemp() / "appended.mimo"
    path.write_bytes(bytes_of(first_frames(original, before), version))
    if cut:
        data_left = path.read_bytes()[:-cut]
        assume(len(data_left) > len(header_of(original, version=version).to_bytes()))
        path.write_bytes(data_left)
        try:
            before = load_codes(path).codes.shape[1]
        except ValueError:
            before = 0
    middle = data.draw(st.integers(before, original.codes.shape[1]))
    append_codes(path, original.codes[:, before:middle])
    append_codes(path, original.codes[:, middle:], original.num_samples)
    assert path.read_bytes() == bytes_of(original, version)


def first_frames(original: CodesFile, count: int) -> CodesFile:
    sizes = original.codebook_sizes
    samples = count * original.frame_size
    return CodesFile(original.codes[:, :count], samples, original.sample_rate, original.frame_rate, sizes, "a", SHA)


def test_a_file_can_be_read_at_every_moment_of_appending(tmp_path: Path) -> None:
    """A write or truncation that is the last one before a crash leaves a file whose frames are all right."""
    original = codes_file(SHAPES[0], 70, 0)
    path = tmp_path / "x.mimo"
    save_codes(path, first_frames(original, 40))
    states = []

    class Watched(io.BytesIO):
        def write(self, data) -> int:
            states.append(self.getvalue())
            return super().write(data)

        def truncate(self, size=None) -> int:
            states.append(self.getvalue())
            return super().truncate(size)

    file = Watched(path.read_bytes())
    tail = original.codes[:, 25:40]
    start = len(header_of(original).to_bytes()) + header_of(original).body_bytes(25)
    writer = MimoWriter(file, header_of(original), after=tail, at=start, num_frames=25)
    for frame in range(40, 70):
        writer.write(original.codes[:, frame : frame + 1])
    writer.close()
    assert file.getvalue() == mimo_bytes(original)
    assert len(states) > 30
    for state in states:
        held = read_mimo(io.BytesIO(state))
        assert held.codes.shape[1] >= 39
        assert np.array_equal(held.codes, original.codes[:, : held.codes.shape[1]])


@settings(max_examples=40, deadline=None)
@given(shapes, st.data())
def test_the_middle_is_read_by_itself(tmp_path_factory: pytest.TempPathFactory, shape, data) -> None:
    original = codes_file(shape, 60)
    path = tmp_path_factory.getbasetemp() / "middle.mimo"
    path.write_bytes(mimo_bytes(original))
    start = data.draw(st.integers(0, 59))
    stop = data.draw(st.integers(start + 1, 60))
    assert np.array_equal(read_frames(path, start, stop), original.codes[:, start:stop])


def test_damage_is_of_its_second_alone(tmp_path: Path) -> None:
    original = codes_file(SHAPES[0], 100)
    data = bytearray(mimo_bytes(original))
    start = header_size(bytes(data))
    block = header_of(original).block_bytes(25)
    data[start + block + 60] ^= 4
    (tmp_path / "x.mimo").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.mimo: damaged: .* frames 25 to 49 .* \(from second 1\.0\)"):
        load_codes(tmp_path / "x.mimo")
    assert np.array_equal(read_frames(tmp_path / "x.mimo", 50, 100), original.codes[:, 50:])
    # seconds in each other's place
    data = bytearray(mimo_bytes(original))
    first = slice(start, start + block)
    second = slice(start + block, start + 2 * block)
    data[first], data[second] = data[second], data[first]
    with pytest.raises(ValueError, match="frames 0 to 24"):
        read_mimo(io.BytesIO(data))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(shapes, st.integers(1, 3), st.data())
def test_flipped_bytes_are_one_line_or_codes_that_fit(shape, flips: int, data) -> None:
    content = bytearray(mimo_bytes(codes_file(shape, 30)))
    for _ in range(flips):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert_refused_or_sound(bytes(content))


def assert_refused_or_sound(content: bytes) -> None:
    """Both readers give codes that the codebooks have, or one line, in memory that the file's size justifies."""
    tracemalloc.start()
    message = ""
    try:
        held = read_mimo(io.BytesIO(content))
        assert held.codes.size
    except ValueError as error:
        message = str(error)
    try:
        source = io.BytesIO(content)
        header = read_header(source)
        for part in stream_frames(source, header, 1000):
            assert part.shape[0] == len(header.codebook_sizes)
    except ValueError as error:
        message += str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in message
    assert peak < 60 * len(content) + 300_000


@pytest.mark.parametrize(
    "header",
    [
        MimoHeader((1,) * MAX_CODEBOOKS[1], 2**32 - 1, 2**32 - 1, "0" * 16, 2**32 - 1, 2**16 - 1, version=1),
        MimoHeader((1,), 2**23, 1, "0" * 16, 2**32 - 1),
        MimoHeader((65536,) * MAX_CODEBOOKS[2], 24000, 960, "0" * 16, 2**32 - 1),
    ],
)
def test_forged_headers_cost_nothing(header: MimoHeader) -> None:
    assert_refused_or_sound(header.to_bytes() + b"\xff" * 300)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MIM\x20\1", "truncated within its header"),
        (MimoHeader((5,), 8000, 400, "0" * 16).to_bytes()[:-1], "truncated within its header"),
        (MimoHeader(USUAL, 24000, 960, "0" * 16).to_bytes(), "no whole frame"),
        (b"MIMO", "truncated within its header"),
        (b"MIM\x30" + bytes(40), "version 3 of .mimo"),
        (b"MIMO\2" + bytes(40), "version 4 of .mimo"),
        (b"MIM\x25" + bytes(40), "unknown flags 5"),
        (b"MIM\x20" + bytes(40), "0 codebooks"),
        (b"MIM\x20\1" + bytes(40), "the checksum of the header does not match"),
        (b"MIMO\1\4" + bytes(40), "unknown flags 4"),
        (b"MIMO\1\0" + bytes(40), "0 codebooks"),
        (b"MIMO\1\0\1\0" + bytes(40), "the checksum of the header does not match"),
        (mimo_bytes(codes_file()) + b"x", "1 bytes follow the last frame"),
    ],
)
def test_no_mimo_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.mimo").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_codes(tmp_path / "x.mimo")
    assert "\n" not in str(caught.value)


def test_what_a_mimo_file_cannot_hold_is_refused() -> None:
    for original, message in (
        (codes_file(((2,), 400_000, 200_000), 3, 70_000), "missing_samples=70000"),
        (codes_file(((2,) * 256, 24000, 960), 3), "codebooks=256"),
    ):
        with pytest.raises(ValueError, match=message):
            mimo_bytes(original)


def test_the_reader_of_the_docs_reads_it() -> None:
    """The fifty lines of docs/formats.md, which know nothing of this package."""
    page = (ROOT / "docs/formats.md").read_text()
    code = "# a reader" + page.split("```python\n# a reader of .mimo")[1].split("```")[0]
    assert len(code.splitlines()) <= 50
    assert "import mimotok" not in code
    space: dict = {}
    exec(compile(code, "docs/formats.md", "exec"), space)
    for shape in SHAPES:
        for whole_bytes in (False, True):
            original = codes_file(shape, 60)
            target = io.BytesIO()
            writer = MimoWriter(target, header_of(original, whole_bytes=whole_bytes))
            writer.write(original.codes)
            if whole_bytes:
                assert np.array_equal(space["read_mimo"](target.getvalue())[0], original.codes)
            writer.close(original.num_samples)
            codes, num_samples, sample_rate = space["read_mimo"](target.getvalue())
            assert np.array_equal(codes, original.codes)
            assert (num_samples, sample_rate) == (original.num_samples, original.sample_rate)
            cut = target.getvalue()[:-3]
            assert np.array_equal(space["read_mimo"](cut)[0], read_mimo(io.BytesIO(cut)).codes)
            damaged = bytearray(target.getvalue())
            damaged[-3] ^= 1
            with pytest.raises(ValueError, match="checksum"):
                space["read_mimo"](bytes(damaged))


@pytest.mark.parametrize(
    ("more", "num_samples", "message"),
    [
        (np.full((8, 3), 128, np.uint16), None, r"codes\[2\] has 128"),
        (np.zeros((8, 3), np.uint16), 10**9, "33 frames stand for"),
        (np.zeros((8, 3), np.uint16), 100, "33 frames stand for"),
        (np.zeros((8, 3), np.uint16), 33 * 960 + 1, "33 frames stand for"),
        (np.zeros((7, 3), np.uint16), None, "7 codebooks to append"),
        (np.zeros((8, 3), np.float32), None, "float32"),
        (np.zeros((8, 3), np.int64), None, "int64"),
        (np.zeros(8, np.uint16), None, r"uint16 \[8\]"),
    ],
)
def test_what_cannot_be_appended_leaves_the_file_as_it_was(
    tmp_path: Path, more: np.ndarray, num_samples: int | None, message: str
) -> None:
    path = tmp_path / "x.mimo"
    save_codes(path, codes_file(num_frames=30))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        append_codes(path, more, num_samples)
    assert path.read_bytes() == before
