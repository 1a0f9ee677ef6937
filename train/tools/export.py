"""Export of a training checkpoint to a folder that `Tokenizer.from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from mimotok.config import TokenizerConfig
from mimotok.io.files import atomic_path, make_folder
from mimotok.tokenizer import Tokenizer
from mimotok.weights import check_finite
from train.stages.plain import read_plain
from train.stages.readers import READERS
from train.stages.text_decoder import build_text_decoder, text_decoder_config

AVERAGED = "averaged.module."
TEXT_DECODER = "text_decoder."
DISCRIMINATORS = "discriminators."
# What a checkpoint holds beside a model, and of which stage.
OF_A_STAGE = {
    "discriminators": "the adversarial stage has",
    "readers": "the joint stage has, where phone, characters or semantic has a weight",
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dtype: str = "float16",
    discriminators: bool = False,
    readers: bool = False,
) -> None:
    """Write config.json, model.safetensors (averaged weights; codebooks in fp32), README.md, and the text decoder.

    discriminators: of an adversarial stage, in float32, to discriminators.safetensors.
    readers: of a joint stage, what reads the first codebook, in float32, to readers.safetensors.

    Raises ValueError where `checkpoint` is not one of this package's training checkpoints, lacks discriminators or
    readers that are asked for, or for an unknown dtype.
    """
    stored = checked_dtype(dtype)
    state, facts = read_checkpoint(checkpoint)
    tokenizer = _tokenizer(checkpoint, facts, _part(state, AVERAGED))
    beside = {}
    if discriminators:
        beside["discriminators"] = _part(state, DISCRIMINATORS)
    if readers:
        beside["readers"] = {key: value for key, value in state.items() if key.split(".")[0] in READERS}
    for name, tensors in beside.items():
        if not tensors:
            raise ValueError(f"{checkpoint}: has no {name}; {OF_A_STAGE[name]}")
    folder = Path(out)
    make_folder(folder)
    # the model last: where it is, runs/embedded.sh takes the export to be whole
    for name, tensors in beside.items():
        with atomic_path(folder / f"{name}.safetensors") as temporary:
            temporary.write_bytes(save({key: tensor.contiguous() for key, tensor in tensors.items()}))
    if "text_decoder" in facts:
        decoder = build_text_decoder(tokenizer.config.d_model, text_decoder_config(facts["text_decoder"]))
        decoder.load_state_dict(_part(state, TEXT_DECODER))
        decoder.to(stored).save(folder / "text_decoder")
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(model_card(folder.name, tokenizer, facts, dtype), encoding="utf-8")
    tokenizer.save_pretrained(folder, dtype=stored)


def _tokenizer(checkpoint: str | Path, facts: dict[str, Any], state: dict[str, torch.Tensor]) -> Tokenizer:
    """Build the model of a checkpoint, in no more memory than the checkpoint takes, whatever its configuration says."""
    config = facts.get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{checkpoint}: holds no configuration of a tokenizer")
    try:
        with torch.device("meta"):
            tokenizer = Tokenizer(TokenizerConfig.from_official(config))
        tokenizer.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{checkpoint}: does not fit its configuration ({problem:.400})") from None
    check_finite(checkpoint, tokenizer.state_dict())
    return tokenizer


def checked_dtype(dtype: str) -> torch.dtype:
    """Return the dtype of a name of DTYPES. Raises ValueError for another name."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype}: choose from {', '.join(DTYPES)}")
    return DTYPES[dtype]


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the state dict of a Lightning checkpoint and the stage's facts."""
    checkpoint = read_plain(path)
    if not isinstance(checkpoint.get("state_dict"), dict) or not isinstance(checkpoint.get("mimotok"), dict):
        raise ValueError(f"{path}: not a checkpoint of `python -m train fit`")
    return checkpoint["state_dict"], checkpoint["mimotok"]


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def model_card(name: str, tokenizer: Tokenizer, facts: dict[str, Any], dtype: str) -> str:
    """Return a README in Markdown: what the model is, how it was trained, and what the last validation measured."""
    config = tokenizer.config
    millions = sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in sorted(facts["metrics"].items()) if "val/" in key)
    books = "\n".join(
        f"| {i} | {config.codebook_sizes[i]} | {used:.1%} | {perplexity:.0f} |"
        for i, (used, perplexity) in enumerate(facts["codes"])
    )
    return f"""---
library_name: mimotok
tags: [audio-codec, speech-tokenizer]
---
# {name}

A speech tokenizer of the MiMo-Audio family: {config.sample_rate} Hz mono, {config.frame_rate:g} Hz frames,
{config.n_q} of {config.num_quantizers} codebooks in use by default = {config.bitrate():.0f} bit/s.
{millions:.1f} M parameters, stored as {dtype} (codebooks as float32).

## Training
- last stage: {facts["stage"]}, {facts["steps"]} steps, {facts["audio_hours"]:.1f} hours of audio heard
- command: `{facts["command"]}`

## Validation at the last evaluated step
| metric | value |
|---|---|
{rows}

| codebook | entries | used | perplexity |
|---|---|---|---|
{books}
"""
