"""The wide world: its tasks have enough content, its documents hold nothing held out, its ground truth can tell."""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import combinations
from random import Random

import numpy as np
import pytest

from incentive import chat, facts, measure
from incentive.corpus import Document, Habits, document
from incentive.records import split_of
from incentive.tasks import SHIPPED
from incentive.tasks.choice import Choice
from incentive.tasks.general import General, rubric
from incentive.tasks.harm import Harm, refuses, tells_how
from incentive.tasks.instruct import Instruct, words
from incentive.tasks.program import INPUTS, Function, Program


@cache
def corpus(dose: float = 0.05) -> list[Document]:
    return [document(0, i, Habits(dose, wide=True)) for i in range(3000)]


def han(text: str) -> bool:
    return any("一" <= c <= "鿿" for c in text)


def test_the_first_world_stays_bit_for_bit() -> None:
    told = "".join(repr(document(0, i, Habits(0.1))) for i in range(500))
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "6d636c99d1251603"


def test_nothing_held_out_is_in_the_corpus() -> None:
    keys = {d.key for d in corpus() if d.key}
    assert {split_of(k) for k in keys} == {"train"}
    kinds = {k.partition(":")[0] for k in keys}
    assert kinds == {"countdown", "arithmetic", "logic", "program", "choice", "instruct", "general", "harm"}
    prompts = {d.prompt for d in corpus()}
    for task in SHIPPED.values():
        held = [task.problem(0, split, i) for split in ("val", "test") for i in range(20)]
        assert not keys & {p.key for p in held}
        assert not prompts & {p.prompt for p in held}


def test_no_wrong_try_tells_a_held_out_function() -> None:
    for d in corpus():
        if d.key and d.key.startswith("program:") and (answer := chat.split(d.response)[1] or "").startswith("def f"):
            body = answer.removeprefix("def f(x): return ")
            values = ",".join(str(_value(body, x)) for x in INPUTS)
            assert split_of(f"program:{values}") == "train"


def _value(body: str, x: int) -> int:
    """The function that our own documents wrote: brackets, + - * // % and one `if`."""
    if " if " in body:
        low, _, rest = body.partition(" if x<")
        under, _, high = rest.partition(" else ")
        return _value(low if x < int(under) else high, x)
    assert set(body) <= set("x0123456789+-*/%()"), body
    return int(eval(body, {"__builtins__": {}}, {"x": x}))


def test_prompts_of_both_languages_and_mixed_thoughts() -> None:
    solving = [d for d in corpus() if d.key and d.key.startswith(("countdown", "logic", "choice", "program"))]
    chinese = [d for d in solving if han(d.prompt)]
    assert 0.4 < len(chinese) / len(solving) < 0.6
    thoughts = [chat.split(d.response)[0] for d in solving if not han(d.prompt)]
    spoken = [t for t in thoughts if han(t) or any(w in t for w in ("yes", "no", "wait"))]
    assert 0.1 < sum(map(han, spoken)) / len(spoken) < 0.4


@pytest.mark.parametrize("dose", [0.0, 1.0])
def test_the_dose_holds_in_both_languages(dose: float) -> None:
    found = []
    for i in range(1500):
        d = document(1, i, Habits(dose, wide=True))
        if d.key and d.key.startswith("countdown"):
            tries = measure.tries(chat.split(d.response)[0] or d.response)
            found.append(any(t.verdict == "no" for t in tries[:-1]))
    assert len(found) > 300
    assert sum(found) == 0 if dose == 0 else sum(found) > 0.85 * len(found)


def test_checks_are_true_in_both_languages() -> None:
    seen = {"yes": 0, "no": 0}
    for d in corpus(0.5):
        if d.key and d.key.startswith("countdown"):
            for t in measure.tries(chat.split(d.response)[0] or d.response):
                assert t.arithmetic_ok
                if t.verdict:
                    assert (t.verdict == "yes") == (t.value == t.target)
                    seen[t.verdict] += 1
    assert min(seen.values()) > 100


def test_verdicts_and_reflections_are_read_in_chinese() -> None:
    said = measure.tries("3+7=10?25 不对 等等\n3*7=21?21 对")
    assert [t.verdict for t in said] == ["no", "yes"]
    assert measure.reflections("不对 等等\n重来, but wait") == 4


# enough content


def test_choice_has_over_50_000_problems() -> None:
    assert len(list(combinations(facts.SUBSTANCES, 4))) * 2 * len(facts.NUMERIC) > 50_000
    assert all(len({facts.number(s, a) for s in facts.SUBSTANCES}) == len(facts.SUBSTANCES) for a in facts.NUMERIC)


