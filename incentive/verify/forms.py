"""Answers that are more than one expression: lists, sets, intervals, matrices, equations. Our own reading of them.

A text has one reading, whatever the gold answer is, so that an answer that hedges ("1 or 2") is a list and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from incentive.verify import algebra
from incentive.verify.algebra import Node, TooLarge, Unreadable

PARTS = 60  # of a list, cells of a matrix


@dataclass(frozen=True, slots=True)
class Scalar:
    node: Node


@dataclass(frozen=True, slots=True)
class Words:
    """Letters only, as in "Evelyn" or "odd"."""

    text: str


@dataclass(frozen=True, slots=True)
class Many:
    """`{...}` is a set, `(...)` and `[...]` are in order, no bracket is a list in any order."""

    open: str
    parts: tuple[Form, ...]
    close: str


@dataclass(frozen=True, slots=True)
class Union:
    parts: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Form, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`name` is the text left of the first sign where it only names something: `x`, `f(x)`."""

    name: str
    signs: tuple[str, ...]
    sides: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Digits:
    """A number in a stated base."""

    digits: str
    base: int


Form = Scalar | Words | Many | Union | Matrix | Relation | Digits

_PAIRS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_BRACKET = re.compile(r"\\[{}]|\\[a-zA-Z]+|[()\[\]{}]|.", re.DOTALL)
_SIGN = re.compile(r"\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt|neq|ne)(?![a-zA-Z])|<=|>=|!=|==|[<>=≤≥≠]")
_SIGNS = {"leqslant": "<=", "leq": "<=", "le": "<=", "≤": "<=", "geqslant": ">=", "geq": ">=", "ge": ">=", "≥": ">=", "lt": "<",
          "gt": ">", "neq": "!=", "ne": "!=", "≠": "!=", "==": "="}  # fmt: skip
_MATRIX = re.compile(r"\\begin\{([bpBV]?matrix|array)\}(?:\{[clr| ]*\})?(.*?)\\end\{\1\}", re.DOTALL)
_NAME = re.compile(r"\\?[a-zA-Z]+(?:_(?:[a-zA-Z0-9]|\{[a-zA-Z0-9]{1,9}\}))?(?:\([a-zA-Z0-9, ]{1,20}\))?'?")
_BASE = re.compile(r"([0-9A-F]{1,60})_\{?([0-9]{1,2})\}?")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_INFINITE = re.compile(r"[+-]?(?:\\infty|\\infin|oo|inf|infinity)")


def top(text: str) -> list[tuple[int, str]]:
    """(position, piece) of what stands outside all brackets.

    Raises:
        Unreadable: the brackets do not match, in number; a half-open interval closes with the other kind.
    """
    found: list[tuple[int, str]] = []
    stack: list[str] = []
    for piece in _BRACKET.finditer(text):
        t = piece[0]
        if t in _PAIRS:
            stack.append(t)
            if len(stack) > algebra.DEPTH:
                raise TooLarge(f"nested deeper than {algebra.DEPTH}")
        elif t in _PAIRS.values():
            if not stack:
                raise Unreadable("a bracket closes that was not opened")
            opened = stack.pop()
            if _PAIRS[opened] != t and not {opened, t} <= {"(", ")", "[", "]"}:
                raise Unreadable("brackets do not match")
        elif not stack:
            found.append((piece.start(), t))
    if stack:
        raise Unreadable("a bracket is not closed")
    return found


def split(text: str, separators: tuple[str, ...]) -> list[str]:
    """Cut at separators outside brackets."""
    parts, start = [], 0
    for at, piece in top(text):
        if piece in separators:
            parts.append(text[start:at])
            start = at + len(piece)
    parts.append(text[start:])
    if len(parts) > PARTS:
        raise TooLarge(f"more than {PARTS} parts")
    return [p.strip() for p in parts]


