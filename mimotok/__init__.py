"""mimotok: a neural audio codec and tokenizer of the MiMo-Audio family."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimotok.config import TokenizerConfig
    from mimotok.io.audio import load_audio, save_audio
    from mimotok.model.quantizers import register_quantizer
    from mimotok.streaming import StreamDecoder, StreamEncoder
    from mimotok.tokenizer import Tokenizer
    from mimotok.transcode import decode_file, encode_file

__version__ = "0.1.0"
__all__ = [
    "StreamDecoder",
    "StreamEncoder",
    "Tokenizer",
    "TokenizerConfig",
    "decode_file",
    "encode_file",
    "load_audio",
    "register_quantizer",
    "save_audio",
]

# Resolved on first use, so that `mimotok --help` does not wait for torch.
_HOMES = {
    "StreamDecoder": "mimotok.streaming",
    "StreamEncoder": "mimotok.streaming",
    "decode_file": "mimotok.transcode",
    "encode_file": "mimotok.transcode",
    "Tokenizer": "mimotok.tokenizer",
    "TokenizerConfig": "mimotok.config",
    "load_audio": "mimotok.io.audio",
    "register_quantizer": "mimotok.model.quantizers",
    "save_audio": "mimotok.io.audio",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mimotok' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """This package, which is pickled by its name wherever it is installed.

    dill, by which `datasets` knows a function again, writes out all that a module holds, unless it lies in
    site-packages: of an editable install that fails.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
