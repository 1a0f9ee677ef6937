"""Manifests and addresses from strangers: bounded memory, no waiting, no address that runs or reads something else."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mimotok.io.manifest import MAX_EXPANSION, MAX_LINE, gunzip, read_rows
from mimotok.io.remote import PROTOCOLS, checked_address, fetch, open_file


def rows_of(path: Path) -> list[tuple[int, dict]]:
    return list(read_rows(str(path)))


def test_rows_come_with_their_line_numbers(tmp_path: Path) -> None:
    text = '\ufeff{"audio": "ä.wav"}\r\n\n  \n{"audio": "b.wav"}'.encode()
    for name, data in (("m.jsonl", text), ("m.jsonl.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(data)
        assert rows_of(tmp_path / name) == [(1, {"audio": "ä.wav"}), (4, {"audio": "b.wav"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a clip is a JSON object"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b'\x1b]0;title\x07"', "not JSON"),
    ],
)
def test_a_bad_line_is_reported_with_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "m.jsonl").write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"m\.jsonl:2: .*{message}") as raised:
        rows_of(tmp_path / "m.jsonl")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.slow
@pytest.mark.parametrize("separator", [b" " * 99 + b"\n", b" "], ids=["lines", "one line"])
def test_a_compressed_manifest_expands_within_bounds(tmp_path: Path, separator: bytes) -> None:
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb") as file:
        for _ in range(64):
            file.write(separator * ((1 << 20) // len(separator)))
    assert bomb.stat().st_size < 1 << 18
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.jsonl\.gz:\d+: (expands|a line of more)"):
        rows_of(bomb)
    with pytest.raises(ValueError, match="expands"):
        gunzip(bomb.read_bytes())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * MAX_LINE


@pytest.mark.slow
def test_a_plausible_manifest_is_not_taken_for_a_bomb(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "audio": "clips/{:08d}.wav",
        "duration": 1.0,
        "text": "the same text in every line",
        "speaker": "one",
    }
    lines = (json.dumps(row | {"audio": row["audio"].format(i)}) + "\n" for i in range(30_000))
    text = "".join(lines).encode()
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
    assert len(text) > 1 << 20
    assert len(text) / (tmp_path / "m.jsonl.gz").stat().st_size < MAX_EXPANSION / 2
    assert len(rows_of(tmp_path / "m.jsonl.gz")) == 30_000


def test_a_damaged_or_missing_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "half.jsonl.gz").write_bytes(gzip.compress(b"".join(b'{"a": %d}\n' % i for i in range(999)))[:500])
    (tmp_path / "text.jsonl.gz").write_bytes(b'{"audio": "a"}')
    for name in ("half.jsonl.gz", "text.jsonl.gz", "missing.jsonl"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read"):
            rows_of(tmp_path / name)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises(ValueError, match=r"not a regular file|cannot be read"):
            rows_of(path)


@pytest.mark.parametrize(
    "address",
    [
        "reference://x",
        "simplecache::s3://bucket/x",
        "s3://bucket/x::file:///etc/passwd",
        "zip://a::http://host/x",
        "file://relative/x",
        "local://x",
        "ssh://host/x",
        "sftp://host/x",
        "git://x",
        "github://a:b@/x",
        "pipe:touch x://",
        "dir://x",
        "tar://x",
        "S3 ://x",
        "://x",
        "jupyter://x",
        "python://x",
        "s3://bucket/\x1b[31m",
        "memory://a\nb",
    ],
)
def test_addresses_of_other_kinds_are_refused(address: str) -> None:
    for refuse in (checked_address, fetch, open_file):
        with pytest.raises(ValueError, match=r"allowed|chained|control characters") as raised:
            refuse(address)
        assert "\x1b" not in str(raised.value)


def test_every_allowed_protocol_is_a_plain_store_of_bytes() -> None:
    """None of them reads one address out of another, is a file of this machine, or runs a program."""
    known = pytest.importorskip("fsspec.registry").known_implementations
    for name in PROTOCOLS:
        assert checked_address(f"{name}://bucket/x") == f"{name}://bucket/x"
        known_class = str(known.get(name, {}).get("class", ""))
        wrong = ("reference", "cached", "zip", "tar", "libarchive", "local", "sftp", "smb", "git", "jupyter", "dask")
        assert not any(f".{word}." in known_class for word in wrong), known_class


def test_an_allowed_address_is_read() -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/manifests/m.jsonl", b'{"audio": "a"}\n')
    assert list(read_rows("memory://manifests/m.jsonl")) == [(1, {"audio": "a"})]
    assert fetch("memory://manifests/m.jsonl", 2, 5) == b"audio"
