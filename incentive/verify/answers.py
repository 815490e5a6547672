"""Is this answer the gold one? Pure functions, run in the workers of a `Pool`.

    judge({"kind": "maths", "gold": r"\\frac12", "answer": "The answer is 0.5."}) -> ["pass", "", None]

An answer has one reading whatever the gold answer is, so that a hedge is a list and no answer. First the cheap and
exact comparisons; then our own checker (`forms`, `algebra`); then, for `maths`, math-verify. A pass needs both where
both can read the two texts. What cannot be read or is too large fails: an answer that is ungradable must not pay.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import Any

from incentive.records import hash64
from incentive.verify import algebra, forms
from incentive.verify.algebra import TooLarge, Unreadable
from incentive.verify.forms import Form, Many, Matrix, Scalar

KINDS = ("text", "choice", "number", "set", "list", "interval", "matrix", "maths")
TEXT_CHARS = 20_000
AUDIT_EVERY = 16  # of the answers that our checker refuses, math-verify is asked about one in so many

Audit = list[Any] | None  # [ours, math-verify's] where they differ


# reading

_SYMBOLS = str.maketrans({
    "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\ne ", "∈": r"\in ", "∪": r"\cup ", "±": r"\pm ", "∓": r"\mp ", "≈": r"\approx ", "∅": r"\emptyset ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ", "°": r"^\circ ",
    "\u00a0": " ", "\u202f": " ", "\u2009": " ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
})  # fmt: skip
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LEAD = re.compile(
    r"\s*(?:\*\*)?(?:(?:so|thus|hence|therefore)\b[,:]?\s*)?"
    r"(?:(?:(?:the|my|our|final|correct|answer|result|value|values|solution|solutions|option|choice)\s+)*(?:answer|result|value|values|solution|solutions)"
    r"\s*(?:\*\*)?\s*(?:is|are|equals|be|=|:)\s*(?:\*\*)?\s*:?)?\s*",
    re.IGNORECASE,
)
_TEXT = r"(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname|rm|bf)"
_DROP = re.compile(
    r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|displaystyle|textstyle|limits|quad|qquad|thinspace|phantom\{[^{}]*\})(?![a-zA-Z])"
    r"|\\[,;: ]|\^\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?|\\(?:degree|\$|dots|ldots)(?![a-zA-Z])|~"
)
_MONEY = re.compile(r"^\s*-?\s*[$€£¥]\s*(?=[0-9.])|(?<=[0-9])\s*[$€£¥]\s*$")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:(?:,[0-9]{3})+|(?:\{,\}[0-9]{3})+|(?: [0-9]{3})+)(?:\.[0-9]+)?")
_SCIENCE = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([+-]?[0-9]{1,4})")
_UNIT = re.compile(rf"^(?P<value>.*[0-9}})\]%])\s*(?:\\{_TEXT}\s*\{{(?P<a>[^{{}}]*)\}}(?:\^\{{?[23]\}}?)?|(?P<b>[a-zA-Z]{{2,}}\.?(?:[ /][a-zA-Z]+){{0,3}}))$", re.DOTALL)  # fmt: skip
_LINK = re.compile(rf"\s*,?\s*(?:\\{_TEXT}\s*\{{\s*(?:and|or)\s*\}}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*")
_PERCENT = re.compile(r"(?<=[0-9}])\s*(?:\\%|%|[Pp]er ?cent(?:age)?\b|pct\b)")
_UNITS = {
    alias: unit
    for unit, names in {
        "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
        "in": "inch inches", "ft": "foot feet", "mi": "mile", "g": "gram", "kg": "kilogram", "mg": "milligram",
        "s": "sec second", "min": "minute", "h": "hr hour", "day": "day", "year": "year", "week": "week", "cent": "cent",
        "dollar": "dollar", "l": "liter litre", "ml": "milliliter millilitre",
    }.items()
    for name in [unit, *names.split()]
    for alias in (name, name + "s")
}  # fmt: skip


def boxes(text: str) -> list[str]:
    """What stands in each \\boxed{...}."""
    found = []
    for start in _BOX.finditer(text):
        depth, at = 1, start.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0) * (text[at - 1] != "\\")
            at += 1
        if depth:
            raise Unreadable("a box is not closed")
        found.append(text[start.end() : at - 1].strip())
    return found


def clean(text: str) -> tuple[str, str]:
    """(mathematics, unit) of an answer: without box, lead-in, delimiters, layout and separators of thousands.

    Raises:
        Unreadable: control, direction or zero-width characters. TooLarge: too many characters.
    """
    if len(text) > algebra.CHARS:
        raise TooLarge(f"more than {algebra.CHARS} characters")
    if any(unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Cn") and c not in "\n\t\r" for c in text):
        raise Unreadable("control characters")
    found = list(dict.fromkeys(boxes(text)))
    if len(found) > 1:
        return ",".join(clean(b)[0] for b in found), ""
    text = found[0] if found else _LEAD.sub("", text, count=1)
    text = text.translate(_SYMBOLS)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + "".join(_SUPER[c] for c in m[0]) + "}", text)
    text = re.sub(r"√\s*([0-9]+)", r"\\sqrt{\1}", text).replace("√", r"\sqrt").replace("**", "^")
    text = text.strip().removesuffix(".").strip()
    text = re.sub(r"^\\\[(.*)\\\]$|^\\\((.*)\\\)$|^\$\$(.*)\$\$$|^\$([^$]*)\$$", _inside, text, flags=re.DOTALL)
    text = _MONEY.sub(lambda m: "-" if "-" in m[0] else "", text)
    text = _PERCENT.sub("%", re.sub(r"\$([^$]*)\$", r"\1", text))
    text, unit = _split_unit(_LINK.sub(", ", text).strip())
    text = re.sub(rf"\\{_TEXT}\s*\{{([^{{}}]*)\}}", r"\1", _DROP.sub(" ", text.replace(r"\!", ""))).strip()
    text = text.removesuffix(".").strip()
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"[{}, ]", "", text)
    text = re.sub(r"(?<=[0-9])\{,\}(?=[0-9]{3})", "", text)
    if science := _SCIENCE.fullmatch(text):
        text = f"{science[1]}*10^{{{science[2]}}}"
    if "\\begin" not in text:
        text = re.sub(r"\s*,?\s*\n\s*", ", ", text)
    return _last_claim(text), unit


def _inside(found: re.Match[str]) -> str:
    return next(g for g in found.groups() if g is not None).strip()


def _split_unit(text: str) -> tuple[str, str]:
    """(value, unit) of `5 \\text{ cm}` and `5 apples`; the unit is a canonical name or empty."""
    if "," in text and not _THOUSANDS.match(text):
        return text, ""
    found = _UNIT.match(text)
    if not found:
        return text, ""
    words = (found["a"] if found["a"] is not None else found["b"]).strip().lower().rstrip(".")
    if not re.fullmatch(r"[a-z²³^ /.0-9]*", words) or words in algebra._NAMES:
        return text, ""
    return found["value"].strip(), _UNITS.get(words, "")


def _last_claim(text: str) -> str:
    """`x = 1/3 ≈ 0.33` claims 1/3; `x ≈ 0.33` claims 0.33."""
    before, sign, after = text.partition(r"\approx")
    if not sign:
        return text
    return f"{before.strip()} = {after.strip()}" if re.fullmatch(r"\s*[a-zA-Z]?\s*", before) and before.strip() else before.strip() or after.strip()


def plain(text: str) -> str:
    """A text for exact comparison: NFC, white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