def read(text: str, depth: int = 0) -> Form:
    """The form of a cleaned text (see `answers.clean`).

    Raises:
        Unreadable, TooLarge: it has none.
    """
    text = text.strip()
    if depth > 6:
        raise TooLarge("lists nested too deep")
    if not text:
        raise Unreadable("empty")
    if len(text) > algebra.CHARS:
        raise TooLarge(f"more than {algebra.CHARS} characters")
    if found := _MATRIX.fullmatch(text):
        return _matrix(found[2], depth)
    if text in (r"\emptyset", r"\varnothing", "∅"):
        return Many("{", (), "}")
    parts = split(text, (",", ";"))
    if len(parts) > 1:
        return Many("", _parts(parts, depth), "")
    if len(parts := split(text, (r"\cup", "∪"))) > 1:
        return Union(tuple(read(p, depth + 1) for p in parts))
    if len(parts := split(text, (r"\in", "∈"))) == 2:
        return read(parts[1], depth + 1)
    if inner := _enclosed(text):
        open_, body, close = inner
        if open_ == "{" or _listed(body) or close != _PAIRS[open_]:
            return Many(open_, _parts(split(body, (",", ";")), depth) if body else (), close)
    if any(m[0] in (r"\pm", r"\mp", "±") for m in _BRACKET.finditer(text)):
        return Many("", tuple(read(t, depth + 1) for t in _signs(text)), "")
    if relation := _relation(text, depth):
        return relation
    if len(parts := split(text, (":",))) > 1:
        return Many(":", _parts(parts, depth), ":")
    return _single(text)


def _parts(texts: list[str], depth: int) -> tuple[Form, ...]:
    """The forms of a list; a part with ± is two of them."""
    found: list[Form] = []
    for text in texts:
        form = read(text, depth + 1)
        found.extend(form.parts if isinstance(form, Many) and not form.open else (form,))
    return tuple(found)


def _signs(text: str) -> list[str]:
    """A text with ± as two texts, all upper signs and all lower ones."""
    upper = re.sub(r"\\pm(?![a-zA-Z])|±", "+", re.sub(r"\\mp(?![a-zA-Z])", "-", text))
    lower = re.sub(r"\\pm(?![a-zA-Z])|±", "-", re.sub(r"\\mp(?![a-zA-Z])", "+", text))
    return [upper, lower]


