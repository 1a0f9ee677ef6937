"""Finds the model of codes beside a tokenizer's weights, and checks that it is of these."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from mimotok.io.codes.entropy import GetModel, coder
from mimotok.io.files import file_stamp
from mimotok.weights import CODE_MODEL_NAME, sha256_of_codes, weights_path

if TYPE_CHECKING:
    from mimotok.model.code_model import CodeModel
    from mimotok.tokenizer import Tokenizer


def get_model_of(tokenizer: Tokenizer) -> GetModel:
    """Return a function that reads a tokenizer's model of codes, for files that need it.

    Example:
        >>> tokenizer = Tokenizer.from_pretrained()
        >>> load_codes("speech.mimo", get_model_of(tokenizer))  # doctest: +SKIP
    """
    return partial(code_model_of, tokenizer)


def code_model_of(tokenizer: Tokenizer) -> CodeModel:
    """Read the model of codes beside a tokenizer's weights.

    Raises ValueError where there is none or it is of other weights, and ImportError without the range coder.
    """
    if tokenizer.folder is None:
        raise ValueError(f"model {tokenizer.name!r} came from no folder, and a model of codes lies beside weights")
    coder()
    model = find_code_model(tokenizer)
    if model is None:
        raise ValueError(
            f"{tokenizer.folder / CODE_MODEL_NAME}: no such file; "
            f"python -m train code-model --manifest MANIFEST --model {tokenizer.folder} makes it"
        )
    return model


def find_code_model(tokenizer: Tokenizer) -> CodeModel | None:
    """Read the model of codes beside a tokenizer's weights, to predict codes with; None where there is none.

    Raises ValueError where it is of other weights.
    """
    if tokenizer.folder is None or not (tokenizer.folder / CODE_MODEL_NAME).is_file():
        return None
    files = (tokenizer.folder / CODE_MODEL_NAME, weights_path(tokenizer.folder))
    return _read(*files, tuple(tuple(file_stamp(path) or ()) for path in files))


# the stamps are part of the key: a model that was trained anew is another one
@lru_cache(maxsize=4)
def _read(path: Path, weights: Path, _stamps: tuple[tuple[int, ...], ...]) -> CodeModel:
    from mimotok.model.code_model import CodeModel

    model = CodeModel.load(path)
    found = sha256_of_codes(weights)
    if model.codes_sha256 != found:
        raise ValueError(
            f"{path}: made for the codes of other weights (sha256 {model.codes_sha256[:12]}, these have {found[:12]}); "
            "python -m train code-model makes one for these"
        )
    return model
