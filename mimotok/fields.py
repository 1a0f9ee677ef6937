"""Fields of a settings file with their type and limits beside them, and the one check of all of them.

Settings come from strangers. A field's limits stand where the field is declared, so that none can be without:

    @dataclass(frozen=True)
    class Settings:
        layers: int = whole(4, 1, 256)
        causal: bool = flag(False)
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mimotok.io.terminal.streams import shortened

_LIMITS = "limits"


class Limits(Protocol):
    """The limits of a field."""

    def allow(self, value: Any) -> bool:
        """Return whether the field may hold the value."""

    def remedy(self) -> str:
        """Return what to give instead of a value that is not allowed."""


@dataclass(frozen=True)
class _Whole:
    least: int
    most: int

    def allow(self, value: Any) -> bool:
        # True and False are whole numbers to Python
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def remedy(self) -> str:
        return f"a whole number of at least {self.least} and at most {self.most}"


@dataclass(frozen=True)
class _Number:
    least: float
    most: float

    def allow(self, value: Any) -> bool:
        # whole numbers beyond what a float holds compare correctly, NaN compares as False
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.least <= value <= self.most

    def remedy(self) -> str:
        return f"a number from {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class _Flag:
    def allow(self, value: Any) -> bool:
        return isinstance(value, bool)

    def remedy(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class _Choice:
    values: tuple[str, ...]

    def allow(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.values

    def remedy(self) -> str:
        return " or ".join(self.values)


@dataclass(frozen=True)
class _Text:
    most: int

    def allow(self, value: Any) -> bool:
        return isinstance(value, str) and 1 <= len(value) <= self.most and value.isprintable()

    def remedy(self) -> str:
        return f"1 to {self.most} printable characters"


@dataclass(frozen=True)
class _Wholes:
    each: _Whole
    most: int

    def allow(self, value: Any) -> bool:
        if not isinstance(value, (list, tuple)):
            return self.each.allow(value)
        return 1 <= len(value) <= self.most and all(self.each.allow(one) for one in value)

    def remedy(self) -> str:
        return f"{self.each.remedy()}, or a list of 1 to {self.most} of them"


@dataclass(frozen=True)
class _Window:
    most: int

    def allow(self, value: Any) -> bool:
        side = _Whole(-1, self.most)
        return isinstance(value, (list, tuple)) and len(value) == 2 and all(side.allow(one) for one in value)

    def remedy(self) -> str:
        return f"[left, right] in frames, each at most {self.most}, or -1 for unlimited"


@dataclass(frozen=True)
class _Settings:
    most: int

    def allow(self, value: Any) -> bool:
        if not isinstance(value, dict) or len(value) > self.most:
            return False
        return all(_Text(64).allow(name) and self._plain(one) for name, one in value.items())

    def _plain(self, value: Any) -> bool:
        ones = value if isinstance(value, (list, tuple)) else [value]
        if len(ones) > self.most:
            return False
        return all(isinstance(one, (bool, int, float)) or _Text(256).allow(one) for one in ones)

    def remedy(self) -> str:
        return f"at most {self.most} names with a number, true, false, a text or a list of at most {self.most} of these"


@dataclass(frozen=True)
class _OrNull:
    inner: Limits

    def allow(self, value: Any) -> bool:
        return value is None or self.inner.allow(value)

    def remedy(self) -> str:
        return f"{self.inner.remedy()}, or null"


def whole(default: int, least: int, most: int) -> Any:
    """Declare a whole number from `least` to `most`."""
    return _declared(default, _Whole(least, most))


def whole_or_null(default: int | None, least: int, most: int) -> Any:
    """Declare a whole number from `least` to `most`, or None."""
    return _declared(default, _OrNull(_Whole(least, most)))


def number(default: float, least: float, most: float) -> Any:
    """Declare a finite number from `least` to `most`."""
    return _declared(default, _Number(least, most))


def number_or_null(default: float | None, least: float, most: float) -> Any:
    """Declare a finite number from `least` to `most`, or None."""
    return _declared(default, _OrNull(_Number(least, most)))


def flag(default: bool) -> Any:
    """Declare a bool."""
    return _declared(default, _Flag())


def choice(default: str, *others: str) -> Any:
    """Declare one of these texts."""
    return _declared(default, _Choice((default, *others)))


def text(default: str, most: int) -> Any:
    """Declare a printable text of 1 to `most` characters."""
    return _declared(default, _Text(most))


def wholes(default: tuple[int, ...], least: int, most: int, *, most_entries: int) -> Any:
    """Declare a whole number from `least` to `most`, or a list of up to `most_entries` such."""
    return _declared(default, _Wholes(_Whole(least, most), most_entries))


def window(default: tuple[int, int], most: int) -> Any:
    """Declare a window (left, right) of attention: each side from 0 to `most`, or -1."""
    return _declared(default, _Window(most))


def settings(most: int) -> Any:
    """Declare up to `most` named plain values, or lists of up to `most` such; none by default."""
    return dataclasses.field(default_factory=dict, metadata={_LIMITS: _Settings(most)})


def check_fields(settings: Any, titles: Mapping[str, str] | None = None) -> None:
    """Check every field of a dataclass that was declared with limits.

    titles: what users call a field, where that is not its name. Raises ValueError, naming the field, its value and what
    it may hold.
    """
    for field in dataclasses.fields(settings):
        limits: Limits | None = field.metadata.get(_LIMITS)
        value = getattr(settings, field.name)
        if limits is not None and not limits.allow(value):
            title = (titles or {}).get(field.name, field.name)
            raise ValueError(f"{title}={shortened(value)}: give {limits.remedy()}")


def limits_of(settings: type) -> dict[str, str]:
    """Return what each field of a dataclass may hold, in words; fields without limits are left out."""
    fields = dataclasses.fields(settings)
    return {field.name: field.metadata[_LIMITS].remedy() for field in fields if _LIMITS in field.metadata}


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelt one is most like, or None where none is."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return matches[0] if matches else None


def _declared(default: Any, limits: Limits) -> Any:
    return dataclasses.field(default=default, metadata={_LIMITS: limits})