_LETTER = re.compile(r"(?<![A-Za-z0-9_'’])([A-Ja-j])(?![A-Za-z0-9_'’])")


def choice(text: str) -> str | None:
    """The option letter, A to J, that an answer names; None where it names none or several.

    Small letters count where they stand alone or in brackets. "A" at the start of an option's text is an article.
    """
    if len(text) > 1000 or not text.isprintable() and any(unicodedata.category(c) in ("Cf", "Co", "Cs") or c == "\0" for c in text):
        return None
    text = re.sub(rf"\\{_TEXT}\s*\{{([^{{}}]*)\}}|\\boxed\s*\{{([^{{}}]*)\}}", lambda m: f" {m[1] or m[2] or ''} ", text)
    text = re.sub(r"\\boxed\s*\{([^{}]*)\}", r" \1 ", text)
    whole = re.fullmatch(r"[\s(\[*$]*([A-Ja-j])[\s)\]*$.:]*", text)
    if whole:
        return whole[1].upper()
    named = set()
    for found in _LETTER.finditer(text):
        before, after = text[: found.start()], text[found.end() :]
        bracketed = before.endswith("(") and after.startswith(")")
        if found[1].islower() and not bracketed:
            continue
        article = found[1] == "A" and not bracketed and re.match(r" [a-z]", after) and re.search(r"(?:[.):]\s)$", before)
        if not article:
            named.add(found[1].upper())
    return named.pop() if len(named) == 1 else None


# judging


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
        value = forms._value(form) if isinstance(form, forms.Relation) else None
        if not (isinstance(value, Scalar) and literal(value.node)):
            raise Unreadable("no number")
        return value, unit
    return form, unit


