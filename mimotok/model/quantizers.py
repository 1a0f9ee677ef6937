"""The kinds of quantizers by the name that `config.json` gives them.

No class is ever loaded by a name that a file holds: a kind is in this registry, or it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from mimotok.config import TokenizerConfig
from mimotok.io.terminal.streams import shortened
from mimotok.model.fsq import FiniteScalarQuantizer
from mimotok.model.quantizer import ResidualQuantizer


class Quantizer(Protocol):
    """What a model asks of its quantizer, an nn.Module that is built from the model's configuration alone.

    It acts on each frame by itself, so that codes depend neither on a batch nor on how a stream is cut.
    """

    def encode(self, latents: Tensor, n_q: int) -> Tensor:
        """Quantize latents [B, F, D] by the first `n_q` codebooks. Returns codes int64 [B, n_q, F]."""

    def decode(self, codes: Tensor) -> Tensor:
        """Look up codes int64 [B, n, F] of the first n codebooks. Returns vectors fp32 [B, F, D].

        A code below 0 stands for a codebook that is not in use: so the adversarial stage and ONNX graphs mix numbers of
        codebooks in a batch. `Tokenizer.decode` refuses it before it gets here.
        """


Make = Callable[[TokenizerConfig], nn.Module]
BUILT_IN: dict[str, Make] = {"residual_vq": ResidualQuantizer, "fsq": FiniteScalarQuantizer}
_registered: dict[str, Make] = {}


def register_quantizer(kind: str, make: Make) -> None:
    """Add a kind of quantizer of your own for this process.

    Args:
        kind: what `quantizer` in config.json names it.
        make: a class, or a function of `TokenizerConfig`, that returns a `Quantizer` which is an nn.Module. Its
            settings are `config.quantizer_settings`.

    Raises:
        ValueError: where the kind is one of mimotok's own.

    Example:
        >>> from mimotok.model.quantizer import ResidualQuantizer
        >>> register_quantizer("my_kind", ResidualQuantizer)
    """
    if kind in BUILT_IN:
        raise ValueError(f"kind={kind!r}: mimotok has one of this name; give yours another")
    _registered[kind] = make


def is_known(kind: str) -> bool:
    """Return whether models with a quantizer of this kind can be built in this process."""
    return kind in BUILT_IN or kind in _registered


def require_kind(kind: str) -> Make:
    """Return what makes a quantizer of this kind. Raises ValueError, with the remedy, where it is not registered."""
    found = BUILT_IN.get(kind) or _registered.get(kind)
    if found is None:
        known = ", ".join([*BUILT_IN, *_registered])
        raise ValueError(
            f"quantizer={shortened(kind)}: known here are {known}; before, in your own process, call "
            f"mimotok.register_quantizer({shortened(kind)}, YourClass) (docs/extend.md)"
        )
    return found


def make_quantizer(config: TokenizerConfig) -> nn.Module:
    """Build a model's quantizer. Raises ValueError for an unknown kind and for settings that do not fit it."""
    return require_kind(config.quantizer)(config)
