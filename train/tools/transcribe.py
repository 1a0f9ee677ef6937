"""The text that a joint stage's text decoder reads in tokens."""

from __future__ import annotations

from pathlib import Path

import torch

from mimotok.io.audio import load_audio
from mimotok.io.codes_file import load_codes
from mimotok.tokenizer import Tokenizer
from train.stages.text_decoder import AudioToText
from train.stages.text_decoder import load_text_decoder as load_folder


def transcribe(checkpoint: str | Path, path: str | Path) -> str:
    """Transcribe a codes file, or an audio file by its default codebooks.

    Args:
        checkpoint: an exported folder with `text_decoder/` in it.
        path: the file.

    Raises:
        ValueError: where something is missing.
    """
    tokenizer = Tokenizer.from_pretrained(checkpoint)
    decoder = load_text_decoder(tokenizer)
    if Path(path).suffix == ".npz":
        codes = torch.from_numpy(load_codes(path).codes.astype("int64"))[None]
    else:
        codes = tokenizer.encode(load_audio(path, tokenizer.sample_rate))
    return decoder.transcribe(tokenizer.dequantize(codes), torch.tensor([codes.shape[2]]))[0]


def load_text_decoder(tokenizer: Tokenizer) -> AudioToText:
    """Load the text decoder beside the tokenizer's weights, in fp32. Raises ValueError where it is missing."""
    folder = tokenizer.folder
    if folder is None or not (folder / "text_decoder" / "config.json").is_file():
        raise ValueError(
            f"{tokenizer.name}: has no text_decoder/ beside its weights; the joint stage's export writes it"
        )
    return load_folder(folder / "text_decoder").float()
