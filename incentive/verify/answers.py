"""Is this answer the gold one? Pure functions, run in the workers of a `Pool`.

    judge({"kind": "maths", "gold": r"\\frac12", "answer": "The answer is 0.5."}) -> ["pass", "", None]

An answer has one reading whatever the gold answer is, so that a hedge is a list and no answer. First the cheap and
exact comparisons; then our own checker (`forms`, `algebra`); then, for `maths`, math-verify. A pass needs both where
both can read the two texts. What cannot be read or is too large fails: an answer that is ungradable must not pay.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from incentive.records import hash64
from incentive.verify import agree, algebra, compare, forms
from incentive.verify.algebra import TooLarge, Unreadable
from incentive.verify.forms import Form, Many, Matrix, Scalar
from incentive.verify.reading import choice, clean, literal, plain

KINDS = ("text", "choice", "number", "set", "list", "interval", "matrix", "maths")
TEXT_CHARS = 20_000
AUDIT_EVERY = 16  # of the answers that our checker refuses, math-verify is asked about one in so many

Audit = list[Any] | None  # [ours, math-verify's] where they differ


def _reading(kind: str, text: str) -> tuple[Form, str]:
    """The form of an answer of one kind, and its unit."""
    body, unit = clean(text)
    form = forms.read(body)
    if kind in ("set", "list"):
        parts = form.parts if isinstance(form, Many) and form.open != ":" else (form,)
        return (Many("{", parts, "}") if kind == "set" else Many("(", parts, ")")), unit
    if kind == "matrix" and isinstance(form, Many):
        rows = [p.parts if isinstance(p, Many) else (p,) for p in form.parts]
        if len({len(r) for r in rows}) != 1:
            raise Unreadable("rows of different length")
        return Matrix(tuple(rows)), unit
    if kind == "matrix" and not isinstance(form, Matrix):
        raise Unreadable("no matrix")
    if kind == "number" and not (isinstance(form, Scalar) and literal(form.node)):
        value = compare.value_of(form) if isinstance(form, forms.Relation) else None
        if not (isinstance(value, Scalar) and literal(value.node)):
            raise Unreadable("no number")
        return value, unit
    return form, unit


def _close(gold: Form, answer: Form, tolerance: float) -> bool:
    """Numbers within a share of the gold one; of 0, within the tolerance itself."""
    if not (isinstance(gold, Scalar) and isinstance(answer, Scalar)):
        raise Unreadable("no number")
    g, a = (agree.evaluate(f.node, {}) for f in (gold, answer))
    if g is None or a is None:
        raise Unreadable("no value")
    room = Fraction(tolerance) * (abs(g[0]) if g[0] else 1)
    return abs(a[0] - g[0]) <= room or (
        (gold.node[0] == "pct") != (answer.node[0] == "pct") and compare.same(gold, answer)
    )


def ours(kind: str, gold: str, answer: str, tolerance: float = 0.0) -> bool:
    """Our own verdict.

    Raises:
        Unreadable, TooLarge: one of the texts; see `_gold_form` for the gold one's.
    """
    g, g_unit = _gold_form(kind, gold)
    a, a_unit = _reading(kind, answer)
    if g_unit and a_unit and g_unit != a_unit:
        return False
    if kind == "number":
        return _close(g, a, tolerance)
    value = compare.value_of(g) if isinstance(g, forms.Relation) else g
    if isinstance(value, Scalar) and literal(value.node):
        claim = compare.value_of(a) if isinstance(a, forms.Relation) else a
        if isinstance(claim, Scalar) and not literal(claim.node):
            return False
    return compare.same(g, a)


@lru_cache(maxsize=4096)
def _gold_form(kind: str, gold: str) -> tuple[Form, str]:
    return _reading(kind, gold)


_UNDONE = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|limsup|liminf|max|min|sup|inf|det|gcd|bmod|pmod|mod)(?![a-z])")
_WILD = re.compile(r"\^\s*\{?\s*-?[0-9]{4,}|[0-9]{3,}\s*!|!\s*!|[0-9]{200,}")
_HEAVY = re.compile(r"\^\s*\{?\s*-?[0-9]{2,}")


def _wild(text: str) -> bool:
    """Not to be shown to sympy."""
    return text.count("^") > 6 or sum(map(text.count, "([{")) > 60 or _WILD.search(text) is not None


def _heavy(text: str) -> bool:
    """Not worth an audit."""
    return text.count("\\") > 12 or _HEAVY.search(text) is not None or _wild(text)


def math_verify(gold: str, answer: str) -> bool | None:
    """math-verify's verdict, None where it reads nothing. Its alarm clock is off: the pool's clock is the only one."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [
        parse(f"${_NAMED.sub(_command, t)}$", config, fallback_mode="no_fallback", parsing_timeout=None)
        for t in (gold, answer)
    ]
    if not parsed[0] or not parsed[1]:
        return None
    return bool(verify(parsed[0], parsed[1], timeout_seconds=None, allow_set_relation_comp=True))


