"""Damage: to bytes, and to JSON values. All of it follows from a seeded generator."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

INTEGERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3.5, -0.0, 1e9, 1e308, float("inf"), float("nan"), 10**9, 2**62, 2**64, 10**400,
    "", "x", "8", "../../etc/passwd", "/dev/zero", "\u202e\x1b[2J\ud800", "a" * 300, "file:///dev/zero",
    "http://[", "memory://a::b", [], [1], [[[]]], [1, 1], [-1, -1], [10**6, 10**6], {}, {"a": {}},
)  # fmt: skip


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return the bytes with one to six changes; others: what parts are taken from."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_CHANGES)(rng, changed, others)
    return bytes(changed)


def changed_value(rng: random.Random, value: Any) -> Any:
    """Return a copy of a JSON value with one to three parts replaced, removed, nested or repeated."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    inner: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not inner or rng.random() < 0.05:
        return rng.choice((copy.deepcopy(rng.choice(VALUES)), [value], {"a": value}, [value] * rng.choice((2, 300))))
    key = rng.choice(inner)
    if rng.random() < 0.6:
        value[key] = copy.deepcopy(rng.choice(VALUES)) if rng.random() < 0.7 else _near(rng, value[key])
    elif rng.random() < 0.3:
        del value[key]
    else:
        value[key] = _changed(rng, value[key])
    return value


def _near(rng: random.Random, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return rng.choice(
            (value + 1, value - 1, -value, value * 2, value // 2 if value == value else 0, value * 1000, str(value))
        )
    if isinstance(value, str):
        return value[: rng.randrange(len(value) + 1)] + rng.choice(("", "\0", ".", "/", "\n", value))
    return [value]


def _place(rng: random.Random, data: bytearray) -> int:
    # headers are where sizes stand
    return rng.randrange(min(len(data), rng.choice((16, 64, 512, 1 << 30))) or 1)


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    size = rng.choice((1, 2, 4, 8))
    place = _place(rng, data)
    value = rng.choice(INTEGERS) & ((1 << 8 * size) - 1)
    data[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _delete(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = _place(rng, data)
    del data[place : place + rng.choice((1, 2, 4, 16, 512))]


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = _place(rng, data)
    part = bytes(data[place : place + rng.choice((1, 8, 64, 512))])
    data[place:place] = part * rng.choice((1, 2, 50))


def _random(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = _place(rng, data)
    data[place : place + rng.choice((0, 8))] = rng.randbytes(rng.choice((1, 4, 32)))


def _splice(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    if others:
        other = rng.choice(others)
        data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


_CHANGES = (_flip, _flip, _number, _number, _number, _delete, _cut, _repeat, _random, _splice)
