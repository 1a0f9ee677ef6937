"""The page's folder: complete, made once, never over something else; its runtime is the one that is known by hash."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from mimotok.cli.main import app
from mimotok.export.run_onnx import FACTS_NAME
from mimotok.io.codes_file import load_codes
from mimotok.page import build, runtime
from mimotok.page.serve import HOST, make_server
from mimotok.transcode import encode_file
from tests.helpers.paths import ROOT
from tests.page.conftest import Built

pytestmark = pytest.mark.slow

# longer than what the page encodes in one go
SECONDS = 45


def test_node_and_python_agree(built: Built, tmp_path: Path) -> None:
    """The page's own modules in Node: the codes file of every number of codebooks, and the sound that comes of it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js: apt-get install nodejs")
    tokenizer = built.tokenizer
    rate = tokenizer.sample_rate
    noise = np.random.default_rng(0).standard_normal(SECONDS * rate + 123)
    wav = (0.2 * noise * np.sin(np.arange(len(noise)) / 9000)).astype(np.float32)
    wav.tofile(tmp_path / "wav.f32")
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "wav.wav", wav, rate, subtype="FLOAT")
    command = [node, str(ROOT / "tests/page/check.mjs"), str(built.folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["shares"]) == 3
    import torch

    for n_q in range(1, tokenizer.config.num_quantizers + 1):
        expected = encode_file(tokenizer, tmp_path / "wav.wav", tmp_path / f"python-{n_q}.npz", n_q=n_q)
        load_codes(tmp_path / f"{n_q}.npz")
        found = np.load(tmp_path / f"{n_q}.npz")
        by_python = np.load(tmp_path / f"python-{n_q}.npz")
        assert found.files == by_python.files
        for field in found.files:
            np.testing.assert_array_equal(found[field], by_python[field], strict=True)
        codes = torch.from_numpy(expected.codes.astype("int64"))[None]
        sound = np.fromfile(tmp_path / f"{n_q}.f32", "<f4")
        np.testing.assert_allclose(sound, tokenizer.decode(codes, length=len(wav))[0].numpy(), atol=1e-4)


def test_a_page_is_updated_without_a_new_export(
    built: Built, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shutil.copytree(built.folder, tmp_path / "page")
    (page / "index.html").write_text("old")
    monkeypatch.setattr(build, "export_onnx", lambda *_, **__: pytest.fail("exported anew"))
    build.build_page(built.tokenizer, page, runtime=runtime)
    for path in (ROOT / "site").rglob("*.*"):
        assert (page / path.relative_to(ROOT / "site")).read_bytes() == path.read_bytes()
    sizes = json.loads((page / "page.json").read_text())["files"]
    assert sizes == {name: (page / name).stat().st_size for name in sizes}
    exported: list[bool] = []

    def export_nothing(*_: object, **__: object) -> None:
        exported.append(True)
        (page / "model").mkdir()

    monkeypatch.setattr(build, "export_onnx", export_nothing)
    with pytest.raises(OSError, match=r"encoder\.onnx"):
        build.build_page(built.tokenizer, page, n_q=2, runtime=runtime)
    assert exported
    assert not build.is_page(page)
    # what was cut short is a page to be made
    with pytest.raises(OSError, match=r"encoder\.onnx"):
        build.build_page(built.tokenizer, page, n_q=2, runtime=runtime)


@pytest.mark.parametrize("option", [["--open"], ["--port", "9000"]])
def test_what_serves_nothing_is_refused(command, tmp_path: Path, option: list[str]) -> None:
    code, line = command("--out", tmp_path / "page", "--no-serve", *option)
    assert code == 2
    assert f"{option[0]}: nothing is served" in line
    assert not (tmp_path / "page").exists()


def test_a_port_that_cannot_be_used_is_told_before_anything_is_made(
    command, built: Built, runtime: Path, tmp_path: Path
) -> None:
    with make_server(built.folder, 0) as server:
        for port, message in ((70_000, "port=70000: give 0 to"), (server.server_port, "cannot be used")):
            code, line = command("--out", tmp_path / "page", "--runtime", runtime, "--port", port)
            assert code == 2
            assert message in line
    assert not (tmp_path / "page").exists()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """command(word, ...): the exit code and the one line on stderr."""

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exited:
            app(["page", *map(str, words)], prog_name="mimotok")
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return int(exited.value.code or 0), lines[0]

    return run


def test_a_missing_or_foreign_runtime_is_reported_with_its_remedy(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, line = command("--out", tmp_path / "page")
    assert code == 2
    assert "no npm" in line
    assert "--runtime" in line
    other = tmp_path / "package" / "dist"
    other.mkdir(parents=True)
    code, line = command("--runtime", tmp_path / "package")
    assert code == 2
    assert "holds no onnxruntime-web" in line
    for name in runtime.FILES:
        (other / name).write_text("another version")
    code, line = command("--runtime", tmp_path / "package")
    assert code == 2
    assert f"not of onnxruntime-web {runtime.VERSION}" in line
    # an npm that cannot reach its registry, and one that brings something else
    for script, message in (
        ("echo 'npm error offline' >&2; echo 'npm error A complete log: x' >&2; exit 1", "(npm error offline)"),
        ("touch a.tgz", "damaged package"),
    ):
        npm = tmp_path / "npm"
        npm.write_text(f"#!/bin/sh\nPATH={os.defpath}\n{script}\n")
        npm.chmod(0o700)
        code, line = command()
        assert code == 2
        assert message in line
    assert not (tmp_path / "cache").exists()


def test_folders_of_something_else_and_taken_ports_are_refused(built: Built, runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds no page"):
        build.build_page(built.tokenizer, tmp_path, runtime=runtime)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    # a project with an exported model, and one with a page.json of its own
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / FACTS_NAME).write_text("{}")
    (tmp_path / "page.json").write_text('{"title": "mine"}')
    with pytest.raises(ValueError, match="holds no page"):
        build.build_page(built.tokenizer, tmp_path, runtime=runtime)
    assert (tmp_path / "page.json").read_text() == '{"title": "mine"}'
    with make_server(built.folder, 0) as server, pytest.raises(ValueError, match="give another"):
        make_server(built.folder, server.server_port)
    with pytest.raises(ValueError, match="port=70000"):
        make_server(built.folder, 70_000)


def test_the_server_isolates_the_page_and_knows_its_types(built: Built) -> None:
    with make_server(built.folder, 0) as server:
        assert server.server_address[0] == HOST
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path, kind in (("/", "text/html"), ("/js/app.js", "text/javascript"), ("/ort/x.wasm", "text/html")):
            connection = http.client.HTTPConnection(HOST, server.server_port)
            connection.request("HEAD", path)
            answer = connection.getresponse()
            assert (answer.headers["Content-Type"] or "").startswith(kind)
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            connection.close()
        server.shutdown()
