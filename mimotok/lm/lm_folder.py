"""The folder of an audio LM: audio_lm.json, patches.safetensors, and the language model as transformers saves it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mimotok.io.files import atomic_path, make_folder
from mimotok.io.json_object import read_object
from mimotok.lm.interleaving import SpecialIds
from mimotok.lm.patches import PatchConfig

FACTS_NAME = "audio_lm.json"
PATCHES_NAME = "patches.safetensors"
LM_NAME = "lm"
FORMAT_VERSION = 1


class SavedLM(NamedTuple):
    """What a folder holds.

    patches: tensors of the patch modules by name.
    """

    lm: Any
    config: PatchConfig
    special: SpecialIds
    patches: dict[str, Tensor]


def write_folder(folder: Path, lm: Any, config: PatchConfig, special: SpecialIds, patches: dict[str, Tensor]) -> None:
    """Write the folder. Raises ValueError for a language model that is not of transformers."""
    if not hasattr(lm, "save_pretrained"):
        raise ValueError(f"the LM is a {type(lm).__name__}, which has no save_pretrained: save the state_dict instead")
    make_folder(folder)
    lm.save_pretrained(folder / LM_NAME)
    with atomic_path(folder / PATCHES_NAME) as temporary:
        temporary.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in patches.items()}))
    facts = {"format_version": FORMAT_VERSION, "patches": dataclasses.asdict(config), "special": special._asdict()}
    with atomic_path(folder / FACTS_NAME) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_folder(folder: Path, options: dict[str, Any]) -> SavedLM:
    """Read the folder. options: of `AutoModelForCausalLM.from_pretrained`. Raises ValueError for another folder."""
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise ImportError("AudioLM.from_pretrained needs transformers: pip install 'mimotok[hf]'") from None
    facts = read_object(folder / FACTS_NAME)
    try:
        if facts["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version={facts['format_version']}, but this mimotok reads {FORMAT_VERSION} only")
        config = PatchConfig(**facts["patches"])
        special = SpecialIds(**facts["special"])
        patches = load_file(folder / PATCHES_NAME)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: is no audio LM that this version saved ({error})") from None
    return SavedLM(AutoModelForCausalLM.from_pretrained(folder / LM_NAME, **options), config, special, patches)