_NAMED = re.compile(rf"(?<![\\a-zA-Z])(?:sqrt\(([^()]*)\)|({'|'.join(algebra.NAMES)})(?![a-zA-Z]))")


def _command(found: re.Match[str]) -> str:
    """`pi` and `sqrt(2)` as LaTeX, or math-verify reads a product of letters."""
    return f"\\{found[2]} " if found[2] else f"\\sqrt{{{found[1]}}}"


def _maths(gold: str, answer: str) -> tuple[bool, str, Audit]:
    g, a = plain(gold), plain(answer)
    texts = tuple(clean(t)[0] for t in (gold, answer))
    if g == a or plain(texts[0]) == plain(texts[1]) != "":
        units = clean(gold)[1], clean(answer)[1]
        return (
            (True, "", None) if not all(units) or units[0] == units[1] else (False, f"{units[1]}, not {units[0]}", None)
        )
    if _UNDONE.search(answer) and not _UNDONE.search(gold):
        return False, "not worked out", None
    mine: bool | None
    try:
        _gold_form("maths", gold)
    except Unreadable:
        if _wild(answer):
            return False, "too large", None
        theirs = math_verify(*texts)
        return bool(theirs), "by math-verify alone", None
    try:
        mine, why = ours("maths", gold, answer), "differs"
    except TooLarge as error:
        return False, str(error), None  # never shown to sympy
    except Unreadable as error:
        mine, why = None, str(error)
    if not mine and (hash64("audit", gold, answer) % AUDIT_EVERY or _heavy(answer)):
        return False, why, None
    if mine and all(_exact(_reading("maths", t)[0]) for t in (gold, answer)):
        return True, "", None
    theirs = math_verify(*texts)
    audit = [mine, theirs] if theirs is not None and bool(mine) != theirs else None
    return bool(mine) and theirs is not False, why if not mine else "", audit


def _exact(form: Form) -> bool:
    """Written-out numbers and words only, as they are or in lists: exact comparison has settled it."""
    if isinstance(form, Scalar):
        return literal(form.node)
    if isinstance(form, Many | forms.Union):
        return all(map(_exact, form.parts))
    if isinstance(form, Matrix):
        return all(_exact(cell) for row in form.rows for cell in row)
    if isinstance(form, forms.Relation):
        return compare.between(form) is not None and all(_exact(s) or compare.names(s) for s in form.sides)
    return True


def _judge(kind: str, gold: str, answer: str, tolerance: float) -> tuple[bool, str, Audit]:
    if not answer.strip():
        return False, "empty", None
    if kind == "text":
        if len(answer) > TEXT_CHARS:
            raise TooLarge(f"more than {TEXT_CHARS} characters")
        return plain(gold) == plain(answer) != "", "differs", None
    if kind == "choice":
        letter = choice(answer)
        return letter is not None and letter == choice(gold), "differs" if letter else "no single option", None
    if kind == "maths":
        return _maths(gold, answer)
    return ours(kind, gold, answer, tolerance), "differs", None


@lru_cache(maxsize=4096)
def gold_fault(kind: str, gold: str, tolerance: float) -> str | None:
    """Why a gold answer cannot be used: it is read by nobody or fails its own check. None where it passes.

    math-verify reads it here, before any answer, so that what that costs is not an answer's fault.
    """
    try:
        if kind == "maths":
            return _maths_gold_fault(gold)
        passed, why, _ = _judge(kind, gold, gold, tolerance)
    except Unreadable as error:
        return str(error)
    return None if passed else f"fails its own check: {why}"


def _maths_gold_fault(gold: str) -> str | None:
    text = clean(gold)[0]
    try:
        if _is_literal(gold):
            return None
        mine, why = ours("maths", gold, gold), "fails its own check"
    except TooLarge:
        raise
    except Unreadable as error:
        mine, why = False, str(error)
    if _wild(gold):
        return None if mine else why
    return None if math_verify(text, text) or mine else why


def _is_literal(gold: str) -> bool:
    try:
        form = _gold_form("maths", gold)[0]
    except Unreadable:
        return False
    return isinstance(form, Scalar) and literal(form.node)


def judge(job: dict[str, Any]) -> list[Any]:
    """`[verdict, why, audit]` of `{kind, gold, answer, tolerance?}`; the verdict is pass, fail or gold (unusable)."""
    kind, gold, answer, tolerance = job["kind"], job["gold"], job["answer"], job.get("tolerance", 0.0)
    if fault := gold_fault(kind, gold, tolerance):
        return ["gold", fault, None]
    try:
        passed, why, audit = _judge(kind, gold, answer, tolerance)
    except (Unreadable, RecursionError) as error:
        return ["fail", str(error)[:200], None]
    return ["pass", "", audit] if passed else ["fail", why, audit]


def setup(kinds: list[str]) -> None:
    """Called once in each worker: what the kinds need is imported before any answer comes.

    Raises:
        ImportError: math-verify is missing.
    """
    if "maths" in kinds:
        logging.disable(logging.WARNING)  # math-verify warns at each start that its clock is off
        assert math_verify("1", "1"), "math-verify cannot tell that 1 is 1"
