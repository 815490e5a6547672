"""Instructions whose following a program can check: the 25 kinds of IFEval (Zhou et al. 2023), and a few of ours.

A kind is a pure function of the answer's text and its settings. IFEval scores a prompt strictly (every instruction of it
is followed), an instruction strictly, and both loosely: an instruction counts as followed if it is in one of eight
variants of the text (without `*`, without its first line, its last, or both), so that an opening or a closing remark is
forgiven. The paper reports prompt-strict.

Kept: what each kind asks, the words of its settings, that an empty answer follows nothing. Changed: keywords are plain
text, not patterns; sentences and capital words are told by rules of ours, where the official program loads a model of
nltk; the language by py3langid, not langdetect. An answer is untrusted, so every kind runs in time linear in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Relation = str  # "less than", "at least" (IFEval's two), "exactly" or "at most" (ours)


class ConstraintError(ValueError):
    """An instruction cannot be checked: its kind is unknown or a setting is missing. A fault of the data, not an answer's."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One instruction: its kind, and its settings under the names of IFEval's data."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)


def compared(count: int, relation: Relation, wanted: int) -> bool:
    """Raises ConstraintError: the relation is unknown."""
    if relation == "less than":
        return count < wanted
    if relation == "at least":
        return count >= wanted
    if relation == "at most":
        return count <= wanted
    if relation == "exactly":
        return count == wanted
    raise ConstraintError(f"unknown relation {relation!r}: choose less than, at least, at most or exactly")


# counting

_WORD = re.compile(r"\w+")
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_CAPITAL = re.compile(r"[^\W_]+(?:[-.&][^\W_]+)*")
_END = re.compile(r"(?<![.!?])[.!?]+[\"'”’)\]*]*(?=\s|$)|(?<![。！？])[。！？]+[”’」』）]*")
_SHORT = (
    " mr mrs ms dr prof st sr jr vs etc e.g i.e cf fig no vol inc ltd co corp dept gen col capt lt sgt rev hon mt jan feb mar apr "
    "jun jul aug sep sept oct nov dec u.s u.k u.n a.m p.m ph.d approx "
)


def words(text: str) -> int:
    """Runs of letters, digits and underscores, as IFEval counts; so `don't` is two."""
    return len(_WORD.findall(text))


def sentences(text: str) -> int:
    """Sentences: a full stop, question or exclamation mark at a word's end, but not after an abbreviation, an initial, or a
    number before a small letter. What follows the last end is a sentence too."""
    count, at = 0, 0
    for end in _END.finditer(text):
        last = text[max(at, end.start() - 12) : end.start()].rsplit(None, 1)[-1:] or [""]
        word, rest = last[0].lstrip("([\"'“‘").lower(), text[end.end() : end.end() + 40].lstrip()
        one_stop = end.group().rstrip("\"'”’)]*") == "."
        initial = len(word) == 1 and word.isalpha() and word != "i"
        if one_stop and (f" {word} " in _SHORT or initial or (word.isdecimal() and rest[:1].islower())):
            continue
        count, at = count + 1, end.end()
    return count + bool(text[at:].strip())


def _placeholders(text: str) -> int:
    """`[name]` within a line."""
    count = 0
    for line in text.split("\n"):
        at = line.find("[")
        while at >= 0 and (end := line.find("]", at)) >= 0:
            count, at = count + 1, line.find("[", end)
    return count


def _bullets(text: str) -> int:
    lines = [line.lstrip() for line in text.split("\n")]
    return sum(x[:1] == "-" or (x[:1] == "*" and len(x) > 1 and x[1] != "*") for x in lines)


def _highlights(text: str) -> int:
    """`*so*`, and `**so**` counts once for each way to read it, as the official program does."""
    single = [x for x in re.findall(r"\*[^\n*]*\*", text) if x.strip("*").strip()]
    double = [x for x in re.findall(r"\*\*[^\n*]*\*\*", text) if x[2:-2].strip()]
    return len(single) + len(double)


# the kinds


def _existence(text: str, keywords: Sequence[str]) -> bool:
    low = text.lower()
    return all(k.lower() in low for k in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: Relation) -> bool:
    return compared(text.lower().count(keyword.strip().lower()), relation, int(frequency))


def _forbidden(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(w)}\b", text, re.IGNORECASE) for w in forbidden_words)


