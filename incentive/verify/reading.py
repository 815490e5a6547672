"""The text of an answer as it is to be compared: without its box, lead-in, delimiters, unit. One reading, whatever the gold."""

from __future__ import annotations

import re
import unicodedata

from incentive.verify import algebra
from incentive.verify.algebra import TooLarge, Unreadable

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
    r"|(?<!\\)\\[,;: ]|\^\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?|\\(?:degree|\$|dots|ldots)(?![a-zA-Z])|~"
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
    """What stands in each \\boxed{...}; a box inside another is part of it."""
    found, at = [], 0
    while start := _BOX.search(text, at):
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
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()  # first: patterns below take long on many
    found = list(dict.fromkeys(boxes(text)))
    if len(found) > 1:
        return ",".join(clean(b)[0] for b in found), ""
    text = found[0] if found else _LEAD.sub("", _bold(text), count=1)
    text = text.translate(_SYMBOLS)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + "".join(_SUPER[c] for c in m[0]) + "}", text)
    text = _bold(text).removesuffix(".").strip()
    text = re.sub(r"√\s*([0-9]+)", r"\\sqrt{\1}", text).replace("√", r"\sqrt").replace("**", "^")
    text = _span(text)
    text = re.sub(r"^\\\[(.*)\\\]$|^\\\((.*)\\\)$|^\$\$(.*)\$\$$|^\$([^$]*)\$$", _inside, text, flags=re.DOTALL)
    text = re.sub(r"(?<=[0-9]),\\! ?(?=[0-9]{3})|(?<=[0-9]) ?\{, ?\}(?=[0-9]{3})", "", text)
    text = _MONEY.sub(lambda m: "-" if "-" in m[0] else "", text)
    text = _PERCENT.sub("%", re.sub(r"\$([^$]*)\$", r"\1", text))
    text, unit = _split_unit(_LINK.sub(", ", text).strip())
    text = re.sub(rf"\\{_TEXT}\s*\{{([^{{}}]*)\}}", r"\1", _DROP.sub(" ", re.sub(r"(?<!\\)\\!", "", text))).strip()
    text = text.removesuffix(".").strip()
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"[{}, ]", "", text)
    if science := _SCIENCE.fullmatch(text):
        text = f"{science[1]}*10^{{{science[2]}}}"
    if "\\begin" not in text:
        text = re.sub(r"\s*,?\s*\n\s*", ", ", text)
    return _last_claim(text), unit


_SPAN = re.compile(r"\$\$[^$]*\$\$|\$[^$]*\$|\\\[[^$]*?\\\]|\\\([^$]*?\\\)", re.DOTALL)
_PROSE = re.compile(r"[A-Za-z ,:;'*\n]*")
_DENIES = re.compile(r"\b(?:not|never|neither|nor|except|without|unlike|cannot)\b|n't\b", re.IGNORECASE)


def _span(text: str) -> str:
    """The only piece of mathematics in a sentence of plain words that ends with it."""
    spans = list(_SPAN.finditer(text))
    if len(spans) != 1:
        return text
    before, after = text[: spans[0].start()], text[spans[0].end() :].strip(" .*\n")
    if not _PROSE.fullmatch(before) or _DENIES.search(before) or (after and not _PERCENT.fullmatch(f"0{after}", 1)):
        return text
    inner = re.sub(r"^(?:\$\$?|\\[\[(])|(?:\$\$?|\\[\])])$", "", spans[0][0]).strip()
    return f"{inner}%" if after else inner


def _bold(text: str) -> str:
    return re.sub(r"^\*\*([^*]*)\*\*\.?$", r"\1", text.strip())


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
    if not re.fullmatch(r"[a-z²³^ /.0-9]*", words) or words in algebra.NAMES:
        return text, ""
    return found["value"].strip(), _UNITS.get(words, "")


def _last_claim(text: str) -> str:
    """`x = 1/3 ≈ 0.33` claims 1/3; `x ≈ 0.33` claims 0.33."""
    before, sign, after = text.partition(r"\approx")
    if not sign:
        return text
    return (
        f"{before.strip()} = {after.strip()}"
        if re.fullmatch(r"\s*[a-zA-Z]?\s*", before) and before.strip()
        else before.strip() or after.strip()
    )


def plain(text: str) -> str:
    """A text for exact comparison: NFC, white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


_LETTER = re.compile(r"(?<![A-Za-z0-9_'’])([A-Ja-j])(?![A-Za-z0-9_'’])")


def choice(text: str) -> str | None:
    """The option letter, A to J, that an answer names; None where it names none or several.

    Small letters count where they stand alone or in brackets. "A" at the start of an option's text is an article.
    """
    if len(text) > 1000 or (
        not text.isprintable() and any(unicodedata.category(c) in ("Cf", "Co", "Cs") or c == "\0" for c in text)
    ):
        return None
    text = re.sub(
        rf"\\{_TEXT}\s*\{{([^{{}}]*)\}}|\\boxed\s*\{{([^{{}}]*)\}}", lambda m: f" {m[1] or m[2] or ''} ", text
    )
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
        article = (
            found[1] == "A" and not bracketed and re.match(r" [a-z]", after) and re.search(r"(?:[.):]\s)$", before)
        )
        if not article:
            named.add(found[1].upper())
    return named.pop() if len(named) == 1 else None


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
        return node[1][0] == "num" and algebra.proper(node[2])
    if kind == "pow":
        return node[1] == ("num", 10, None) and literal(node[2])
    if kind == "mul":
        return (
            node[2][0] == "pow"
            and literal(node[2])
            and (node[1][0] == "num" or (node[1][0] == "neg" and node[1][1][0] == "num"))
        )
    return False
