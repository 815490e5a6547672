"""Expressions without sympy and without `eval`: a small parser for LaTeX and plain text, and values by exact fractions
or, where a number is irrational, by 100 digits.

Two expressions are the same if they agree at points that are drawn from a hash of both, so that no answer can be made
to agree at known ones. Sizes are bounded before anything is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Any

import mpmath

from incentive.records import hash64

CHARS = 2000  # of an expression
DEPTH, NODES = 40, 600
DIGITS = 1000  # of a written number
BITS = 200_000  # of an exact value, and of the size of any other
POINTS = 6
DPS = 100

Node = tuple[Any, ...]  # (kind, ...): num, var, const, add, mul, div, neg, pow, root, fn, fact, binom, pct
Value = Any  # Fraction or a number of _MP


class Unreadable(ValueError):
    """The text is no expression that this parser knows."""


class TooLarge(Unreadable):
    """The expression or its value is beyond the bounds."""


_MP = mpmath.mp.clone()
_MP.dps = DPS
_TINY, _CLOSE_TO = _MP.mpf(10) ** -70, _MP.mpf(10) ** -25

_NAMES = (
    "arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh sin cos tan cot sec csc sqrt log ln exp abs pi"
).split()
_TOKEN = re.compile(
    rf"\s*(?:(?P<num>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|\\(?P<cmd>[a-zA-Z]+|[^a-zA-Z])|(?P<name>(?:{'|'.join(_NAMES)})(?![a-z]))"
    r"|(?P<var>[a-zA-Z])|(?P<sym>[-+*/^_!%|(){}\[\]]))"
)
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar".split()
)
_FUNCTIONS = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
              "log": "ln", "lg": "log10"}  # fmt: skip
_KNOWN = frozenset("sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh ln log10 exp abs".split())
_CLOSE = {"(": ")", "[": "]", "{": "}"}


@dataclass(slots=True)
class _Parser:
    """Recursive descent over tokens `(kind, text)`; every step down is counted."""

    tokens: list[tuple[str, str]]
    at: int = 0
    depth: int = 0
    nodes: int = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def symbol(self, *texts: str) -> bool:
        kind, text = self.peek()
        return kind == "sym" and text in texts

    def expect(self, text: str) -> None:
        if not self.symbol(text):
            raise Unreadable(f"{text!r} is missing")
        self.at += 1

    def node(self, *parts: Any) -> Node:
        self.nodes += 1
        if self.nodes > NODES:
            raise TooLarge(f"more than {NODES} parts")
        return parts

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEPTH:
            raise TooLarge(f"nested deeper than {DEPTH}")
        left = self.signed()
        while self.symbol("+", "-"):
            sign = self.take()[1]
            right = self.signed()
            left = self.node("add", left, right if sign == "+" else self.node("neg", right))
        self.depth -= 1
        return left

    def signed(self) -> Node:
        """A product with its signs in front."""
        negative = False
        while self.symbol("+", "-"):
            negative ^= self.take()[1] == "-"
        product = self.product()
        return self.node("neg", product) if negative else product

    def product(self) -> Node:
        left = self.power()
        while True:
            if self.symbol("*", "/") or self.peek() in (("cmd", "cdot"), ("cmd", "times"), ("cmd", "div")):
                divide = self.take()[1] in ("/", "div")
                negative = False
                while self.symbol("+", "-"):
                    negative ^= self.take()[1] == "-"
                right = self.power()
                left = self.node("div" if divide else "mul", left, self.node("neg", right) if negative else right)
            elif self.starts():
                mixed = left[0] == "num" and left[1].denominator == 1 and left[2] is None
                number = self.peek()[0] == "num"
                right = self.power()
                if mixed and _proper(right) or mixed and number and self.symbol("/"):
                    if number:  # 3 1/2
                        self.take()
                        right = self.node("div", right, self.power())
                        if not _proper(right):
                            raise Unreadable("two numbers in a row")
                    left = self.node("add", left, right)
                elif number:
                    raise Unreadable("two numbers in a row")
                else:
                    left = self.node("mul", left, right)
            else:
                return left

    def starts(self) -> bool:
        """The next token begins a factor, so that a product is meant."""
        kind, text = self.peek()
        if kind == "cmd":
            return text not in ("cdot", "times", "div", "end")
        return kind in ("num", "var", "name") or (kind == "sym" and text in "({[")

    def power(self) -> Node:
        base = self.atom()
        while self.symbol("!", "%") or self.peek() == ("cmd", "%"):
            base = self.node("fact" if self.take()[1] == "!" else "pct", base)
        if self.symbol("^"):
            self.take()
            base = self.node("pow", base, self.exponent())
            while self.symbol("!"):
                self.take()
                base = self.node("fact", base)
        return base

    def exponent(self) -> Node:
        if self.symbol("{"):
            return self.group()
        negative = False
        while self.symbol("+", "-"):
            negative ^= self.take()[1] == "-"
        self.depth += 1
        if self.depth > DEPTH:
            raise TooLarge(f"nested deeper than {DEPTH}")
        power = self.power()
        self.depth -= 1
        return self.node("neg", power) if negative else power

    def group(self) -> Node:
        open_ = self.take()[1]
        inner = self.sum()
        self.expect(_CLOSE[open_])
        return inner

    def argument(self) -> Node:
        """What follows \\frac and \\sqrt: a group, or a single digit or letter."""
        if self.symbol("{"):
            return self.group()
        kind, text = self.peek()
        if kind == "num" and len(text) > 1:
            self.tokens[self.at] = ("num", text[1:])
            return self.node("num", Fraction(int(text[0])), None) if text[0] != "." else self.fail()
        return self.atom()

    def fail(self) -> Node:
        raise Unreadable(f"{self.peek()[1]!r} is out of place")

    def atom(self) -> Node:
        kind, text = self.peek()
        if kind == "sym" and text in "({[":
            return self.group()
        if kind == "sym" and text == "|":
            self.take()
            inner = self.sum()
            self.expect("|")
            return self.node("fn", "abs", inner)
        self.take()
        if kind == "num":
            return self.number(text)
        if kind == "var":
            return self.variable(text)
        if kind in ("cmd", "name"):
            return self.command(text)
        self.at -= 1
        return self.fail()

    def number(self, text: str) -> Node:
        if len(text) > DIGITS:
            raise TooLarge(f"a number of more than {DIGITS} digits")
        places = len(text.partition(".")[2]) if "." in text else None
        value = Fraction(int(text.replace(".", "") or "0"), 10 ** (places or 0))
        if self.symbol("_"):
            raise Unreadable("a number with an index")
        return self.node("num", value, places)

    def variable(self, name: str) -> Node:
        if self.symbol("_"):
            self.take()
            if self.symbol("{"):
                self.take()
                index = ""
                while not self.symbol("}"):
                    kind, text = self.take()
                    if kind not in ("num", "var") or len(index) > 20:
                        raise Unreadable("an index that is no name")
                    index += text
                self.take()
            else:
                kind, index = self.take()
                if kind not in ("num", "var"):
                    raise Unreadable("an index that is no name")
            return self.node("var", f"{name}_{index}")
        return self.node("const", name) if name in ("e", "i") else self.node("var", name)

    def command(self, name: str) -> Node:
        if name == "pi":
            return self.node("const", "pi")
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            above = self.argument()
            return self.node("div", above, self.argument())
        if name in ("binom", "dbinom", "tbinom"):
            above = self.argument()
            return self.node("binom", above, self.argument())
        if name == "sqrt":
            if self.symbol("["):
                self.take()
                degree = self.sum()
                self.expect("]")
                return self.node("root", self.argument(), degree)
            return self.node("root", self.argument(), self.node("num", Fraction(2), None))
        if name in ("lfloor", "lceil"):
            inner = self.sum()
            if self.take() != ("cmd", "r" + name[1:]):
                raise Unreadable("a bracket is missing")
            return self.node("fn", name[1:], inner)
        if name in ("lvert", "vert"):
            inner = self.sum()
            if self.take()[1] not in ("rvert", "vert"):
                raise Unreadable("a bracket is missing")
            return self.node("fn", "abs", inner)
        if name in _GREEK:
            return self.variable(name)
        function = _FUNCTIONS.get(name, name)
        if function not in _KNOWN:
            raise Unreadable(f"unknown \\{name}")
        return self.function(function)

    def function(self, name: str) -> Node:
        base = power = None
        if self.symbol("_") and name == "ln":
            self.take()
            base = self.argument()
        if self.symbol("^"):
            self.take()
            power = self.exponent()
            if power == ("neg", ("num", Fraction(1), None)):
                raise Unreadable("the inverse of a function")  # may mean 1/f too
        value = self.node("fn", name, self.operand())
        if base is not None:
            value = self.node("div", value, self.node("fn", "ln", base))
        return value if power is None else self.node("pow", value, power)

    def operand(self) -> Node:
        """A function's argument without brackets reaches to the next sign or function: sin 2x, ln 2 sin x."""
        if self.symbol("(", "{", "|"):
            return self.power() if self.symbol("|") else self.group()
        self.depth += 1
        if self.depth > DEPTH:
            raise TooLarge(f"nested deeper than {DEPTH}")
        value = self.power()
        while self.starts() and not self.symbol("(", "[") and not self.calls():
            value = self.node("mul", value, self.power())
        self.depth -= 1
        return value

    def calls(self) -> bool:
        kind, text = self.peek()
        return kind in ("cmd", "name") and _FUNCTIONS.get(text, text) in _KNOWN


def _proper(node: Node) -> bool:
    """A fraction of whole numbers below 1, as in 2\\frac{1}{3}."""
    return node[0] == "div" and all(n[0] == "num" and n[2] is None for n in node[1:]) and 0 < node[1][1] < node[2][1]


def parse(text: str) -> Node:
    """The expression of a text.

    Raises:
        Unreadable: it is none. TooLarge: it is beyond the bounds.
    """
    if len(text) > CHARS:
        raise TooLarge(f"more than {CHARS} characters")
    tokens, at, end = [], 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if not found:
            raise Unreadable(f"{text[at : at + 10]!r} is no mathematics")
        tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
        at = found.end()
    if not tokens:
        raise Unreadable("empty")
    parser = _Parser(tokens)
    node = parser.sum()
    if parser.at < len(tokens):
        parser.fail()
    return node


# values


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


def _evaluate(node: Node, point: dict[str, Fraction]) -> tuple[Value, Value] | None:
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
        g = _evaluate(gold, point)
        if g is None or (names and abs(_MP.im(_mp(g[0]))) > _TINY * g[1] and not _complex(gold)):
            continue
        a = _evaluate(answer, point)
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
    g = None if variables(gold) else _evaluate(gold, {})
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