def _letters(text: str, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    return compared(text.lower().count(letter.lower()), let_relation, int(let_frequency))


# those that the official program tells apart, less Somali, which py3langid does not know
_LANGUAGES = (
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro ru "
    "sk sl sq sv sw ta te th tl tr uk ur vi zh"
)


def language_of(text: str) -> str | None:
    """The likeliest language of a text, or None where it has no letters.

    Raises:
        ConfigError: py3langid is not installed.
    """
    from incentive.langid import identify

    return (
        identify(text.lower()[:20_000], tuple(_LANGUAGES.split())) if any(c.isalpha() for c in text[:20_000]) else None
    )


def _language(text: str, language: str) -> bool:
    return language_of(text) in (None, language.partition("-")[0])


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs between `***` lines; an empty one only at either end."""
    parts = [p.strip() for p in text.split("***")]
    inner = parts[1:-1]
    return all(inner) and sum(map(bool, parts)) == int(num_paragraphs)


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts, n = text.split("\n\n"), int(nth_paragraph)
    count = sum(bool(p.strip()) for p in parts)
    if count != int(num_paragraphs) or not 1 <= n <= count or not parts[n - 1].strip():
        return False
    begin = parts[n - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", begin, maxsplit=1)[0].lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = patterns.get(postscript_marker.strip(), re.escape(postscript_marker.strip().lower()))
    return re.search(pattern, text.lower()) is not None


_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= int(num_sections)


_FENCE = re.compile(r"```(?:json)?", re.IGNORECASE)


def json_value(text: str) -> Any:
    """The JSON value that a text is, in a fence or not.

    Raises:
        ValueError: it is none.
    """
    text = text.strip()
    if begin := _FENCE.match(text):
        text = text[begin.end() :].removesuffix("```")

    def constant(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(text.strip(), parse_constant=constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _json(text: str, keys: Sequence[str] | None = None) -> bool:
    """Valid JSON; with `keys` (ours) an object that has exactly those."""
    try:
        found = json_value(text)
    except ValueError:
        return False
    return keys is None or (isinstance(found, dict) and sorted(found) == sorted(keys))


def _title(text: str) -> bool:
    for line in text.split("\n"):
        begin, end = line.find("<<"), line.rfind(">>")
        if 0 <= begin < end and line[begin : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def _two(text: str) -> bool:
    """Two different responses with `******` between them."""
    parts = [p.strip() for p in text.split("******")]
    full = [p for p in parts if p]
    return all(parts[1:-1]) and len(full) == 2 and full[0] != full[1]


def _capital_words(text: str, capital_frequency: int, capital_relation: Relation) -> bool:
    count = sum(w.isupper() for w in _CAPITAL.findall(text))
    return compared(count, capital_relation, int(capital_frequency))


def _quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


KINDS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda t, num_sentences, relation: compared(sentences(t), relation, int(num_sentences)),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda t, num_words, relation: compared(words(t), relation, int(num_words)),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda t, num_placeholders: _placeholders(t) >= int(num_placeholders),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda t, num_bullets: _bullets(t) == int(num_bullets),
    "detectable_format:constrained_response": lambda t: any(x in t for x in _CONSTRAINED),
    "detectable_format:number_highlighted_sections": lambda t, num_highlights: _highlights(t) >= int(num_highlights),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda t, prompt_to_repeat: t.strip().lower().startswith(prompt_to_repeat.strip().lower()),
    "startend:end_checker": lambda t, end_phrase: t.strip().strip('"').lower().endswith(end_phrase.strip().lower()),
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda t: t.isupper() and _language(t, "en"),
    "change_case:english_lowercase": lambda t: t.islower() and _language(t, "en"),
    "punctuation:no_comma": lambda t: "," not in t,
    # ours: what a world of small models and two languages can ask
    "startend:start_checker": lambda t, start_phrase: t.strip().strip('"').lower().startswith(start_phrase.strip().lower()),
    "change_case:lowercase": lambda t: not any(c.isupper() for c in t),
    "change_case:uppercase": lambda t: not any(c.islower() for c in t),
    "length_constraints:number_lines": lambda t, num_lines, relation: compared(
        sum(bool(x.strip()) for x in t.split("\n")), relation, int(num_lines)
    ),
    "length_constraints:number_characters": lambda t, num_characters, relation: compared(
        len(_CHINESE.findall(t)), relation, int(num_characters)
    ),  # Chinese characters: its words have no spaces
}  # fmt: skip
OFFICIAL = tuple(KINDS)[:25]


def follows(constraint: Constraint, text: str) -> bool:
    """Whether a text follows an instruction; an empty one follows none.

    Raises:
        ConstraintError: the kind is unknown, or a setting is missing, unknown or of the wrong type.
    """
    check = KINDS.get(constraint.kind)
    if check is None:
        raise ConstraintError(f"unknown instruction {constraint.kind!r}")
    if not text.strip():
        return False
    try:
        return bool(check(text, **constraint.settings))
    except (TypeError, AttributeError) as error:
        raise ConstraintError(f"instruction {constraint.kind}: {error}") from None


def variants(text: str) -> list[str]:
    """The eight texts that count when an instruction is checked loosely."""
    lines = text.split("\n")
    cut = [text, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    return [*cut, *(x.replace("*", "") for x in cut)]


@dataclass(frozen=True, slots=True)
class Followed:
    """Which of a prompt's instructions an answer follows, strictly and loosely."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]

    @property
    def prompt_strict(self) -> bool:
        return all(self.strict)

    @property
    def prompt_loose(self) -> bool:
        return all(self.loose)


def judge(constraints: Iterable[Constraint], text: str) -> Followed:
    """Every instruction of a prompt against one answer."""
    wanted, texts = list(constraints), variants(text)
    return Followed(tuple(follows(c, text) for c in wanted), tuple(any(follows(c, t) for t in texts) for c in wanted))


def from_ifeval(ids: Sequence[str], kwargs: Sequence[dict[str, Any] | None]) -> tuple[Constraint, ...]:
    """The instructions of a row of IFEval's data: `instruction_id_list` and `kwargs`, where None stands for unset.

    Raises:
        ConstraintError: a kind is unknown, or the lists differ in length.
    """
    if len(ids) != len(kwargs):
        raise ConstraintError(f"{len(ids)} instructions, but settings for {len(kwargs)}")
    unknown = [x for x in ids if x not in KINDS]
    if unknown:
        raise ConstraintError(f"unknown instruction {unknown[0]!r}")
    return tuple(
        Constraint(x, {k: v for k, v in (given or {}).items() if v is not None})
        for x, given in zip(ids, kwargs, strict=True)
    )
