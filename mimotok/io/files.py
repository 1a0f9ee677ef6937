"""Files that appear whole or not at all, and files fit to be read."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

StrPath = str | os.PathLike[str]
# What `atomic_path` calls its files; a process killed while it writes leaves one behind.
TEMPORARY = ".mimotok-{}.tmp"


def is_temporary(path: Path) -> bool:
    """Return whether a file was being written when a process was killed."""
    return path.name.startswith(TEMPORARY.partition("{")[0])


def open_regular(path: StrPath) -> BinaryIO:
    """Open a file for reading. Raises ValueError where it is missing, empty, or no regular file."""
    try:
        status = os.stat(path)
        # opening a pipe could wait for ever
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path}: not a regular file; name a file")
        if status.st_size == 0:
            raise ValueError(f"{path}: empty file (0 bytes)")
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error


def file_stamp(path: StrPath) -> list[int] | None:
    """Return a file's size and its time of modification, which tell whether it changed; None where there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def folder_stamp(path: StrPath) -> dict[str, list[int] | None]:
    """Return the stamp of a file, or of every file below a folder, by name; nothing where there is neither."""
    top = Path(path)
    if top.is_file():
        return {top.name: file_stamp(top)}
    files = sorted(file for file in top.rglob("*") if file.is_file()) if top.is_dir() else []
    return {file.relative_to(top).as_posix(): file_stamp(file) for file in files}


def require_writable(path: StrPath, *, overwrite: bool = True, create_folders: bool = False) -> None:
    """Check that a file could be written, before the work that leads to it.

    Args:
        path: the file.
        overwrite: whether an existing file may be replaced.
        create_folders: whether missing folders will be created.

    Raises:
        ValueError: naming the path and the remedy.
    """
    path = Path(path)
    with writing(path):
        _require_replaceable(path, overwrite)
        folder = path.parent
        while create_folders and not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist: create it first"
            raise ValueError(f"{path}: cannot be written, its folder {folder} {problem}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"{path}: cannot be written, no permission in folder {folder}")


def _require_replaceable(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise ValueError(f"{path}: cannot be written, it is a folder: name a file inside it")
    # a rename would put a plain file in the place of a device such as /dev/null
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: cannot be written, it is not a regular file")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already; name another file or overwrite it (--overwrite)")


@contextmanager
def atomic_path(path: StrPath, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield the path of an empty temporary file beside `path`, which the body of the `with` writes.

    The file moves to `path` when the body ends, and is removed when the body raises anything, KeyboardInterrupt
    included. Raises ValueError where `path` cannot be written.
    """
    require_writable(path, overwrite=overwrite)
    # through a symbolic link to the file it names: renaming onto the link would cut it off
    target = Path(os.path.realpath(path))
    # not built from the target's name, which may already be as long as names can be
    temporary = target.parent / TEMPORARY.format(secrets.token_hex(8))
    try:
        with writing(path):
            temporary.touch(exist_ok=False)
        yield temporary
        with writing(path):
            os.replace(temporary, target)
    finally:
        # after the rename there is nothing left under this name
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def writing(path: StrPath) -> Iterator[None]:
    """Turn a system error met while writing `path` into a ValueError of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror or error})") from error


def make_folder(folder: StrPath) -> None:
    """Create a folder and those above it, where they are missing. Raises ValueError where it cannot be."""
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def require_new(folder: StrPath) -> None:
    """Check that a folder could be created. Raises ValueError where it exists or its parent is not writable."""
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder}: exists already; name another folder or remove it")
    require_writable(folder)


@contextmanager
def atomic_folder(folder: StrPath) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which must not exist; otherwise as `atomic_path`."""
    require_new(folder)
    folder = Path(folder)
    temporary = folder.absolute().parent / TEMPORARY.format(secrets.token_hex(8))
    try:
        with writing(folder):
            temporary.mkdir()
        yield temporary
        with writing(folder):
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
