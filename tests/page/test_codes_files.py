"""The page's own reader and writer of codes files, in Node, against Python's; no model and no browser is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mimotok.io.codes_file import CodesFile, load_codes, save_codes
from tests.helpers.codes_files import arrays_of_format_1
from tests.helpers.paths import ROOT

SHA = "0123456789abcdef" * 4
SHAPES: list[tuple[int, ...]] = [(1024, 1024, *[128] * 6), (1,), (65536, 3, 1000), (2,) * 20]


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs Node.js: apt-get install nodejs")
    return found


def read_by_page(node: str, files: list[Path]) -> list[str]:
    command = [node, str(ROOT / "tests/page/codes.mjs"), str(ROOT / "site"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_page_and_python_read_and_write_the_same_files(node: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = {}
    for i, sizes in enumerate(SHAPES):
        for frames in (1, 9, 500):
            codes = np.stack([rng.integers(0, size, frames) for size in sizes]).astype(np.uint16)
            for name, held in ((f"{i}-{frames}", codes), (f"{i}-{frames}-still", codes * np.uint16(0))):
                path = tmp_path / f"{name}.npz"
                written[path] = CodesFile(held, frames * 960 - 5, 24000, 25.0, sizes, "Näme 漢 \U0001f600", SHA)
                save_codes(path, written[path])
    old = tmp_path / "old.npz"
    written[old] = next(iter(written.values()))
    np.savez(old, **arrays_of_format_1(next(iter(written))))
    assert read_by_page(node, list(written)) == ["read"] * len(written)
    for path, expected in written.items():
        found = load_codes(Path(f"{path}.again"))
        assert np.array_equal(found.codes, expected.codes)
        for field in ("num_samples", "sample_rate", "frame_rate", "codebook_sizes", "model_name", "model_sha256"):
            assert getattr(found, field) == getattr(expected, field)
        # numpy's bytes but for the compression, which each library does in its own way
        with np.load(f"{path}.again") as by_page:
            save_codes(path, expected)
            assert np.array_equal(by_page["packed"], np.load(path)["packed"])
        assert abs(Path(f"{path}.again").stat().st_size - path.stat().st_size) < 20


def test_the_page_refuses_damage_in_one_line(node: str, tmp_path: Path) -> None:
    sizes = SHAPES[0]
    codes = np.random.default_rng(0).integers(0, 100, (8, 40)).astype(np.uint16)
    save_codes(tmp_path / "x.npz", CodesFile(codes, 40 * 960, 24000, 25.0, sizes, "a", SHA))
    save_codes(tmp_path / "still.npz", CodesFile(codes * np.uint16(0), 40 * 960, 24000, 25.0, sizes, "a", SHA))
    files = []
    for name in ("x", "still"):
        data = (tmp_path / f"{name}.npz").read_bytes()
        # the name and the sizes in front of the entry stand in the directory too, which is what is read
        for place in (*range(42, len(data) - 100, 9), len(data) - 5, len(data) - 21):
            damaged = bytearray(data)
            damaged[place] ^= 255
            files.append(tmp_path / f"{name}-{place}.npz")
            files[-1].write_bytes(damaged)
    facts = read_by_page(node, files)
    assert len(facts) == len(files)
    assert "read" not in facts
