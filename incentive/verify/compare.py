"""Whether two forms say the same."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Literal

from incentive.verify import agree, algebra
from incentive.verify.algebra import Node, Unreadable
from incentive.verify.forms import Digits, Form, Many, Matrix, Relation, Scalar, Union, Words


def same(gold: Form, answer: Form) -> bool:
    """Whether an answer's form says the same as the gold one's.

    Raises:
        TooLarge: a value is beyond the bounds. Unreadable: the gold has no value that can be told.
    """
    gold, answer = _plain(gold), _plain(answer)
    if isinstance(gold, Relation):
        return _same_relation(gold, answer)
    if isinstance(answer, Relation):
        if between(answer) is not None and isinstance(gold, Many | Union):
            return same(gold, between(answer) or answer)
        return value_of(answer) is not None and same(gold, value_of(answer) or answer)
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
    result = agree.same(gold, answer)
    if result is None:
        raise Unreadable("the gold answer has no value that can be told")
    if result or agree.approximates(gold, answer):
        return True
    if (gold[0] == "pct") != (answer[0] == "pct"):  # "what per cent": 28 and 28%
        return bool(agree.same(*(n[1] if n[0] == "pct" else n for n in (gold, answer))))
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
    """Each part of the gold one once. A part that the answer repeats counts once, if the gold one repeats none."""
    left = list(answer)
    for g in gold:
        at = next((i for i, a in enumerate(left) if same(g, a)), None)
        if at is None:
            return False
        del left[at]
    return not left or (_covers(gold, tuple(left)) and not any(same(g, h) for g, h in combinations(gold, 2)))


def value_of(relation: Relation) -> Form | None:
    """What `x = ... = value` gives; None where it is another relation, or a false or empty one."""
    if set(relation.signs) != {"="}:
        return None
    *before, last = relation.sides
    if relation.name:
        return None if last == Words(relation.name) or names(last) == {relation.name} else last
    first = before[0]
    if isinstance(first, Scalar) and isinstance(last, Scalar):
        if agree.variables(first.node):
            return None  # an equation, not a value
        return last if agree.same(first.node, last.node) else None
    return None


def names(form: Form) -> set[str]:
    return agree.variables(form.node) if isinstance(form, Scalar) else set()


def _same_relation(gold: Relation, answer: Form) -> bool:
    value = value_of(gold)
    if value is not None:
        if not isinstance(answer, Relation):
            return same(value, answer)
        other = value_of(answer)
        if other is not None:
            return answer.name == gold.name and same(value, other)
    interval = between(gold)
    if not isinstance(answer, Relation):
        return interval is not None and isinstance(answer, Many | Union) and same(interval, answer)
    if interval is not None and (other_interval := between(answer)) is not None:
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
            if s == sign and agree.proportional(node, n, positive=sign in (">", ">=")):
                del left[i]
                break
        else:
            return False
    return True


def _differences(relation: Relation) -> list[tuple[str, Node]] | None:
    """Each sign as `node sign 0`, with < and <= turned round."""
    found = []
    sides = [_node(s) for s in relation.sides]
    for sign, a, b in zip(relation.signs, sides, sides[1:], strict=False):
        if a is None or b is None:
            return None
        low, high = (b, a) if sign in ("<", "<=") else (a, b)
        found.append((sign.replace("<", ">"), ("add", low, ("neg", high))))
    return found


def _node(form: Form) -> Node | None:
    if isinstance(form, Scalar):
        return form.node
    if isinstance(form, Words) and form.text not in ("oo", "-oo"):
        try:
            return algebra.parse(form.text)
        except Unreadable:
            return None
    return None


def _variable(relation: Relation) -> set[str]:
    return set().union(*(names(s) for s in relation.sides))


def _lone(form: Form) -> bool:
    return isinstance(form, Scalar) and form.node[0] == "var"


def _constant(form: Form) -> bool:
    return not names(form)


def between(relation: Relation) -> Form | None:
    """`a < x <= b`, `x > a` as an interval, where x is a lone variable."""
    sides, signs = list(relation.sides), list(relation.signs)
    if not all(s in ("<", "<=", ">", ">=") for s in signs):
        return None
    if all(s.startswith(">") for s in signs):
        sides, signs = sides[::-1], [s.replace(">", "<") for s in signs[::-1]]
    if not all(s.startswith("<") for s in signs):
        return None
    low, high = Words("-oo"), Words("oo")
    if len(sides) == 3 and _lone(sides[1]) and _constant(sides[0]) and _constant(sides[2]):
        return _interval(sides[0], signs[0], signs[1], sides[2])
    if len(sides) == 2 and _lone(sides[0]) and _constant(sides[1]):
        return _interval(low, "<", signs[0], sides[1])
    if len(sides) == 2 and _lone(sides[1]) and _constant(sides[0]):
        return _interval(sides[0], signs[0], "<", high)
    return None


def _interval(low: Form, left: Literal["<", "<="] | str, right: str, high: Form) -> Many:
    return Many("[" if left == "<=" else "(", (low, high), "]" if right == "<=" else ")")
