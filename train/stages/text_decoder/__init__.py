"""The audio-to-text model of the joint stage: it reads quantized audio and writes text.

It teaches the tokens meaning (MiMo-Audio, section 2.2, eq. 1) and is dropped afterwards, though it can be kept to
transcribe tokens. `TextDecoder` is trained from scratch, as published; `PretrainedTextDecoder` starts
from a language model that can already spell.
"""

from train.stages.text_decoder.base import EXTRA_TOKENS, TOKENS_PER_FRAME, AudioToText, TextLosses
from train.stages.text_decoder.make import (
    AnyTextDecoderConfig,
    build_text_decoder,
    load_text_decoder,
    text_decoder_config,
)
from train.stages.text_decoder.pretrained import PretrainedTextDecoder, PretrainedTextDecoderConfig
from train.stages.text_decoder.scratch import TextDecoder, TextDecoderConfig

__all__ = [
    "EXTRA_TOKENS",
    "TOKENS_PER_FRAME",
    "AnyTextDecoderConfig",
    "AudioToText",
    "PretrainedTextDecoder",
    "PretrainedTextDecoderConfig",
    "TextDecoder",
    "TextDecoderConfig",
    "TextLosses",
    "build_text_decoder",
    "load_text_decoder",
    "text_decoder_config",
]
