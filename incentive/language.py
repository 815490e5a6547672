"""Which language a text is written in, word by word (paper 4.2: language consistency).

The paper counts target-language words over all words of the thinking and does not say what a word is (paper.md,
section 11). We chose, and this page is the whole rule:

- A word is told by its script. Each CJK ideograph is a word of Chinese, each run of Latin letters a word of English;
  a run of kana is Japanese (for which ideographs count too), of hangul Korean, of any other letters its own script's.
- No words are: digits, operators, punctuation, emoji; names of one letter (`x`, but also `I` and `a`) or of two to four
  capitals (`AB`, `GCD`) with no Latin word beside them; the commands of
  LaTeX that we know; and the ASCII letters of code and formulas. Letters that touch digits stay words if two or more.
- Code is a fenced block, inline code, or a line with a mark of code (an assignment, a call, a keyword with its colon, a
  closing `{` or `;`) in which no name stands beside another or a number. Its strings and `#` comments stay text, and so do
  letters beyond ASCII: an ideograph is never code.
- Nothing of it may hide prose: a fenced line or a formula with four words in a row is text.

English against French and their like share a script; there py3langid decides, a stretch of eight words at a time
(extra `language`). Everything runs in time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

CONSISTENT = 0.95  # a thought is wholly in its language from this share on
STRETCH = 8  # words of a stretch that is identified as a whole

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SCRIPTS = {  # language -> the letters that are its words; the language stands for its script
    "en": r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\ufb00-\ufb06\uff21-\uff3a\uff41-\uff5a"
    r"\U0001d400-\U0001d6a5",
    "zh": _HAN,
    "ja": r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d",
    "ko": r"\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uffa1-\uffdc",
    "ru": r"\u0400-\u0481\u048a-\u052f\u1c80-\u1c88",
    "el": r"\u0370-\u0373\u0376-\u037d\u037f-\u03ff\u1f00-\u1fff\U0001d6a8-\U0001d7cb",
    "ar": r"\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06fa-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc",
    "he": r"\u0591-\u05f4",
    "hi": r"\u0900-\u0963\u0971-\u097f",
    "th": r"\u0e01-\u0e3a\u0e40-\u0e4e",
}
_SHARED = {  # languages told from the others of their script by py3langid alone
    "en": ("af", "ca", "cs", "da", "de", "es", "et", "fi", "fr", "ga", "hr", "hu", "id", "is", "it", "lt", "lv", "ms", "nl", "no", "pl",
           "pt", "ro", "sk", "sl", "sq", "sv", "sw", "tl", "tr", "vi"),
    "ru": ("be", "bg", "mk", "sr", "uk"), "ar": ("fa", "ur"), "hi": ("mr", "ne"),
}  # fmt: skip
SCRIPT_OF = {lang: lang for lang in _SCRIPTS} | {lang: s for s, langs in _SHARED.items() for lang in langs}

_MARKS = r"\u0300-\u036f"
_ANY = "".join(_SCRIPTS.values())
_WORD = re.compile(
    "|".join(
        f"(?P<{lang}>[{letters}]+)" if lang in ("zh", "ja", "ko", "hi", "th", "ar", "he")
        else f"(?P<{lang}>[{letters}](?:['’]?[{letters}{_MARKS}])*)"
        for lang, letters in _SCRIPTS.items()
    )
    + rf"|(?P<other>(?:(?![{_ANY}])[^\W\d_])+)"
)  # fmt: skip

# Code. A line counts as code by these marks only if `_BESIDE` finds nothing side by side in it.
_KEYWORDS = (
    "and|as|assert|async|await|break|class|const|continue|def|del|elif|else|except|finally|for|from|function|global|if|"
    "import|in|is|lambda|let|nonlocal|not|or|pass|raise|return|try|var|void|while|with|yield"
)
_NAME = r"[A-Za-z_]\w*"
_MARK = re.compile(
    rf"\s*(?:{_NAME}[\w.]*(?:\[[^\]\n]*\])?\s*(?:[-+*/%|&^]|//|\*\*)?=(?!=)\s*\S"  # an assignment
    rf"|(?:def|class|if|elif|while|with|except)\b.*:\s*(?:#.*)?$|for\b.*\bin\b.*:\s*(?:#.*)?$|(?:else|try|finally):"
    rf"|(?:return|import|from|raise|yield|assert)\s+{_NAME}[\w.]*\s*(?:[-+*/%(\[,.]|import\b|$)"
    rf"|{_NAME}[\w.]*\(.*\)\s*;?\s*(?:#.*)?$"  # a call
    rf"|.*[=(].*[;{{}}]\s*$|[{{}};\s]+$)",
    re.ASCII,
)
_QUOTED = re.compile(r"""('[^'\n]*'|"[^"\n]*"|#.*)""")
_BESIDE = re.compile(rf"\b(?!(?:{_KEYWORDS})\b)\w+[ \t]+(?!(?:{_KEYWORDS})\b){_NAME}", re.ASCII)
_PROSE = re.compile(r"(?<![\w\\])[A-Za-z']+(?:,?[ \t]{1,3}[A-Za-z']+){3}")
_ASCII = re.compile(r"[A-Za-z]+")
_CAPITALS = re.compile(r"(?<![A-Za-z\d])(?<![A-Za-z][ ,])[A-Z]{2,4}(?![A-Za-z\d])(?![ ,][A-Za-z])")
LONGEST_LINE = 400  # characters; a longer line is no line of code

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]{1,200})`")
_FORMULA = re.compile(
    r"\$\$[^$]{1,2000}\$\$|\$[^$\n]{1,1000}\$|\\\((?:[^\\]|\\(?![()])){1,1000}\\\)|\\\[(?:[^\\]|\\(?![\[\]])){1,2000}\\\]"
)
_TEXT_IN_FORMULA = re.compile(r"(\\(?:text|mbox|textbf|textit|textrm|mathrm|operatorname)\{[^{}]*\})")
_COMMAND = re.compile(r"\\(?:begin|end)\{[A-Za-z]{1,12}\*?\}|\\([A-Za-z]+)")
_COMMANDS = frozenset(
    "frac dfrac tfrac sqrt sum prod int lim log ln exp sin cos tan cot sec csc arcsin arccos arctan min max gcd lcm mod "  # noqa: SIM905
    "bmod pmod cdot cdots ldots dots times div pm mp le leq ge geq ne neq lt gt approx equiv sim cong propto to in notin "
    "subset subseteq cup cap setminus emptyset infty partial nabla forall exists implies iff rightarrow leftarrow "
    "Rightarrow Leftarrow Leftrightarrow mapsto quad qquad left right big Big bigg Bigg binom dbinom choose boxed text "
    "mbox textbf textit textrm mathrm mathbf mathbb mathcal operatorname overline underline hat bar vec dot angle circ "
    "triangle perp parallel mid nmid lfloor rfloor lceil rceil langle rangle displaystyle alpha beta gamma delta epsilon "
    "varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi varphi chi psi omega Gamma "
    "Delta Theta Lambda Xi Pi Sigma Phi Psi Omega hline begin end".split()
)


def _bare(code: str) -> str:
    """Code without its ASCII letters; strings and comments stay."""
    parts = _QUOTED.split(code)
    return "".join(part if i % 2 else _ASCII.sub(" ", part) for i, part in enumerate(parts))


def is_code(line: str) -> bool:
    """Whether a line, outside of any fence, is code by the rule above."""
    if len(line) > LONGEST_LINE or not _MARK.match(line):
        return False
    plain = "".join(_QUOTED.split(line)[::2])
    return not _BESIDE.search(plain)


def _prose(text: str) -> bool:
    return _PROSE.search(text) is not None


def _fenced(found: re.Match[str]) -> str:
    return "\n".join(line if _prose(line) else _bare(line) for line in found[1].split("\n"))


def _inline(found: re.Match[str]) -> str:
    return found[1] if _prose(found[1]) else _ASCII.sub(" ", found[1])


def _formula(found: re.Match[str]) -> str:
    parts = _TEXT_IN_FORMULA.split(found[0])
    if any(map(_prose, parts[::2])):
        return found[0]
    return " ".join(part if i % 2 else _ASCII.sub(" ", part) for i, part in enumerate(parts))


def _command(found: re.Match[str]) -> str:
    return " " if found[1] is None or found[1] in _COMMANDS else f" {found[1]} "


def _has_code_signs(text: str) -> bool:
    return any(c in text for c in "=({:;") or "return" in text or "import" in text


def prose(text: str) -> str:
    """The text without what is no words by the rule above: code and LaTeX."""
    if "`" in text:
        text = _INLINE.sub(_inline, _FENCE.sub(_fenced, text))
    if "$" in text or "\\" in text:
        text = _COMMAND.sub(_command, _FORMULA.sub(_formula, text))
    if _has_code_signs(text):
        text = "\n".join(_bare(line) if is_code(line) else line for line in text.split("\n"))
    return _CAPITALS.sub(" ", text)


