"""Which weights a model holds now: those of the file that it was loaded from, or others, with a digest of their own.

Weights change in many ways: in place, through `load_state_dict`, by adapters, by another file under the same name. So
nothing is remembered without a look at the weights themselves: a sum of the bits of every tensor, some milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mimotok.weights import official_key, sha256_of_file

CHANGED = " (changed)"  # what a model's name ends with once its weights are not the file's
# one look at a time: other threads wait for what it finds. Of the module, since models are copied and pickled
_LOOKING = threading.RLock()
_COMPILED = "._orig_mod"  # what torch.compile puts into the names of what it wraps
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ModelIdentity(NamedTuple):
    """What codes say of their model. sha256: of its weights file, or of its tensors where no file holds them."""

    name: str
    sha256: str


@dataclass(frozen=True)
class _Mark:
    """What changes with the weights. sums: of each tensor's bits, with its name, dtype and shape."""

    structure: tuple[str, ...]
    sums: tuple[Any, ...]
    versions: tuple[Any, ...]


class Identity:
    """Knows the identity of one model.

    path: the weights file that the model was loaded from, absolute; None for a model that came from no file.
    """

    def __init__(self, model: nn.Module, path: Path | None = None) -> None:
        self.path = path
        self._built = _structure(model) if path is not None else ()
        self._mark: _Mark | None = None
        self._sha256 = ""
        self._is_file = False

    def of(self, model: nn.Module, name: str) -> ModelIdentity:
        """Return what the model is now. name: what it is called while it holds what it was loaded with."""
        with _LOOKING:
            mark = _mark_of(model)
            if mark != self._mark:
                self._look(model, mark)
            changed = self.path is not None and not self._is_file
            return ModelIdentity(name + CHANGED if changed else name, self._sha256)

    def _look(self, model: nn.Module, mark: _Mark) -> None:
        known = self._mark
        found = _file_holds(self.path, model) if self.path is not None and mark.structure == self._built else False
        if found:
            assert self.path is not None
            self._sha256 = sha256_of_file(self.path)
            self._is_file = True
        # not on another device, or in another process, to which the file did not come along
        elif found is not None or known is None or (known.structure, known.sums) != (mark.structure, mark.sums):
            self._sha256 = sha256_of_model(model)
            self._is_file = False
        self._mark = mark


def sha256_of_model(model: nn.Module) -> str:
    """Hash a model's tensors by their official names, and modules of classes that are not ours: hex SHA-256."""
    digest = hashlib.sha256()
    foreign = [line for line in _structure(model) if ":mimotok." not in line and ":torch.nn." not in line]
    digest.update(repr(foreign).encode())
    for name, value in _values(model):
        facts = (official_key(name), str(value.dtype), list(value.shape)) if isinstance(value, Tensor) else name
        digest.update(repr(facts).encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _structure(model: nn.Module) -> tuple[str, ...]:
    """Write a line for every module but the model itself: its name and its class."""
    modules = ((name, type(module)) for name, module in model.named_modules())
    lines = (f"{name.replace(_COMPILED, '')}:{kind.__module__}.{kind.__qualname__}" for name, kind in modules if name)
    return tuple(line for line in lines if not line.endswith(".OptimizedModule"))


def _values(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Collect the state by name, and tensors that modules hold without registering them, as simple adapters do."""
    for name, value in model.state_dict().items():
        yield name.replace(_COMPILED, ""), value
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{name.replace(_COMPILED, '')}.{key}", value


def _mark_of(model: nn.Module) -> _Mark:
    names = []
    sums = []
    versions: list[Any] = []
    for name, value in _values(model):
        if isinstance(value, Tensor) and not value.is_quantized and not value.is_meta:
            names.append((name, str(value.dtype), tuple(value.shape)))
            sums.append(_sum_of_bits(value.detach()))
            versions.append(None if value.is_inference() else value._version)
        else:
            versions.append((name, repr(value)))
    # together: each alone would make a GPU wait
    where = {tensor.device for tensor in sums}
    numbers = torch.stack(sums).tolist() if len(where) == 1 else [int(item) for item in sums]
    return _Mark(_structure(model), tuple(zip(names, numbers, strict=True)), tuple(versions))


def _sum_of_bits(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    return flat.view(_INTEGERS[flat.element_size()]).sum(dtype=torch.int64)


def _bytes_of(value: Any) -> bytes:
    if not isinstance(value, Tensor):
        return repr(value).encode()
    if value.is_quantized:
        value = value.dequantize()
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _file_holds(path: Path, model: nn.Module) -> bool | None:
    """Return whether a file holds the model's tensors, in the model's dtypes; None where the file is gone."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            for name, tensor in _values(model):
                key = official_key(name)
                if key not in keys or not isinstance(tensor, Tensor):
                    return False
                if not torch.equal(file.get_tensor(key).to(tensor.dtype), tensor.detach().cpu()):
                    return False
    except (OSError, SafetensorError):
        return None
    return True


def digest_of(value: Any) -> str:
    """Return a short digest of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:16]
