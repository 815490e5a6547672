"""When two expressions have the same value: by exact fractions or, where a number is irrational, by 100 digits.

Expressions with variables are the same if they agree at points that are drawn from a hash of both, so that no answer
can be made to agree at known ones. Sizes are bounded before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Any

import mpmath

from incentive.records import hash64
from incentive.verify.algebra import Node, TooLarge

BITS = 200_000  # of an exact value, and of the size of any other
POINTS = 6
DPS = 100

Value = Any  # Fraction or a number of _MP

_MP = mpmath.mp.clone()
_MP.dps = DPS
_TINY, _CLOSE_TO = _MP.mpf(10) ** -70, _MP.mpf(10) ** -25


@dataclass(slots=True)
class _At:
    """Evaluation at a point; `scale` is the largest size met, which says how far rounding can reach."""

    point: dict[str, Fraction]
    scale: Value = field(default_factory=lambda: _MP.mpf(0))

    def value(self, node: Node) -> Value:
        """Raises ZeroDivisionError or ValueError where there is no value."""
        kind = node[0]
        if kind == "num":
            result: Value = node[1]
        elif kind == "var":
            result = self.point[node[1]]
        elif kind == "const":
            result = {"pi": _MP.pi, "e": _MP.e, "i": _MP.mpc(0, 1)}[node[1]] * 1
        else:
            result = self._apply(node, [self.value(n) for n in node[1:] if isinstance(n, tuple)])
        return self._bounded(result)

    def _bounded(self, value: Value) -> Value:
        if isinstance(value, Fraction):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > 2 * BITS:
                raise TooLarge("the value is too large")
            if value and abs(value.numerator.bit_length() - value.denominator.bit_length()) < 3000:
                self.scale = max(self.scale, abs(_mp(value)))
            return value
        if not _MP.isfinite(value):
            raise ValueError("no finite value")
        if value and abs(_MP.mag(value)) > BITS:
            raise TooLarge("the value is too large")
        self.scale = max(self.scale, abs(value))
        return value

    def _apply(self, node: Node, v: list[Value]) -> Value:
        kind = node[0]
        if kind == "neg":
            return -v[0]
        if kind == "pct":
            return v[0] / 100
        if kind in ("add", "mul", "div"):
            a, b = _alike(v[0], v[1])
            return a + b if kind == "add" else a * b if kind == "mul" else a / b
        if kind == "pow":
            return _power(v[0], v[1])
        if kind == "root":
            return _root(v[0], v[1])
        if kind == "fact":
            return Fraction(math.factorial(_whole(v[0], 5000)))
        if kind == "binom":
            return Fraction(math.comb(_whole(v[0], 5000), _whole(v[1], 5000)))
        return _function(node[1], v[0])


def _mp(value: Value) -> Value:
    return _MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _alike(a: Value, b: Value) -> tuple[Value, Value]:
    return (a, b) if isinstance(a, Fraction) and isinstance(b, Fraction) else (_mp(a), _mp(b))


def _whole(value: Value, most: int) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise ValueError("not a whole number")
    if value > most:
        raise TooLarge(f"{value} is too large")
    return int(value)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * size > BITS:
            raise TooLarge("the power is too large")
        if not base and exponent <= 0:
            raise ZeroDivisionError("0 to a power of 0 or less")
        return base ** int(exponent)
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator <= 64 and base > 0:
        exact = _exact_root(base, exponent.denominator)
        if exact is not None:
            return _power(exact, Fraction(exponent.numerator))
    b, x = _mp(base), _mp(exponent)
    if not b:
        raise ZeroDivisionError("a power of 0")
    if abs(x) * (abs(_MP.mag(b)) + 1) > BITS:
        raise TooLarge("the power is too large")
    return _MP.power(b, x)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The positive root where it is a fraction."""
    parts = []
    for n in (value.numerator, value.denominator):
        if n.bit_length() > 4000:
            return None
        root = math.isqrt(n) if degree == 2 else int(_MP.nint(_MP.root(n, degree))) if n.bit_length() < 300 else -1
        if root < 0 or root**degree != n:
            return None
        parts.append(root)
    return Fraction(parts[0], parts[1])


def _root(value: Value, degree: Value) -> Value:
    n = _whole(degree, 64)
    if n == 0:
        raise ValueError("a root of degree 0")
    if isinstance(value, Fraction):
        if value == 0:
            return value
        exact = _exact_root(abs(value), n)
        if value < 0 and n % 2:
            return -exact if exact is not None else -_MP.root(_mp(-value), n)
        if value > 0 and exact is not None:
            return exact
    v = _mp(value)
    if n % 2 and _MP.im(v) == 0 and v < 0:  # the real root, as schools have it
        return -_MP.root(-v, n)
    return _MP.root(v, n)


