"""The folder of a text decoder: config.json, model.safetensors, and what its tokenizer or language model brings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from mimotok.io.files import atomic_path, make_folder
from mimotok.io.json_object import read_object
from mimotok.weights import Sizes, check_dtypes, check_finite, check_sizes, read_header

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write_folder(folder: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write config.json from `settings` and model.safetensors from `state`."""
    make_folder(folder)
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}))
    with atomic_path(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what config.json says. Raises ValueError where the folder is not a text decoder's."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder}: no text decoder in it; the joint stage's export writes one as text_decoder/")
    return read_object(folder / CONFIG)


def read_weights(folder: Path, settings: Mapping[str, Any], sizes: Sizes) -> dict[str, Tensor]:
    """Read model.safetensors. Raises ValueError where it does not have the sizes that the settings say.

    A folder may come from strangers, so that nothing is built by its settings before this.
    """
    path = folder / WEIGHTS
    header = read_header(path)
    check_sizes(path, settings, header, sizes)
    check_dtypes(path, header)
    state = load_file(path)
    check_finite(path, state)
    return state