def code_block(text: str, lines: int = 3) -> bool:
    """Whether a text holds a block of code: a closed fence, or `lines` lines of code in a row."""
    if "```" in text and _FENCE.search(text):
        return True
    if not _has_code_signs(text):
        return False
    run = 0
    for line in text.split("\n"):
        run = run + 1 if is_code(line) else 0
        if run >= lines:
            return True
    return False


def _matches(text: str) -> Iterable[tuple[str, str]]:
    """(script, run of letters) of the words of a text; an ideograph run is as many words as it is long."""
    for found in _WORD.finditer(prose(text)):
        script, run = found.lastgroup or "other", found[0]
        if len(run) > 1 or script not in ("en", "el", "ru"):
            yield script, run


def language_words(text: str, among: tuple[str, ...] = ()) -> dict[str, int]:
    """Words by language; a script stands for one language (Latin for English) unless `among` names others of it.

    Raises:
        ValueError: `among` names a language that we do not know.
        ConfigError: it needs py3langid, which is not installed.
    """
    counts: dict[str, int] = {}
    shared: dict[str, list[str]] = {}
    several = {s for s in map(_script, among) if sum(_script(x) == s for x in among) > 1}
    for script, run in _matches(text):
        if script in several:
            shared.setdefault(script, []).append(run)
        else:
            counts[script] = counts.get(script, 0) + (len(run) if script == "zh" else 1)
    for script, runs in shared.items():
        from incentive.langid import identify

        choices = tuple(x for x in among if _script(x) == script)
        for at in range(0, len(runs), STRETCH):
            piece = runs[at : at + STRETCH]
            lang = identify(" ".join(piece), choices)
            counts[lang] = counts.get(lang, 0) + len(piece)
    return counts


