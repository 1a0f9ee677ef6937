"""The codes file: the codes of one recording and of what decodes them, as .npz or as .mimo."""

from __future__ import annotations

from pathlib import Path

from mimotok.io.codes_content import CodesFile
from mimotok.io.codes_npz import npz_bytes, read_codes_npz
from mimotok.io.codes_suffixes import MIMO_SUFFIX
from mimotok.io.files import StrPath, atomic_path, open_regular, writing
from mimotok.io.mimo import MAGIC, mimo_bytes, read_mimo

__all__ = ["CodesFile", "load_codes", "save_codes"]


def save_codes(path: StrPath, codes_file: CodesFile, *, overwrite: bool = True) -> None:
    """Write a codes file, whole or not at all: .mimo where `path` ends so, otherwise .npz.

    Raises ValueError where `path` cannot be written.
    """
    data = mimo_bytes(codes_file) if Path(path).suffix.lower() == MIMO_SUFFIX else npz_bytes(codes_file)
    with atomic_path(path, overwrite=overwrite) as temporary, writing(path):
        temporary.write_bytes(data)


def load_codes(path: StrPath) -> CodesFile:
    """Read a codes file, .npz or .mimo whatever its name is, allocating no more memory than its size justifies.

    Raises ValueError, in one line, for a file that is missing, no codes file, damaged, or forged.
    """
    with open_regular(path) as file:
        try:
            is_mimo = file.read(len(MAGIC)) == MAGIC
            return read_mimo(file) if is_mimo else read_codes_npz(file)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {error}") from None
