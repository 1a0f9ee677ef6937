"""Arguments of stages as plain values in a checkpoint, and back by the types that our own code declares.

A checkpoint holds dicts, lists, texts and numbers. Which classes they become is written in the signatures of the stages
alone: no name of a class is stored, and none is read.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Union


def to_plain(value: Any) -> Any:
    """Return dicts, lists, texts and numbers that stand for `value`, dataclasses included.

    Raises TypeError for an object of any other kind.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain value")


def arguments_of(function: Callable[..., Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved arguments that `function` takes, each as its annotation says; others are left out."""
    names = inspect.signature(function).parameters
    kinds = typing.get_type_hints(function)
    return {name: from_plain(kinds.get(name, Any), value) for name, value in saved.items() if name in names}


def from_plain(kind: Any, value: Any) -> Any:
    """Return what `to_plain` made `value` of, as the annotation `kind` says; a list becomes a tuple.

    Raises TypeError where none of the classes in `kind` takes the arguments in `value`.
    """
    if isinstance(value, list):
        return tuple(from_plain(Any, item) for item in value)
    if not isinstance(value, dict):
        return value
    choices = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    if any(choice is Any or typing.get_origin(choice) is dict for choice in choices):
        return value
    for choice in choices:
        if _takes(choice, value):
            return choice(**arguments_of(choice.__init__, value))
    raise TypeError(f"no settings with {', '.join(sorted(map(str, value)))}")


def _takes(kind: Any, value: dict[str, Any]) -> bool:
    """Return whether a class, declared in our own code, has all of these arguments."""
    if not isinstance(kind, type) or kind in (str, int, float, bool, type(None)):
        return False
    return set(value) <= set(inspect.signature(kind).parameters)