@lru_cache(maxsize=64)
def _script(lang: str) -> str:
    if lang not in SCRIPT_OF:
        raise ValueError(f"unknown language {lang!r}; there are: {', '.join(sorted(SCRIPT_OF))}")
    return SCRIPT_OF[lang]


def language_share(text: str, target: str, among: tuple[str, ...] = ()) -> float | None:
    """Words of the target language over all words of a text, None where it has no word.

    A target that shares its script (French) is always told from the script's main language (English).

    Raises:
        ValueError: an unknown language.
        ConfigError: it needs py3langid, which is not installed.
    """
    script = _script(target)
    among = tuple(dict.fromkeys((target, *(() if script == target else (script,)), *among)))
    counts = language_words(text, among)
    words = sum(counts.values())
    if not words:
        return None
    own = counts.get(target, 0) + (counts.get("zh", 0) if target == "ja" else 0)
    return own / words


@dataclass(frozen=True, slots=True)
class Consistency:
    """How a set of thoughts keeps to its languages. Shares are over the thoughts that have a word; None if none has."""

    thoughts: int
    wordless: float  # share of the thoughts that have no word, and so no language
    share: float | None  # mean share of target-language words
    consistent: float | None  # share of the thoughts with 95% or more of their words in the target language


def consistency(thoughts: Iterable[tuple[str, str]]) -> Consistency | None:
    """The summary over (thinking, target language); None where there is no thought."""
    shares = [language_share(thinking, target) for thinking, target in thoughts]
    if not shares:
        return None
    told = [s for s in shares if s is not None]
    return Consistency(
        thoughts=len(shares),
        wordless=1 - len(told) / len(shares),
        share=sum(told) / len(told) if told else None,
        consistent=sum(s >= CONSISTENT for s in told) / len(told) if told else None,
    )