def literal(node: algebra.Node) -> bool:
    """A number as it is written out: whole, decimal, fraction, mixed, per cent, a * 10^b. Sums and powers are to be
    worked out, or an answer could repeat the question."""
    kind = node[0]
    if kind == "num":
        return True
    if kind in ("neg", "pct"):
        return literal(node[1])
    if kind == "div":
        return all(n[0] == "num" or (n[0] == "neg" and n[1][0] == "num") for n in node[1:])
    if kind == "add":  # 3 1/2; a sum of whole numbers is none
        return node[1][0] == "num" and algebra._proper(node[2])
    if kind == "mul":
        ten = node[2][0] == "pow" and node[2][1][:2] == ("num", 10) and literal(node[2][2])
        return ten and (node[1][0] == "num" or (node[1][0] == "neg" and node[1][1][0] == "num"))
    return False


def _close(gold: Form, answer: Form, tolerance: float) -> bool:
    """Numbers within a share of the gold one; of 0, within the tolerance itself."""
    assert isinstance(gold, Scalar) and isinstance(answer, Scalar)
    g, a = (algebra._evaluate(f.node, {}) for f in (gold, answer))
    if g is None or a is None:
        raise Unreadable("no value")
    room = Fraction(tolerance) * (abs(g[0]) if g[0] else 1)
    return abs(a[0] - g[0]) <= room or (gold.node[0] == "pct") != (answer.node[0] == "pct") and forms.same(gold, answer)


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
    value = forms._value(g) if isinstance(g, forms.Relation) else g
    if isinstance(value, Scalar) and literal(value.node):
        claim = forms._value(a) if isinstance(a, forms.Relation) else a
        if isinstance(claim, Scalar) and not literal(claim.node):
            return False
    return forms.same(g, a)


@lru_cache(maxsize=4096)
def _gold_form(kind: str, gold: str) -> tuple[Form, str]:
    return _reading(kind, gold)


_UNDONE = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|limsup|liminf|max|min|sup|inf|det|gcd|bmod|pmod|mod)(?![a-z])")
_WILD = re.compile(r"\^\s*\{?\s*-?[0-9]{4,}|[0-9]{3,}\s*!|!\s*!|(?:\^.*){7}|[0-9]{200,}|(?:[\[({].*){60}", re.DOTALL)


def math_verify(gold: str, answer: str) -> bool | None:
    """math-verify's verdict, None where it reads nothing. Its alarm clock is off: the pool's clock is the only one."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [
        parse(f"${t}$", config, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
        for t in (gold, answer)
    ]
    if not parsed[0] or not parsed[1]:
        return None
    return bool(verify(parsed[0], parsed[1], timeout_seconds=None))


def _maths(gold: str, answer: str) -> tuple[bool, str, Audit]:
    g, a = plain(gold), plain(answer)
    texts = tuple(clean(t)[0] for t in (gold, answer))
    if g == a or plain(texts[0]) == plain(texts[1]) != "":
        units = clean(gold)[1], clean(answer)[1]
        return (True, "", None) if not all(units) or units[0] == units[1] else (False, f"{units[1]}, not {units[0]}", None)
    if _UNDONE.search(answer) and not _UNDONE.search(gold):
        return False, "not worked out", None
    mine: bool | None
    try:
        _gold_form("maths", gold)
    except Unreadable:
        if _WILD.search(answer):
            return False, "too large", None
        theirs = math_verify(*texts)
        return bool(theirs), "by math-verify alone", None
    try:
        mine, why = ours("maths", gold, answer), "differs"
    except TooLarge as error:
        return False, str(error), None  # never shown to sympy
    except Unreadable as error:
        mine, why = None, str(error)
    if not mine and (hash64("audit", gold, answer) % AUDIT_EVERY or _WILD.search(answer)):
        return False, why, None
    if mine and _exact(gold, answer):
        return True, "", None
    theirs = math_verify(*texts)
    audit = [mine, theirs] if theirs is not None and bool(mine) != theirs else None
    return bool(mine) and theirs is not False, why if not mine else "", audit


def _exact(gold: str, answer: str) -> bool:
    """Both are written-out numbers: exact fractions have settled it."""
    g, a = _gold_form("maths", gold)[0], _reading("maths", answer)[0]
    return isinstance(g, Scalar) and isinstance(a, Scalar) and literal(g.node) and literal(a.node)


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
    """Why a gold answer cannot be used: it is read by nobody or fails its own check. None where it passes."""
    try:
        passed, why, _ = _judge(kind, gold, gold, tolerance)
        if passed and kind == "maths" and not _UNDONE.search(gold) and not _WILD.search(gold):
            _warm(gold)
    except Unreadable as error:
        return str(error)
    return None if passed else f"fails its own check: {why}"


def _warm(gold: str) -> None:
    """math-verify has read the gold answer before any other, so that what it costs is not an answer's fault."""
    text = clean(gold)[0]
    if not _is_literal(gold):
        math_verify(text, text)


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
