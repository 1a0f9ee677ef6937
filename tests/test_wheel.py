"""The wheel in a fresh environment: the command line works there, from any folder, on the embedded checkpoint."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("build", reason="needs: pip install 'mimotok[dev]'")


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=ROOT)
    return next(out.glob("*.whl"))


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "mimotok/py.typed" in names
    assert "mimotok/checkpoints/default/config.json" in names
    assert "mimotok/checkpoints/default/model.safetensors" in names
    strangers = [name for name in names if not name.startswith("mimotok")]
    assert not strangers


def test_installed_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    """Dependencies come from this environment: what is tested is the wheel, not the network."""
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(ours + "\n")
    python = str(tmp_path / "env" / "bin" / "python")
    where = run(python, "-c", "import mimotok; print(mimotok.__file__)", cwd=tmp_path)
    assert str(site) in where
    sample = str(ROOT / "examples" / "sample.flac")
    run(python, "-m", "mimotok", "encode", sample, "out.npz", cwd=tmp_path)
    run(python, "-m", "mimotok", "decode", "out.npz", "out.wav", cwd=tmp_path)
    assert "1550 bit/s" in run(python, "-m", "mimotok", "info", "out.npz", cwd=tmp_path)
