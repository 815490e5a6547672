"""Answers that are more than one expression: lists, sets, intervals, matrices, equations. Our own reading of them.

A text has one reading, whatever the gold answer is, so that an answer that hedges ("1 or 2") is a list and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
_NAME = re.compile(
    r"\\?[a-zA-Z]+(?:_(?:[a-zA-Z0-9]|\{[a-zA-Z0-9]{1,9}\}))?(?:\([a-zA-Z0-9, ]{1,20}\))?'?|\((?:[a-zA-Z], ?){1,5}[a-zA-Z]\)"
)
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
        if open_ in "([" and _MATRIX.fullmatch(body):
            return read(body, depth + 1)
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
