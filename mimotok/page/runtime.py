"""onnxruntime-web, which runs the graphs in a browser: one version, known by the hashes of its files."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from mimotok.io.files import StrPath, atomic_path, writing
from mimotok.page.files import cache_folder
from mimotok.weights import sha256_of_file

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
# the SHA-256 of each file that the page needs, as the package has them
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_REMEDY = (
    f"install Node.js, whose npm fetches it once, or unpack the npm package {PACKAGE} {VERSION} "
    "and name its folder (--runtime FOLDER)"
)
# 33 MB: a slow line may take minutes
_FETCH_SECONDS = 900


def find_runtime(folder: StrPath | None = None) -> Path:
    """Return the folder that holds the runtime's files, whose hashes were checked.

    Args:
        folder: the unpacked npm package, its `dist` folder, or a folder with `node_modules`. Where None, a copy in the
            user's cache folder is taken, which npm fetches at first.

    Raises:
        ValueError: a file is missing or is not of this version, or npm is missing or does not fetch it.
    """
    if folder is not None:
        return _given(Path(folder))
    cached = cache_folder() / f"{PACKAGE}-{VERSION}"
    if _problem(cached) is not None:
        _fetch(cached)
    return cached


def _given(folder: Path) -> Path:
    candidates = [folder, folder / "dist", folder / "node_modules" / PACKAGE / "dist"]
    present = [place for place in candidates if (place / next(iter(FILES))).is_file()]
    if not present:
        raise ValueError(f"{folder}: holds no {PACKAGE}; {_REMEDY}")
    problem = _problem(present[0])
    if problem is not None:
        raise ValueError(f"{problem}; {_REMEDY}")
    return present[0]


def _problem(folder: Path) -> str | None:
    """Say in a few words why a folder does not hold the runtime, None where it does."""
    for name, sha256 in FILES.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: is missing"
        found = sha256_of_file(path)
        if found != sha256:
            return f"{path}: is not of {PACKAGE} {VERSION} (sha256 {found[:12]}, expected {sha256[:12]})"
    return None


def _fetch(folder: Path) -> None:
    """Let npm fetch the package, and keep the files whose hashes are right. No script of the package runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"the page needs {PACKAGE} {VERSION}, and there is no npm here: {_REMEDY}")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", "--ignore-scripts", "--loglevel=error", f"{PACKAGE}@{VERSION}"]
        try:
            done = subprocess.run(
                command, cwd=temporary, capture_output=True, text=True, errors="replace", timeout=_FETCH_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"npm did not fetch {PACKAGE} within {_FETCH_SECONDS} s; {_REMEDY}") from None
        archives = list(Path(temporary).glob("*.tgz"))
        if done.returncode != 0 or not archives:
            # the first line says what went wrong, the last one where a log lies
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise ValueError(f"npm did not fetch {PACKAGE} {VERSION} ({reason}); {_REMEDY}")
        unpacked = Path(temporary) / "unpacked"
        unpacked.mkdir()
        _unpack(archives[0], unpacked)
        problem = _problem(unpacked)
        if problem is not None:
            raise ValueError(f"npm fetched other files than expected: {problem}; {_REMEDY}")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with atomic_path(folder / name) as path:
                shutil.copyfile(unpacked / name, path)


def _unpack(archive: Path, folder: Path) -> None:
    """Write the runtime's files, and only those, from the package into `folder`."""
    try:
        with tarfile.open(archive) as package:
            for name in FILES:
                source = package.extractfile(f"package/dist/{name}")
                if source is not None:
                    (folder / name).write_bytes(source.read())
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise ValueError(f"npm fetched a damaged package of {PACKAGE} ({error}); try again") from None