def _enclosed(text: str) -> tuple[str, str, str] | None:
    """(bracket, inside, bracket) where one pair spans all of the text."""
    for open_, close in ((r"\{", r"\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("{", "}")):
        if text.startswith(open_) and text.endswith(close) and len(text) > len(open_) and not top(text):
            body = text[len(open_) : -len(close)]
            try:
                top(body)
            except Unreadable:
                return None
            return open_.removeprefix("\\"), body.strip(), close.removeprefix("\\")
    return None


def _listed(body: str) -> bool:
    return any(p in (",", ";") for _, p in top(body))


def _matrix(body: str, depth: int) -> Matrix:
    rows = [r for r in re.split(r"\\\\(?:\[[^\]]{0,9}\])?|\\cr(?![a-z])", body) if r.strip()]
    cells = tuple(tuple(read(c, depth + 1) for c in r.split("&")) for r in rows)
    if not cells or len({len(r) for r in cells}) != 1:
        raise Unreadable("rows of different length")
    if len(cells) * len(cells[0]) > PARTS:
        raise TooLarge(f"more than {PARTS} cells")
    return Matrix(cells)


def _relation(text: str, depth: int) -> Relation | None:
    outside = {at for at, _ in top(text)}
    found = [m for m in _SIGN.finditer(text) if m.start() in outside]
    if not found:
        return None
    if len(found) > 6:
        raise TooLarge("more than 6 signs of relation")
    edges = [0, *(x for m in found for x in m.span()), len(text)]
    sides = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    signs = tuple(_SIGNS.get(m[0].removeprefix("\\"), m[0]) for m in found)
    name = re.sub(r"\s", "", sides[0]) if _NAME.fullmatch(sides[0]) else ""
    if name and signs[0] == "=":  # what stands left is only a name, f(x) no product
        return Relation(name, signs, (Words(name), *(read(s, depth + 1) for s in sides[1:])))
    return Relation("", signs, tuple(_single(s) for s in sides))


def _single(text: str) -> Form:
    if found := _BASE.fullmatch(text):
        base = int(found[2])
        if not 2 <= base <= 36 or any(int(d, 16) >= base for d in found[1]):
            raise Unreadable("no number in that base")
        return Digits(found[1], base)
    if _INFINITE.fullmatch(text.replace(" ", "")):
        return Words("-oo" if text.startswith("-") else "oo")
    bare = re.sub(r"\s+", " ", text)
    if _WORDS.fullmatch(bare) and len(bare) > 1 and bare not in ("pi",):
        return Words(bare)
    return Scalar(algebra.parse(text))


# comparison


def same(gold: Form, answer: Form) -> bool:
    """Whether an answer's form says the same as the gold one's.

    Raises:
        TooLarge: a value is beyond the bounds. Unreadable: the gold has no value that can be told.
    """
    gold, answer = _plain(gold), _plain(answer)
    if isinstance(gold, Relation):
        return _same_relation(gold, answer)
    if isinstance(answer, Relation):
        if _between(answer) is not None and isinstance(gold, Many | Union):
            return same(gold, _between(answer) or answer)
        return _value(answer) is not None and same(gold, _value(answer) or answer)
    if isinstance(gold, Scalar):
        return isinstance(answer, Scalar) and _same_scalar(gold.node, answer.node)
    if isinstance(gold, Words):
        return _same_words(gold, answer)
    if isinstance(gold, Digits):
        if isinstance(answer, Digits):
            return (gold.base, gold.digits.lstrip("0")) == (answer.base, answer.digits.lstrip("0"))
        return answer == Scalar(algebra.parse(gold.digits)) if gold.digits.isdigit() else False
    if isinstance(gold, Matrix):
        return (
            isinstance(answer, Matrix)
            and [len(r) for r in gold.rows] == [len(r) for r in answer.rows]
            and all(same(g, a) for r, s in zip(gold.rows, answer.rows, strict=True) for g, a in zip(r, s, strict=True))
        )
    if isinstance(gold, Union):
        return isinstance(answer, Union) and _any_order(gold.parts, answer.parts)
    return _same_many(gold, answer)


def _plain(form: Form) -> Form:
    """A list, set or union of one thing is the thing."""
    while isinstance(form, Many | Union) and len(form.parts) == 1 and getattr(form, "open", "{") in ("{", ""):
        form = form.parts[0]
    return form


def _same_scalar(gold: Node, answer: Node) -> bool:
    result = algebra.same(gold, answer)
    if result is None:
        raise Unreadable("the gold answer has no value that can be told")
    if result or algebra.approximates(gold, answer):
        return True
    if (gold[0] == "pct") != (answer[0] == "pct"):  # "what per cent": 28 and 28%
        return bool(algebra.same(*(n[1] if n[0] == "pct" else n for n in (gold, answer))))
    return False


def _same_words(gold: Words, answer: Form) -> bool:
    """Letters in the same order; `a b` may be a product, `b a` is another text."""

    def fold(text: str) -> str:
        short = re.sub(r"[\s'-]", "", text)
        return short if len(short) <= 3 else short.casefold()

    if isinstance(answer, Words):
        oo = {"oo", "-oo"} & {gold.text, answer.text}
        return gold.text == answer.text if oo else fold(gold.text) == fold(answer.text)
    return isinstance(answer, Scalar) and len(gold.text) == 2 and _same_scalar(algebra.parse(gold.text), answer.node)


def _same_many(gold: Many, answer: Form) -> bool:
    if isinstance(answer, Union) or not isinstance(answer, Many) or not gold.parts:
        return isinstance(answer, Many) and not answer.parts and not gold.parts
    g, a = gold.open + gold.close, answer.open + answer.close
    if g == "{}" and a == "{}":
        return _covers(gold.parts, answer.parts) and _covers(answer.parts, gold.parts)
    if {g, a} <= {"{}", ""}:
        return _any_order(gold.parts, answer.parts)
    if g != a and {g, a} != {"()", ""}:
        return False
    return len(gold.parts) == len(answer.parts) and all(map(same, gold.parts, answer.parts))


def _covers(gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
    return all(any(same(g, a) for g in gold) for a in answer)


def _any_order(gold: tuple[Form, ...], answer: tuple[Form, ...]) -> bool:
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for g in gold:
        at = next((i for i, a in enumerate(left) if same(g, a)), None)
        if at is None:
            return False
        del left[at]
    return True


def _value(relation: Relation) -> Form | None:
    """What `x = ... = value` gives; None where it is another relation, or a false or empty one."""
    if set(relation.signs) != {"="}:
        return None
    *before, last = relation.sides
    if relation.name:
        return None if last == Words(relation.name) or _names(last) == {relation.name} else last
    first = before[0]
    if isinstance(first, Scalar) and isinstance(last, Scalar):
        if algebra.variables(first.node):
            return None  # an equation, not a value
        return last if algebra.same(first.node, last.node) else None
    return None


def _names(form: Form) -> set[str]:
    return algebra.variables(form.node) if isinstance(form, Scalar) else set()


def _same_relation(gold: Relation, answer: Form) -> bool:
    value = _value(gold)
    if value is not None:
        if not isinstance(answer, Relation):
            return same(value, answer)
        other = _value(answer)
        return other is not None and answer.name == gold.name and same(value, other)
    interval = _between(gold)
    if not isinstance(answer, Relation):
        return interval is not None and isinstance(answer, Many | Union) and same(interval, answer)
    if interval is not None and (other_interval := _between(answer)) is not None:
        return _variable(gold) == _variable(answer) and same(interval, other_interval)
    return _same_chain(gold, answer)


def _same_chain(gold: Relation, answer: Relation) -> bool:
    """Equations that are multiples of each other; inequalities by a positive factor."""
    if len(gold.signs) != len(answer.signs):
        return False
    pairs = [_differences(r) for r in (gold, answer)]
    if pairs[0] is None or pairs[1] is None:
        return False
    left = list(pairs[1])
    for sign, node in pairs[0]:
        for i, (s, n) in enumerate(left):
            if s == sign and algebra.proportional(node, n, positive=sign in (">", ">=")):
                del left[i]
                break
        else:
            return False
    return True


def _differences(relation: Relation) -> list[tuple[str, Node]] | None:
    """Each sign as `node sign 0`, with < and <= turned round."""
    found = []
    sides = [algebra_of(s) for s in relation.sides]
    for sign, a, b in zip(relation.signs, sides, sides[1:], strict=False):
        if a is None or b is None:
            return None
        low, high = (b, a) if sign in ("<", "<=") else (a, b)
        found.append((sign.replace("<", ">"), ("add", low, ("neg", high))))
    return found


def algebra_of(form: Form) -> Node | None:
    if isinstance(form, Scalar):
        return form.node
    if isinstance(form, Words) and form.text not in ("oo", "-oo"):
        try:
            return algebra.parse(form.text)
        except Unreadable:
            return None
    return None


def _variable(relation: Relation) -> set[str]:
    return set().union(*(_names(s) for s in relation.sides))


def _between(relation: Relation) -> Form | None:
    """`a < x <= b`, `x > a` as an interval, where x is a lone variable."""
    sides, signs = list(relation.sides), list(relation.signs)
    if not all(s in ("<", "<=", ">", ">=") for s in signs):
        return None
    if all(s.startswith(">") for s in signs):
        sides, signs = sides[::-1], [s.replace(">", "<") for s in signs[::-1]]
    if not all(s.startswith("<") for s in signs):
        return None
    lone: Callable[[Form], bool] = lambda f: isinstance(f, Scalar) and f.node[0] == "var"  # noqa: E731
    constant: Callable[[Form], bool] = lambda f: not lone(f) and not _names(f)  # noqa: E731
    low, high = Words("-oo"), Words("oo")
    if len(sides) == 3 and lone(sides[1]) and constant(sides[0]) and constant(sides[2]):
        return _interval(sides[0], signs[0], signs[1], sides[2])
    if len(sides) == 2 and lone(sides[0]) and constant(sides[1]):
        return _interval(low, "<", signs[0], sides[1])
    if len(sides) == 2 and lone(sides[1]) and constant(sides[0]):
        return _interval(sides[0], signs[0], "<", high)
    return None


def _interval(low: Form, left: Literal["<", "<="] | str, right: str, high: Form) -> Many:
    return Many("[" if left == "<=" else "(", (low, high), "]" if right == "<=" else ")")