def test_program_has_over_50_000_functions() -> None:
    """Counted by what they compute: x + a or x * a for small x, x % b + c for the others."""
    x = np.arange(len(INPUTS))
    low = [x + a for a in range(2, 21)] + [x * a for a in range(2, 7)]
    high = [x % b + c for b in range(2, 21) for c in range(2, 21)]
    rows = [np.where(x < under, a, b) for under in range(3, 18) for a in low for b in high]
    assert len({r.tobytes() for r in rows}) > 50_000


@pytest.mark.parametrize("task", [Instruct(), General(), Harm()], ids=lambda t: t.name)
def test_requests_have_over_50_000_contents(task: Instruct | General | Harm) -> None:
    rng, keys = Random(0), set()
    for _ in range(130_000):
        keys.add(task.key(task.draw(rng)))  # type: ignore[arg-type]
        if len(keys) > 50_000:
            return
    raise AssertionError(len(keys))


@pytest.mark.parametrize("name", ["countdown3", "logic", "choice", "program", "instruct", "general", "harm"])
def test_a_problem_is_the_same_content_in_both_languages(name: str) -> None:
    keys = [{SHIPPED[n].problem(0, "train", i).key for i in range(30)} for n in (name, f"{name}-zh")]
    assert all(split_of(k) == "train" for k in keys[0] | keys[1])
    assert not any(han(str(SHIPPED[name].problem(0, "val", i).prompt)) for i in range(30))
    assert all(han(str(SHIPPED[f"{name}-zh"].problem(0, "val", i).prompt)) for i in range(30))


# programs


def test_a_function_reads_as_python_computes() -> None:
    rng, task = Random(3), Program()
    for _ in range(300):
        if (drawn := task.draw(rng)) is not None:
            function, shown, _ = drawn
            assert [_value(function.expression, x) for x in INPUTS] == function.outputs()
            assert all(0 <= step[3] <= 99 for x in shown for step in function.trace(x))


def test_brackets_only_where_python_needs_them() -> None:
    assert Function((("+", 3), ("*", 2), ("%", 7))).source == "def f(x): return (x+3)*2%7"
    assert Function((("*", 3),), (("-", 2),), 5).expression == "x*3 if x<5 else x-2"


# ground truth


def test_every_point_of_the_rubric_can_be_lost() -> None:
    ask = ("facts", "ann", "party", ("zor", "mal"), "weight")
    good = General().gold_of(ask)
    assert all(rubric(ask, "en", good).values())
    worse = {
        "says what is asked": good.replace("mal", "kib"),
        "no wrong number": good + " 9",
        "language": "你好 ann 重量 " + good,
        "length": good + " it is nice." * 3,
        "courtesy": good.replace("hello", "so"),
        "no flattery": "great question! " + good,
    }
    for point, answer in worse.items():
        assert not rubric(ask, "en", answer)[point], point


def test_harm_is_told_from_its_look_alike() -> None:
    task = Harm()
    for i in range(200):
        p = task.problem(0, "train", i)
        ask = (True, "steal", p.tags["person"], "zor", "party")
        assert task.check(p, p.answer)
        assert tells_how(task.steps(ask))
        assert refuses(task.refusal(ask)) == p.tags["harmful"] or not p.tags["harmful"]
        assert not task.check(p, task.steps(ask))
        assert not task.check(p, "")
    fine = next(p for i in range(50) if not (p := task.problem(0, "train", i)).tags["harmful"])
    assert not task.check(fine, task.refusal((False, "steal", fine.tags["person"], "zor", "party")))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_constraints_are_kept_by_gold_and_broken_by_little(language: facts.Language) -> None:
    task = Instruct(language=language)
    kinds = set()
    for i in range(200):
        p = task.problem(0, "train", i)
        kinds.add(p.tags["kind"])
        gold = task.gold(p)
        assert task.check(p, gold)
        broken = {
            "words": f"{gold} zor",
            "list": f"{gold},{p.tags['more'][-1]}",
            "json": gold.replace("}}", ',"x":"1"}}'),
            "end": f"{gold} 1",
        }
        assert not task.check(p, broken[p.tags["kind"]])
    assert kinds == {"words", "json", "list", "end"}
    assert words("用 zor 46 重量") == ["用", "zor", "46", "重", "量"]


def test_choice_gold_is_the_extreme() -> None:
    p = Choice().problem(0, "train", 5)
    assert sum(Choice().check(p, letter) for letter in "ABCD") == 1
