"""The codes file: the codes of one recording and of what decodes them, as .npz or as .mimo."""

from __future__ import annotations

from pathlib import Path

from mimotok.io.codes.content import CodesFile
from mimotok.io.codes.entropy import EntropyModel, GetModel
from mimotok.io.codes.mimo import MAGIC, mimo_bytes, read_mimo
from mimotok.io.codes.packed_npz import npz_bytes, read_codes_npz
from mimotok.io.codes.suffixes import MIMO_SUFFIX
from mimotok.io.files import StrPath, atomic_path, open_regular, writing

__all__ = ["CodesFile", "load_codes", "save_codes"]


def save_codes(
    path: StrPath, codes_file: CodesFile, *, overwrite: bool = True, code_model: EntropyModel | None = None
) -> None:
    """Write a codes file, whole or not at all: .mimo where `path` ends so, otherwise .npz.

    code_model: codes the blocks of a .mimo file, which is smaller then.

    Raises ValueError where `path` cannot be written.
    """
    is_mimo = Path(path).suffix.lower() == MIMO_SUFFIX
    if code_model is not None and not is_mimo:
        raise ValueError(f"{path}: entropy coding is for {MIMO_SUFFIX} files; give an output that ends so")
    data = mimo_bytes(codes_file, code_model) if is_mimo else npz_bytes(codes_file)
    with atomic_path(path, overwrite=overwrite) as temporary, writing(path):
        temporary.write_bytes(data)


def load_codes(path: StrPath, get_model: GetModel | None = None, *, only_facts: bool = False) -> CodesFile:
    """Read a codes file, .npz or .mimo whatever its name is, allocating no more memory than its size justifies.

    get_model: gives the model of codes to a .mimo file that `--entropy` made, as `mimotok.code_models.get_model_of`
    does. only_facts: leave the codes of such a file 0, for which no model is needed.

    Raises ValueError, in one line, for a file that is missing, no codes file, damaged, or forged.
    """
    with open_regular(path) as file:
        try:
            is_mimo = file.read(len(MAGIC)) == MAGIC
            return read_mimo(file, get_model, only_facts=only_facts) if is_mimo else read_codes_npz(file)
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: {error}") from None
