"""Plain values as JSON, and when two of them are the same. Used inside the jails too: standard library only.

JSON alone would turn a tuple into a list and the key 1 into "1", so every container carries its kind:

    None, True, 3, 0.5, "a"     themselves
    [1, (2,)]                   ["list", 1, ["tuple", 2]]
    {1: "a"}                    ["dict", [1, "a"]]
    {1, 2}                      ["set", 1, 2]
    inf                         ["float", "inf"]

What comes out of a jail is only ever read by `json.loads`, checked by `sound`, and compared here, outside.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64
MAX_SIZE = 1 << 22  # members and characters of one value

_KINDS: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "set", dict: "dict"}
_FLOATS = ("nan", "inf", "-inf")


class NotPlain(ValueError):
    """A value that is no plain data (a subclass is none), too deep or too large; one that holds itself is too deep."""


def encode(value: Any, size: int = MAX_SIZE) -> Any:
    """The value as JSON data. Types are compared exactly, so that no method of the value's own class ever runs.

    `size` bounds its members and characters, each counted as often as it is reached: a small value can hold the same
    list twice, sixty times over.

    Raises:
        NotPlain: see there.
    """
    left = [size]

    def go(value: Any, depth: int) -> Any:
        kind = type(value)
        left[0] -= 1 + (len(value) if kind is str else value.bit_length() // 3 if kind is int else 0)
        if left[0] < 0:
            raise NotPlain(f"a value of more than {size} members and characters")
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else ["float", str(value)]
        if kind not in _KINDS:
            raise NotPlain(f"a value of type {kind.__name__[:40]}")
        if depth >= MAX_DEPTH:
            raise NotPlain(f"a value nested deeper than {MAX_DEPTH}")
        if kind is dict:
            return ["dict", *([go(k, depth + 1), go(v, depth + 1)] for k, v in value.items())]
        return [_KINDS[kind], *(go(v, depth + 1) for v in value)]

    return go(value, 0)


def decode(data: Any) -> Any:
    """The inverse of `encode`, for sound data."""
    if not isinstance(data, list):
        return data
    kind, *rest = data
    if kind == "float":
        return float(rest[0])
    if kind == "dict":
        return {_hashable(decode(k)): decode(v) for k, v in rest}
    if kind == "set":
        return {_hashable(decode(v)) for v in rest}
    return tuple(map(decode, rest)) if kind == "tuple" else list(map(decode, rest))


def _hashable(value: Any) -> Any:
    return frozenset(value) if isinstance(value, set) else value


def sound(data: Any, depth: int = 0) -> bool:
    """Whether JSON data of unknown origin has the shape that `encode` gives."""
    if not isinstance(data, list):
        return data is None or isinstance(data, bool | int | str) or (isinstance(data, float) and math.isfinite(data))
    if not data or depth >= MAX_DEPTH or not isinstance(data[0], str):
        return False
    kind, *rest = data
    if kind == "float":
        return len(rest) == 1 and rest[0] in _FLOATS
    if kind == "dict":
        return all(isinstance(p, list) and len(p) == 2 and all(sound(x, depth + 1) for x in p) for p in rest)
    return kind in _KINDS.values() and all(sound(x, depth + 1) for x in rest)


def _text(data: Any) -> str:
    """One text for equal data: members of sets and entries of dicts in an order of their own."""
    if not isinstance(data, list):
        return json.dumps(data)
    parts = [f"{_text(x[0])}:{_text(x[1])}" if data[0] == "dict" else _text(x) for x in data[1:]]
    return f"{data[0]}({','.join(sorted(parts) if data[0] in ('dict', 'set') else parts)})"


def same(want: Any, got: Any, tolerance: float | None = None) -> bool:
    """Whether `got` is `want`, both encoded: kind, length and every member.

    True is not 1 and 1 is not 1.0. With a tolerance, two numbers are the same if they differ by no more than it, absolutely
    or relatively; in sets and keys it does not count. A list is wanted of every answer that JSON can state, so a
    tuple passes for it; a list does not pass for a tuple. NaN is NaN.
    """
    if isinstance(want, list) != isinstance(got, list):
        return False
    if not isinstance(want, list):
        return _same_scalar(want, got, tolerance)
    if want[0] != got[0] and (want[0], got[0]) != ("list", "tuple"):
        return False
    if len(want) != len(got):
        return False
    if want[0] in ("set", "float"):
        return _text(want) == _text(got)
    if want[0] == "dict":
        theirs = {_text(k): v for k, v in got[1:]}
        return len(theirs) == len(want) - 1 and all(
            (key := _text(k)) in theirs and same(v, theirs[key], tolerance) for k, v in want[1:]
        )
    return all(same(w, g, tolerance) for w, g in zip(want[1:], got[1:], strict=True))


def _same_scalar(want: Any, got: Any, tolerance: float | None) -> bool:
    if tolerance is not None and type(want) in (int, float) and type(got) in (int, float):
        return _near(want, got, tolerance)
    if type(want) is not type(got):
        return False
    return bool(want == got)


def _near(want: float, got: float, tolerance: float) -> bool:
    try:
        want, got = float(want), float(got)
    except OverflowError:  # whole numbers beyond the floats
        return want == got
    return math.isclose(want, got, rel_tol=tolerance, abs_tol=tolerance)


def same_text(want: str, got: str, tolerance: float | None = None) -> bool:
    """Whether two outputs are the same line by line; spaces at the ends of lines and empty lines at the end do not count.

    With a tolerance, words that are numbers on both sides are compared as such.
    """
    wanted, given = (_lines(text) for text in (want, got))
    if tolerance is None or wanted == given:
        return wanted == given
    if len(wanted) != len(given):
        return False
    rows = zip((line.split() for line in wanted), (line.split() for line in given), strict=True)
    return all(
        len(w) == len(g) and all(a == b or _near_words(a, b, tolerance) for a, b in zip(w, g, strict=True))
        for w, g in rows
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _near_words(want: str, got: str, tolerance: float) -> bool:
    try:
        return _near(float(want), float(got), tolerance)
    except ValueError:
        return False