def _function(name: str, value: Value) -> Value:
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        if isinstance(value, Fraction):
            return Fraction(math.floor(value) if name == "floor" else math.ceil(value))
        return getattr(_MP, name)(value)
    v = _mp(value)
    if v and _MP.mag(v) > (17 if name in ("exp", "sinh", "cosh", "tanh") else 3000):
        raise TooLarge(f"{name} of a large number")
    if name in ("ln", "log10") and not v:
        raise ZeroDivisionError("the logarithm of 0")
    return getattr(_MP, name)(v)


def variables(node: Node) -> set[str]:
    found: set[str] = set()
    stack = [node]
    while stack:
        n = stack.pop()
        if n[0] == "var":
            found.add(n[1])
        stack.extend(p for p in n[1:] if isinstance(p, tuple))
    return found


def _points(names: list[str], seed: int) -> Iterator[dict[str, Fraction]]:
    """Two points of positive values, then of mixed signs, then of negative ones."""
    random = Random(seed)
    for i in range(POINTS):
        yield {
            name: Fraction(random.randint(301, 2999), 1009) * (1 if i < 2 else -1 if i >= 4 else random.choice((-1, 1)))
            for name in names
        }


def evaluate(node: Node, point: dict[str, Fraction]) -> tuple[Value, Value] | None:
    """(value, scale), None where there is none."""
    at = _At(point)
    try:
        return at.value(node), at.scale
    except TooLarge:
        raise
    except (ZeroDivisionError, ValueError, OverflowError, TypeError, _MP.NoConvergence):
        return None


def _agree(a: tuple[Value, Value], b: tuple[Value, Value]) -> bool:
    x, y = a[0], b[0]
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    rounding = _TINY * max(a[1], b[1])
    if rounding > _CLOSE_TO * max(1, abs(_mp(x)), abs(_mp(y))):
        return False  # digits were lost on the way, as in sin(10^500): nothing is known
    return abs(_mp(x) - _mp(y)) <= rounding


def ratios(gold: Node, answer: Node) -> Iterator[tuple[Value, Value] | None]:
    """Values of both at points where the gold has a real one; the answer's None where it has none there."""
    names = sorted(variables(gold) | variables(answer))
    seed = hash64("points", gold, answer)
    for point in _points(names, seed) if names else [{}]:
        g = evaluate(gold, point)
        if g is None or (names and abs(_MP.im(_mp(g[0]))) > _TINY * g[1] and not _complex(gold)):
            continue
        a = evaluate(answer, point)
        yield None if a is None else (g, a)


def _complex(node: Node) -> bool:
    return node == ("const", "i") or any(_complex(n) for n in node[1:] if isinstance(n, tuple))


def same(gold: Node, answer: Node) -> bool | None:
    """Whether two expressions have the same value; None where the gold has none that can be told.

    Raises:
        TooLarge: a value is beyond the bounds.
    """
    pairs = list(ratios(gold, answer))
    if not pairs or (variables(gold) and len(pairs) < 2):
        return None
    return all(p is not None and _agree(*p) for p in pairs)


def proportional(gold: Node, answer: Node, positive: bool) -> bool | None:
    """Whether answer = c * gold with one c other than 0 (above 0 where `positive`): equations and inequalities."""
    factor: Value = None
    count = 0
    for pair in ratios(gold, answer):
        if pair is None:
            return False
        (g, g_scale), (a, a_scale) = pair
        if abs(_mp(g)) <= _TINY * g_scale:
            continue
        c = _mp(a) / _mp(g)
        if abs(c) <= _TINY * max(a_scale, 1) or (positive and not (_MP.im(c) == 0 and _MP.re(c) > 0)):
            return False
        if factor is not None and abs(c - factor) > _TINY * (1 + abs(c)) * max(g_scale, a_scale, 1):
            return False
        factor, count = c, count + 1
    return True if count >= 2 or (count and not variables(gold)) else None


def approximates(gold: Node, answer: Node) -> bool:
    """The answer is a decimal that rounds a constant with no short decimal form, to six places and digits or more."""
    number, sign = (answer[1], -1) if answer[0] == "neg" else (answer, 1)
    if number[0] != "num" or (number[2] or 0) < 6 or number[1] * 10 ** number[2] < 10**5 or decimal(gold):
        return False
    g = None if variables(gold) else evaluate(gold, {})
    if g is None or (isinstance(g[0], Fraction) and terminates(g[0])):
        return False
    return abs(_mp(g[0]) - sign * _mp(number[1])) <= _MP.mpf(10) ** -number[2] / 2


def decimal(node: Node) -> bool:
    """Written with a decimal point somewhere."""
    if node[0] == "num":
        return node[2] is not None
    return any(decimal(n) for n in node[1:] if isinstance(n, tuple))


def terminates(value: Fraction) -> bool:
    d = value.denominator
    for p in (2, 5):
        while d % p == 0:
            d //= p
    return d == 1
