"""torchaudio's Python part, from its wheel: it imports beside any torch when its native library is left out."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

RELEASE = "torchaudio==2.11.0"
NATIVE = "torchaudio/lib/"


def unpack_torchaudio(wheels: Path, folder: Path) -> None:
    """Unpack the wheel without its native library.

    Args:
        wheels: folder that keeps the wheel from one run of the tests to the next.
        folder: where the package goes.

    Raises:
        OSError: the wheel is not there and cannot be downloaded.
    """
    found = sorted(wheels.glob("torchaudio-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        options = ["--retries=0", "--timeout=20", "--disable-pip-version-check", "--dest", str(wheels)]
        done = subprocess.run([*command, *options, RELEASE], capture_output=True, text=True, check=False)
        found = sorted(wheels.glob("torchaudio-*.whl"))
        if done.returncode or not found:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise OSError(f"{RELEASE} could not be downloaded: {last}")
    with zipfile.ZipFile(found[-1]) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if not name.startswith(NATIVE)])
