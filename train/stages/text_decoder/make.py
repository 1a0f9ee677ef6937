"""Text decoders of either kind, from a config or from the folder that one was saved in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from train.stages.text_decoder.base import AudioToText
from train.stages.text_decoder.folders import read_settings, read_weights
from train.stages.text_decoder.pretrained import LM_FOLDER, PretrainedTextDecoder, PretrainedTextDecoderConfig
from train.stages.text_decoder.pretrained import SIZES as PRETRAINED_SIZES
from train.stages.text_decoder.scratch import SIZES, TOKENIZER_FOLDER, TextDecoder, TextDecoderConfig

AnyTextDecoderConfig = TextDecoderConfig | PretrainedTextDecoderConfig


def text_decoder_config(settings: Mapping[str, Any]) -> AnyTextDecoderConfig:
    """Return the config that `dataclasses.asdict` made these settings of."""
    if "pretrained" in settings:
        return PretrainedTextDecoderConfig(**settings)
    return TextDecoderConfig(**settings)


def build_text_decoder(d_model: int, config: AnyTextDecoderConfig) -> AudioToText:
    """Build a new text decoder that reads quantized vectors of width `d_model`."""
    if isinstance(config, PretrainedTextDecoderConfig):
        return PretrainedTextDecoder(d_model, config)
    return TextDecoder(d_model, config)


def load_text_decoder(folder: Path | str) -> AudioToText:
    """Read what `save` wrote, from that folder alone. Raises ValueError where it did not."""
    folder = Path(folder)
    try:
        settings = read_settings(folder)
        d_model = settings.pop("d_model")
        pretrained = "pretrained" in settings
        if pretrained:
            settings["pretrained"] = str(folder / LM_FOLDER)
        elif settings["tokenizer"] != "bytes":
            settings["tokenizer"] = str(folder / TOKENIZER_FOLDER)
        config = text_decoder_config(settings)
        sizes = {**asdict(config), "stack * d_model": config.stack * d_model}
        state = read_weights(folder, sizes, PRETRAINED_SIZES if pretrained else SIZES)
        decoder = build_text_decoder(d_model, config)
        report = decoder.load_state_dict(state, strict=False)
        # a language model comes out of its own folder
        missing = [name for name in report.missing_keys if not pretrained or name.startswith("adapter.")]
        if missing or report.unexpected_keys:
            raise ValueError(f"weights that are missing: {missing}; that are not known: {report.unexpected_keys}")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError, SafetensorError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder}: not a text decoder that `save` wrote ({problem:.200})") from error
    return decoder.eval()
