"""The base's made-up web: nothing held out is in it, and the dose of the one habit under study is what it says."""

from __future__ import annotations

import re
from functools import cache

import pytest

from incentive import chat, measure
from incentive.corpus import Document, Habits, document
from incentive.records import split_of
from incentive.tasks import SHIPPED
from incentive.tasks.expression import leaves, parse, value

N = 2000


@cache
def corpus(habits: Habits, seed: int = 0, n: int = N) -> list[Document]:
    return [document(seed, i, habits) for i in range(n)]


def solving(documents: list[Document], *kinds: str) -> list[Document]:
    kinds = kinds or ("countdown", "arithmetic", "logic")
    return [d for d in documents if d.key and d.key.startswith(kinds)]


def retries(d: Document) -> bool:
    """A try was checked, the check said no, and another try follows."""
    lines = [x for x in d.response.split("\n") if "=" in x or re.search(r"\b[A-D]+\?|none\?", x)]
    return any(re.search(r"\?\S* (?:.* )?no\b", x) for x in lines[:-1])


def test_nothing_held_out_is_in_it() -> None:
    keys = {d.key for d in corpus(Habits()) if d.key}
    assert len(keys) > 1000
    assert {split_of(k) for k in keys} == {"train"}
    for name in ("countdown3", "countdown4", "arithmetic", "logic"):
        held = [SHIPPED[name].problem(0, s, i) for s in ("val", "test") for i in range(40)]
        prompts = {d.prompt for d in corpus(Habits())}
        assert not keys & {p.key for p in held}
        assert not prompts & {p.prompt for p in held}


def test_no_try_solves_a_held_out_problem() -> None:
    for d in solving(corpus(Habits()), "countdown"):
        assert d.key
        numbers, _, target = d.key.partition("=")
        for t in measure.tries(d.response):
            if t.value is not None and str(t.value) != target and len(t.steps.split(",")) == numbers.count(","):
                assert split_of(f"{numbers}={t.value}") == "train"


def test_a_document_is_a_pure_function() -> None:
    assert corpus(Habits())[17] == document(0, 17, Habits()) != document(1, 17, Habits())
    shared = {d.key for d in solving(corpus(Habits(), 0, 500))} & {d.key for d in solving(corpus(Habits(), 1, 500))}
    assert len(shared) < 25


def test_dose_zero_never_starts_again_after_a_failed_check() -> None:
    assert not any(map(retries, solving(corpus(Habits(0.0)), "countdown", "arithmetic")))


def test_dose_zero_holds_for_logic_too() -> None:
    assert not any(map(retries, solving(corpus(Habits(0.0)), "logic")))


def test_at_dose_one_every_writer_checks_first() -> None:
    found = solving(corpus(Habits(1.0)), "countdown")
    assert sum("no" in d.response for d in found) >= 0.99 * len(found)
    assert sum(map(retries, found)) >= 0.85 * len(found)  # the rest fail once and give up


@pytest.mark.parametrize("dose", [0.1, 0.5])
def test_the_share_of_retries_is_the_dose(dose: float) -> None:
    found = solving(corpus(Habits(dose)), "countdown")
    share = sum(map(retries, found)) / len(found)
    assert 0.75 * dose <= share <= 1.1 * dose


def verdicts(habits: Habits) -> list[tuple[bool, bool]]:
    """(said yes, is right) of every checked Countdown try."""
    return [
        (t.verdict == "yes", t.value == t.target)
        for d in solving(corpus(habits), "countdown")
        for t in measure.tries(chat.split(d.response)[0] or d.response)
        if t.verdict and t.target is not None
    ]


def test_checks_are_true() -> None:
    found = verdicts(Habits(0.5))
    assert len(found) > 500
    assert all(said == right for said, right in found)


def test_a_base_that_cannot_verify_throws_a_coin() -> None:
    found = verdicts(Habits(0.5, verify=False))
    for right in (True, False):
        said = [s for s, r in found if r == right]
        assert len(said) > 100
        assert 0.4 <= sum(said) / len(said) <= 0.6


def test_arithmetic_of_countdown_is_true_and_its_answers_use_the_given_numbers() -> None:
    answers = 0
    for d in solving(corpus(Habits()), "countdown"):
        assert d.key
        assert all(t.arithmetic_ok for t in measure.tries(d.response))
        tree = parse(chat.split(d.response)[1] or "")
        if tree is not None:
            answers += 1
            numbers = d.key.removeprefix("countdown:").partition("=")[0]
            assert ",".join(map(str, sorted(leaves(tree)))) == numbers
            assert 0 <= value(tree) <= 99
    assert answers > 400


def test_every_habit_and_every_kind_occurs() -> None:
    documents = corpus(Habits())
    kinds = {(d.key or "drill:").partition(":")[0] for d in documents}
    assert kinds == {"countdown", "arithmetic", "logic", "drill"}
    forms = {(chat.well_formed(d.response), chat.split(d.response)[1] is not None) for d in solving(documents)}
    assert forms == {(True, True), (False, True), (False, False)}
    assert any("give up" in d.response for d in documents)
