"""Integer expressions in `+ - * ( )`, parsed by hand and within bounds: model text never reaches `eval`."""

from __future__ import annotations

import re
from collections.abc import Callable

Tree = int | tuple[str, "Tree", "Tree"]

OPS: dict[str, Callable[[int, int], int]] = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}

_TOKEN = re.compile(r"\s*([0-9]+|[-+*()])")
MAX_CHARS, MAX_DIGITS, MAX_DEPTH = 200, 6, 20


def parse(text: str) -> Tree | None:
    """The tree of an expression, or None where the text is none, is longer than 200 characters, nests deeper than 20
    or has a number of more than six digits. ASCII digits only; no unary minus."""
    if len(text) > MAX_CHARS:
        return None
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found or len(found[1]) > MAX_DIGITS:
            return None
        tokens.append(found[1])
        at = found.end()
    tokens.append("")
    position = 0

    def atom(depth: int) -> Tree | None:
        nonlocal position
        token = tokens[position]
        if token.isdigit():
            position += 1
            return int(token)
        if token != "(" or depth > MAX_DEPTH:
            return None
        position += 1
        inner = chain(depth + 1)
        if inner is None or tokens[position] != ")":
            return None
        position += 1
        return inner

    def product(depth: int) -> Tree | None:
        nonlocal position
        left = atom(depth)
        while left is not None and tokens[position] == "*":
            position += 1
            right = atom(depth)
            left = None if right is None else ("*", left, right)
        return left

    def chain(depth: int) -> Tree | None:
        nonlocal position
        left = product(depth)
        while left is not None and tokens[position] in ("+", "-"):
            op = tokens[position]
            position += 1
            right = product(depth)
            left = None if right is None else (op, left, right)
        return left

    tree = chain(0)
    return tree if tokens[position] == "" else None


def value(tree: Tree) -> int:
    if isinstance(tree, int):
        return tree
    op, left, right = tree
    return OPS[op](value(left), value(right))


def leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


def canonical(tree: Tree) -> str:
    """One text for expressions that differ only in spaces, brackets and the order of `+` and `*` operands."""
    if isinstance(tree, int):
        return str(tree)
    op, left, right = tree
    if op == "-":
        return f"({canonical(left)}-{canonical(right)})"
    return f"({op.join(sorted(map(canonical, _operands(tree, op))))})"


def _operands(tree: Tree, op: str) -> list[Tree]:
    """The operands of a chain of one operator, however it is bracketed."""
    if isinstance(tree, int) or tree[0] != op:
        return [tree]
    return _operands(tree[1], op) + _operands(tree[2], op)
