"""Codecs by name."""

from __future__ import annotations

import re
from collections.abc import Callable

from eval.codecs.base import Codec, CodecSpec

KINDS = (
    "a model's folder or hub id, default, copy, vocoder, hf:ID, opus:KBPS, codec2:MODE, speex:QUALITY, features:mel, "
    "features:whisper-base, features:whisper-tiny.en, or a class of your own as package.module:Class"
)
CUSTOM_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# what may or must have an argument after the colon
WITH_ARGUMENT = ("hf", "opus", "codec2", "speex", "copy", "vocoder", "features")
NEEDS_ARGUMENT = ("hf", "opus", "codec2", "speex", "features")
# codecs of which a number of codebooks cannot be chosen with NAME@N
WITHOUT_CODEBOOKS = ("opus", "codec2", "speex", "copy", "vocoder", "features")


def expand_specs(names: list[str], n_q: list[int]) -> list[CodecSpec]:
    """Turn what a user names into specs, each model of ours once for every `n_q`.

    Args:
        names: see KINDS; `NAME@N` fixes one codec's own number of codebooks.
        n_q: numbers of codebooks for models of ours, all of them where it is empty.

    Returns:
        The specs, in the order of `names`.

    Raises:
        ValueError: a codec is named twice, or a name cannot be a codec.

    Example:
        >>> [spec.label for spec in expand_specs(["default", "copy"], [4, 8])]
        ['default n_q=4', 'default n_q=8', 'copy']
    """
    specs = []
    for name in names:
        kind, _, argument = name.partition(":")
        base, at, number = name.rpartition("@")
        if at and number.isdigit() and kind not in WITHOUT_CODEBOOKS:
            specs.append(CodecSpec(base, int(number)))
        elif (argument and kind in WITH_ARGUMENT) or name in ("copy", "vocoder") or is_custom(name):
            specs.append(CodecSpec(name))
        elif argument or not name or kind in NEEDS_ARGUMENT:
            raise ValueError(f"codec {name!r}: give {KINDS}")
        else:
            specs += [CodecSpec(name, count) for count in n_q] or [CodecSpec(name)]
    labels = [spec.label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"codec {label} is given twice")
    return specs


def is_custom(name: str) -> bool:
    """Return whether a name is that of somebody's class, `package.module:Class`."""
    return name.partition(":")[0] not in WITH_ARGUMENT and CUSTOM_NAME.fullmatch(name) is not None


def make_codec(spec: CodecSpec, device: str = "cpu") -> Codec:
    """Make the codec of a spec, ready to use.

    Args:
        spec: what the user named.
        device: where models run.

    Raises:
        ValueError: it does not exist.
        ImportError: its package is missing; the message says what to install.
        FileNotFoundError: its command-line tool is missing; the message says what to install.
    """
    kind, _, argument = spec.name.partition(":")
    if kind in ("opus", "codec2", "speex"):
        return _system_codec(spec, kind, argument)
    if kind == "hf":
        from eval.codecs.transformers import HuggingFaceCodec

        return HuggingFaceCodec(spec, argument, device)
    if is_custom(spec.name):
        from eval.codecs.custom import CustomCodec

        return CustomCodec(spec, device)
    if kind in ("copy", "features"):
        return _uncoded(spec, kind, argument)

    from eval.codecs.ours import MimoCodec, VocoderCodec

    if kind == "vocoder":
        return VocoderCodec(spec, argument or None, device)
    return MimoCodec(spec, None if spec.name == "default" else spec.name, device)


def _system_codec(spec: CodecSpec, kind: str, argument: str) -> Codec:
    from eval.codecs.system import Codec2, Opus, Speex

    classes: dict[str, Callable[[CodecSpec, str], Codec]] = {"opus": Opus, "codec2": Codec2, "speex": Speex}
    return classes[kind](spec, argument)


def _uncoded(spec: CodecSpec, kind: str, argument: str) -> Codec:
    from eval.codecs.copy import CopyCodec, MelFrames, WhisperFrames
    from eval.whisper import BUNDLED

    if kind == "copy":
        return CopyCodec(spec, *([_rate(spec.name, argument)] if argument else []))
    if argument == "mel":
        return MelFrames(spec)
    if argument in BUNDLED:
        return WhisperFrames(spec, argument)
    raise ValueError(f"codec {spec.name!r}: give {KINDS}")


def _rate(name: str, text: str) -> int:
    if not text.isdigit() or not 1000 <= int(text) <= 192000:
        raise ValueError(f"codec {name!r}: give a sample rate from 1000 to 192000 Hz after the colon")
    return int(text)
