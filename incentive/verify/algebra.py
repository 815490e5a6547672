"""Expressions as trees: a small parser for LaTeX and plain text, without sympy and without `eval`. Sizes are bounded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

CHARS = 2000  # of an expression
DEPTH, NODES = 40, 600
DIGITS = 1000  # of a written number

Node = tuple[Any, ...]  # (kind, ...): num, var, const, add, mul, div, neg, pow, root, fn, fact, binom, pct


class Unreadable(ValueError):
    """The text is no expression that this parser knows."""


class TooLarge(Unreadable):
    """The expression or its value is beyond the bounds."""


# longer names first
NAMES = [
    "arcsin",
    "arccos",
    "arctan",
    "arccot",
    "arcsec",
    "arccsc",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "sqrt",
    "log",
    "ln",
    "exp",
    "abs",
    "pi",
]
_TOKEN = re.compile(
    rf"\s*(?:(?P<num>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|\\(?P<cmd>[a-zA-Z]+|[^a-zA-Z])|(?P<name>(?:{'|'.join(NAMES)})(?![a-z]))"
    r"|(?P<var>[a-zA-Z])|(?P<sym>[-+*/^_!%|(){}\[\]]))"
)
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar".split()  # noqa: SIM905
)
_FUNCTIONS = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
              "log": "ln", "lg": "log10"}  # fmt: skip
_KNOWN = frozenset(
    "sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh ln log10 exp abs".split()  # noqa: SIM905
)
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
                if (mixed and proper(right)) or (mixed and number and self.symbol("/")):
                    if number:  # 3 1/2
                        self.take()
                        right = self.node("div", right, self.power())
                        if not proper(right):
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


def proper(node: Node) -> bool:
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
