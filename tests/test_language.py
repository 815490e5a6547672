"""The word rule of the language reward: what counts for which language, and what cannot be hidden."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rewards import sample

from incentive import chat, rewards
from incentive.language import (
    Consistency,
    code_block,
    consistency,
    is_code,
    language_share,
    language_words,
)
from incentive.records import Problem


def words(text: str) -> dict[str, int]:
    return language_words(text)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("3+7=10,10*2=20?25 no wait", {"en": 2}),
        ("3+7=10?25 不对 等等", {"zh": 4}),
        ("?25 不对 wait", {"zh": 2, "en": 1}),
        ("Don't stop, ré-essaie", {"en": 4}),  # an apostrophe joins, a hyphen parts
        ("I have x and a y", {"en": 2}),  # one letter is a name
        ("wait1 no2 x1 3D", {"en": 2}),  # digits hide no word
        ("カタカナ と 漢字", {"ja": 2, "zh": 2}),
        ("안녕 하세요 привет γεια", {"ko": 2, "ru": 1, "el": 1}),
        ("ｗａｉｔ 𝐰𝐚𝐢𝐭", {"en": 2}),  # letters in another dress
        ("ⴰⵎⴰⵣⵉⵖ", {"other": 1}),
        ("", {}), ("12+3=15 😀 … ?!", {}), ("x = y", {}),
    ],
)  # fmt: skip
def test_words_by_script(text: str, counts: dict[str, int]) -> None:
    assert words(text) == counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("```python\ndef double(number):\n    return number * 2\n```\n所以", {"zh": 2}),
        ("对 `double(number)` 了", {"zh": 2}),
        ("total = first + second\n对", {"zh": 1}),
        ("for item in items:\n    print(item)\n对", {"zh": 1}),
        ("x = '不对'  # 等等", {"zh": 4}),  # strings, comments and ideographs are never code
        ("print('think about it')", {"en": 3}),
        (r"$\frac{ab}{cd}+\alpha$ 所以 \(xy\) $$\sum ab$$", {"zh": 2}),
        (r"\[ v=\text{the speed} \] 对", {"en": 2, "zh": 1}),
        (r"\begin{aligned} xy &= 3 \end{aligned}", {}),
    ],
)  # fmt: skip
def test_code_and_formulas_are_no_words(text: str, counts: dict[str, int]) -> None:
    assert words(text) == counts


@pytest.mark.parametrize(
    "hiding",
    [
        "```\nwe look at this number again\n```", "`we look at this number`", "$we look at this number$",
        r"\we \look \at \this \number", r"\(we look at this number\)", "$5 we look at this number$",
        "x = we look at this number;", "```\nwe look at this number",
    ],
)  # fmt: skip
def test_nothing_hides_prose(hiding: str) -> None:
    assert words(hiding)["en"] >= 5
    assert (language_share(hiding + "\n对", "zh") or 0) < 0.2


def test_lines_of_a_thought_are_no_code() -> None:
    for line in (
        "3+7=10,10+25=35?46 no",
        "wait 3+7=10",
        "for example:",
        "so x = 5 then",
        "f(3)=9",
        "a=3 so",
        "no wait;",
    ):
        assert not is_code(line) or not re.search("[a-z]{2}", line), line
    assert words("wait 3+7=10\na=3 so\nno wait;") == {"en": 4}


def test_a_block_of_code_is_seen() -> None:
    assert code_block("so\n```\nx\n```")
    assert code_block("def f(x):\n    y = x + 1\n    return y")
    assert not code_block("x = 3\nthen we see\ny = 4")
    assert not code_block("use ``` as a fence")


def test_shares() -> None:
    assert language_share("不对 wait 等", "zh") == 0.75
    assert language_share("不对 wait 等", "en") == 0.25
    assert language_share("これは漢字", "ja") == 1.0
    assert language_share("1+1=2", "en") is None
    with pytest.raises(ValueError, match="unknown language 'xx'"):
        language_share("so", "xx")


def test_languages_of_one_script() -> None:
    pytest.importorskip("py3langid")
    english = "We first look at the two numbers and then check whether their sum is what the question asks for."
    french = "Nous regardons d'abord les deux nombres et puis nous vérifions si leur somme est celle de la question."
    assert language_share(french, "fr") == 1.0
    assert language_share(english, "fr") == 0.0
    assert 0.3 < (language_share(f"{english} {french}", "fr") or 0) < 0.7
    assert language_share(english + french, "en") == 1.0  # as a script, unless French is among the choices
    assert (language_share(f"{english} {french}", "en", ("fr",)) or 0) < 0.7
    assert language_share("对", "fr") == 0.0


def reward(*thoughts: str, lang: str | None = "zh") -> list[float | None]:
    problem = Problem("p", "k", "?", "1", {} if lang is None else {"language": lang})
    return rewards.language(problem, [sample(chat.perfect(t, "all in English"), i) for i, t in enumerate(thoughts)])


def test_the_reward_reads_the_thinking_alone() -> None:
    assert reward("3+4=7 对", "3+4=7 对 yes 好", "yes") == [1.0, 2 / 3, 0.0]


def test_saying_nothing_is_not_paid() -> None:
    assert reward("", "3+4=7", "x", "```\nx = 1\n```") == [0.0] * 4
    problem = Problem("p", "k", "?", "1", {"language": "en"})
    assert rewards.language(problem, [sample("")]) == [0.0]


def test_a_problem_without_a_language_cannot_be_graded() -> None:
    scores = rewards.each({"language": rewards.language}, {"language": 1.0})(
        Problem("p", "k", "?", "1"), [sample("so")]
    )
    assert scores[0].total is None
    assert 'tags["language"]' in str(scores[0].error)


def test_consistency() -> None:
    thoughts = [("对 对", "zh"), ("对 no", "zh"), ("wait no", "en"), ("1+1", "en")]
    assert consistency(thoughts) == Consistency(4, 0.25, pytest.approx((1 + 0.5 + 1) / 3), pytest.approx(2 / 3))
    assert consistency([("1", "en")]) == Consistency(1, 1.0, None, None)
    assert consistency([]) is None
    nearly = "wait " * 19 + "对"
    assert consistency([(nearly, "en")]).consistent == 1.0  # type: ignore[union-attr]
    assert consistency([(nearly + " 不", "en")]).consistent == 0.0  # type: ignore[union-attr]


PIECES = st.sampled_from(["```", "\n", "`", "$", "\\", "\\(", "\\)", "\\text{", "}", "def f(x):", "return", " no wait", "不对", "=", "x",
                          "'", '"', "#", ";", "{", "é", "か", "한", "e\u0301"])  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=40).map("".join))
def test_any_text(text: str) -> None:
    counts = words(text)
    assert all(n > 0 for n in counts.values())
    assert sum(counts.values()) <= len(text)
    share = language_share(text, "en")
    assert share is None or 0 <= share <= 1
    assert (share is None) == (not counts)
    assert counts.get("zh", 0) == sum("\u4e00" <= c <= "\u9fff" or "\u3400" <= c <= "\u4dbf" or "\uf900" <= c <= "\ufaff"
                                      or "\U00020000" <= c <= "\U0003ffff" for c in text)  # fmt: skip
    assert 0.0 <= (reward(text)[0] or 0.0) <= 1.0


@pytest.mark.parametrize(
    "piece",
    ["`", "```\n", "$", "\\(", "\\[", "\\", "a'", "x=b ", "if ", "(;", "a b, ", "e\u0301\u0327", "不a", "\\text{", "'", '"', " ", "{;", "#"],
)  # fmt: skip
def test_time_is_linear(piece: str) -> None:
    """200 kB of any piece take a tenth of a second; a quadratic rule would take minutes."""
    text = piece * (200_000 // len(piece))
    began = time.monotonic()
    words(text)
    assert time.monotonic() - began < 5


def test_a_sample_that_was_cut_counts_as_it_stands() -> None:
    cut = replace(sample("<think>对 wait"), stop="length")
    assert rewards.language(Problem("p", "k", "?", "1", {"language": "zh"}), [cut]) == [0.5]


def test_the_miniatures_thoughts_are_wholly_in_one_language() -> None:
    """Letters of people and options, computations and code in backticks are no words; capitals hide no prose."""
    for thought in (
        "BD? A 好 B 好 C 好 D 不对 不对 等等\nAC? A 好 对", "3+7=10,10*2=20?46 不对 等等\n3*7=21?21 对",
        "`x*4 if x<4 else x*6-3`?f(5) 5*6=30,30-3=27?27 好 对", "D 32?A 1 好 B 94 不对 不对 但是\nB 94?A 1 好 对",
    ):  # fmt: skip
        assert language_share(thought, "zh") == 1.0, thought
        assert language_share(thought, "en") == 0.0
    assert language_share("NO WAIT, TRY AGAIN 对", "zh") < 0.5  # type: ignore[operator]


def test_spoken_counts_the_whole_response() -> None:
    def worth(text: str, **tags: str) -> float | None:
        return rewards.spoken(Problem("p", "k", "?", "1", dict(tags)), [sample(text)])[0]

    assert worth(chat.perfect("", "hello there"), language="en") == 1.0
    assert worth(chat.perfect("", "你好"), language="en") == 0.0
    assert worth(chat.perfect("你好", "hello there"), language="en") == 0.5
    assert worth("no tags", language="en") == 1.0  # all of it is thinking
    assert worth(chat.perfect("", "12"), language="en") == 0.0
    assert worth(chat.perfect("", "你好")) == 1.0
