"""Filters of training texts: each reason by name, duplicates that are ones, contamination that cannot hide."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive.config import Readable
from incentive.curation import (
    Held,
    Shared,
    Text,
    contaminated,
    near_duplicates,
    repeated_lines,
    repeated_runs,
    same,
    tally,
    units,
    unreadable,
)
from incentive.records import Problem
from incentive.tasks import SHIPPED
from incentive.tasks.jsonl import content

RNG = random.Random(4)
WORDS = ["".join(RNG.choice("abcdefghij") for _ in range(6)) for _ in range(3000)]


def text(n: int) -> str:
    return " ".join(RNG.choice(WORDS) for _ in range(n))


# readable

GOOD = "3+7=10,10*2=20?25 no wait\n7+2=9,9*3=27?25 no\n10*2=20,20+5=25?25 yes"


def test_a_plain_thought_is_readable() -> None:
    assert unreadable(GOOD, language="en") == []
    assert unreadable("先看题目。\n3+7=10?25 不对 等等\n10+15=25?25 对", language="zh") == []
    assert unreadable("I look at both numbers.\n\nTheir sum is 12, which is not 25. ", language="en") == []
    assert unreadable("3+7=10", language="zh") == []  # no word, no language


@pytest.mark.parametrize(
    ("thinking", "reason"),
    [
        ("", "length"),
        ("so it is " * 30, "repetition"),
        ("不对等等再试一次" * 10, "repetition"),  # no spaces
        ("3+7=10?25 no\n" * 3 + GOOD, "repetition"),
        ("3+7=10?25 no\nwait 3+7 = 10?25 no\nhmm 3+7=10?25", "repetition"),  # the same tries in other lines
        ("3+7=10?25 不对 wait no", "language"),
        ("一 二 三 not", "language"),
        (text(200), "paragraph"),
        ("we try\n```python\nx = 1\n```\nand see", "code"),
        ("def f(x):\n    y = x + 1\n    return y", "code"),
    ],
)
def test_reasons(thinking: str, reason: str) -> None:
    assert reason in unreadable(thinking, language="zh" if "一" in thinking else "en")


def test_every_reason_is_given_and_limits_are_settings() -> None:
    bad = "```\nx\n```\n" + "so " * 500 + "不" * 100
    assert unreadable(bad, language="en") == ["repetition", "language", "paragraph", "code"]
    off = Readable(repeated=1.0, lines=1.0, language=0.0, paragraph=10_000)
    assert unreadable(bad, off, "en") == ["code"]
    assert unreadable("short", Readable(shortest=10)) == ["length"]
    assert unreadable("much longer", Readable(longest=10)) == ["length"]
    assert "language" not in unreadable(bad)  # no target


def test_repetition_by_hand() -> None:
    assert repeated_runs("a b c d a b c d", 3) == pytest.approx(2 / 6)  # abc and bcd again
    assert repeated_runs("a b", 3) == 0
    assert repeated_lines("a\nb\n a \n\nc") == 0.25
    assert units("Don't 3.5x 不对!") == ["don", "t", "3", "5", "x", "不", "对"]


@given(st.text(max_size=400))
def test_any_thought(thinking: str) -> None:
    assert set(unreadable(thinking, language="en")) <= {"length", "repetition", "language", "paragraph", "code"}


# duplicates


def changed(words: str, n: int) -> str:
    found = words.split()
    for i in RNG.sample(range(len(found)), n):
        found[i] = f"x{RNG.choice(WORDS)}{RNG.choice(WORDS)}"
    return " ".join(found)


def jaccard(a: str, b: str, n: int = 5) -> float:
    x, y = ({tuple(w[i : i + n]) for i in range(max(1, len(w) - n + 1))} for w in (units(a, True), units(b, True)))
    return len(x & y) / len(x | y)


def test_near_duplicates_against_all_pairs() -> None:
    originals = [text(100) for _ in range(150)]
    every = originals + [changed(t, 1 + i % 6) for i, t in enumerate(originals)]
    found = near_duplicates(every, 0.8)
    assert found[:150] == [None] * 150
    truth = [jaccard(every[i], every[150 + i]) >= 0.8 for i in range(150)]
    said = [x is not None for x in found[150:]]
    assert not any(s and not t for s, t in zip(said, truth, strict=True))  # the exact similarity decides
    assert sum(s and t for s, t in zip(said, truth, strict=True)) >= 0.93 * sum(truth)
    assert all(x in (None, i) for i, x in enumerate(found[150:]))
    assert 40 < sum(truth) < 110


def test_the_first_stays_and_only_kept_texts_count() -> None:
    a = text(120)
    chain = [a, changed(a, 2), a, "", "", "short", "Short!", "x"]
    assert near_duplicates(chain) == [None, 0, 0, None, 3, None, None, None]
    assert near_duplicates(chain, known=[a], among=False)[:3] == [0, 0, 0]
    assert near_duplicates([text(30)] * 2, known=["other"], among=False) == [None, None]
    assert near_duplicates([]) == []
    assert same(" a\n b ") == same("a b")
    assert same("e\u0301") == same("é")


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8, 0.9])
def test_pairs_are_met_at_any_threshold(threshold: float) -> None:
    originals = [text(60) for _ in range(100)]
    copies = [changed(t, 1 + i % 4) for i, t in enumerate(originals)]
    truth = [jaccard(a, b) >= threshold for a, b in zip(originals, copies, strict=True)]
    found = near_duplicates(copies, threshold, originals, among=False)
    assert sum(f is not None for f in found) >= 0.9 * sum(truth)
    assert all(t for f, t in zip(found, truth, strict=True) if f is not None)


@settings(max_examples=50)
@given(st.lists(st.text(alphabet="ab 不\n", max_size=30), max_size=8))
def test_duplicates_of_any_texts(texts: list[str]) -> None:
    found = near_duplicates(texts)
    for i, at in enumerate(found):
        if at is not None:
            assert at < i
            assert found[at] is None
            assert jaccard(texts[i], texts[at]) >= 0.8
    assert all(
        found[texts.index(t)] is not None or texts.index(t) == i or found[i] is not None for i, t in enumerate(texts)
    )


# contamination


def test_ten_words_and_not_nine() -> None:
    held = Held({"aime": (Text(text(40), text(40)), Text(text(40)))})
    first = units(held.sets["aime"][0].prompt)
    solution = units(held.sets["aime"][0].more)
    rows = [
        Text(text(30) + " " + ", ".join(first[5:15]).upper() + "? " + text(30)),
        Text(text(30) + " " + " ".join(first[5:14]) + " " + text(30)),
        Text(text(30), text(10) + " ".join(["", *solution[20:30], ""]) + text(5)),
        Text(text(50)),
    ]
    assert contaminated(rows, held) == [Shared("aime", "words"), None, Shared("aime", "words"), None]
    assert contaminated(rows, Held(held.sets, n=9))[1] == Shared("aime", "words")
    assert contaminated(rows, Held()) == [None] * 4
    assert tally(contaminated(rows, held), held) == {"aime": {"texts": 2, "key": 0, "words": 2, "near": 0}}
    assert contaminated([], held) == []


def test_a_run_does_not_cross_from_one_text_into_the_next() -> None:
    ten = units(text(10))
    rows = [Text(text(20) + " " + " ".join(ten[:5])), Text(" ".join(ten[5:]) + " " + text(20))]
    assert contaminated(rows, Held({"e": (Text(" ".join(ten)),)})) == [None, None]


def test_short_texts_are_compared_whole() -> None:
    held = Held({"short": (Text("What is 7*8?", "56"), Text("...", "!"))})
    rows = [
        Text("what is 7 * 8", text(40)),
        Text("What is 7*8? And then add 5", text(9)),
        Text("!?", "..."),
        Text("7 8", "9"),
    ]
    assert contaminated(rows, held) == [Shared("short", "words"), None, None, None]


def test_chinese_by_ideographs() -> None:
    question = "小明有十二个苹果给了小红五个还剩几个"
    held = Held({"zh": (Text(question),)})
    assert contaminated([Text("请问：" + question[2:13] + "呢"), Text(question[:9])], held) == [
        Shared("zh", "words"),
        None,
    ]


def test_a_paraphrase_of_the_prompt_is_near() -> None:
    question = text(40).split()
    other = [
        *question[:9],
        "zzz",
        *question[9:18],
        "zzz",
        *question[18:27],
        "zzz",
        *question[27:36],
        "zzz",
        *question[36:],
    ]
    held = Held({"e": (Text(" ".join(question), "42"),)}, threshold=0.3)
    assert contaminated([Text(" ".join(other), text(300))], held) == [Shared("e", "near")]


def test_a_content_key_decides_where_there_is_one() -> None:
    task = SHIPPED["countdown3"]
    tests, train = ([task.problem(0, split, i) for i in range(50)] for split in ("test", "train"))
    held = Held.of({"countdown": tests})
    assert contaminated([Text.of(p) for p in train], held) == [None] * 50  # one template, other content
    again = Problem("x", tests[3].key, "make it differently", "1")
    assert contaminated([Text.of(again)], held) == [Shared("countdown", "key")]
    asked = "How many days does the month of February have in a leap year?"
    plain = Problem("y", content(asked), asked, "29")
    assert Text.of(plain).key is None
    assert contaminated([Text.of(plain, "29")], Held.of({"e": [plain]})) == [Shared("e", "words")]


def test_a_held_set_has_a_version() -> None:
    a, b = Held({"e": (Text("one"),)}), Held({"e": (Text("two"),)})
    assert a.version == Held({"e": (Text("one"),)}).version != b.version != Held(b.sets, n=13).version


def test_hashes_are_the_same_everywhere() -> None:
    from incentive.curation import _runs

    hashes, counts = _runs([["a", "b", "c", "不"], ["a"], []], 3)
    assert counts.tolist() == [2, 1, 1]
    assert hashes.tolist() == [5853666015111585649, 15991847386815777718, 13924241962069754241, 8493733112532773764]


def test_names_of_a_chinese_prompt_are_no_language() -> None:
    asked, said = "告诉 ann blee 的年龄", "blee 年龄 45 好"
    assert unreadable(said, language="zh") == ["language"]
    assert unreadable(said, language="zh", prompt=asked) == []
    assert unreadable("blee 年龄 45 wait 好", language="zh", prompt=asked) == ["language"]
    assert unreadable("blee 年龄 age is", language="en", prompt="tell the age of blee") == ["language"]
