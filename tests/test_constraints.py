"""IFEval's kinds: an answer that follows and one that does not for each, the edges, and that no answer can hang one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive.verify import constraints as c
from incentive.verify.constraints import Constraint, ConstraintError, follows, from_ifeval, judge, sentences, words

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["Sun", "moon"]}, "The sun and the Moon.", "The sun alone."),
    ("keywords:frequency", {"keyword": "ha", "frequency": 3, "relation": "at least"}, "Ha ha ha", "ha ha"),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, "badly done", "It is BAD."),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "less than"}, "quick", "Q and q"),
    ("language:response_language", {"language": "de"}, "Das ist ein ganz einfacher deutscher Satz.", "This is an English sentence."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "Only one, e.g. this."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "three words here"),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}, "a\n\nThen, b", "a\n\nb then"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name] of [town]", "Dear [name] of [\ntown]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. more", "Bye. PS more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "Well: My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and b"),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}, "Section 1\nx\nSection 2", "Section one"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:json_format", {"keys": ["a", "b"]}, '{"b": 1, "a": 2}', '{"a": 1}'),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>\ntext"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one ****** one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "What is it?"}, "what is it? A thing.", "A thing."),
    ("startend:end_checker", {"end_phrase": "The end."}, 'Once. "the END."', "The end. More."),
    ("startend:quotation", {}, '"all of it"', '"only" a part'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "NOW or NEVER", "Now or NEVER"),
    ("change_case:english_capital", {}, "THIS IS A PLAIN ENGLISH SENTENCE", "THIS IS NOt"),
    ("change_case:english_lowercase", {}, "this is a plain english sentence", "This is one"),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
    ("startend:start_checker", {"start_phrase": "Dear"}, "dear friend", "My dear"),
    ("change_case:lowercase", {}, "小 words 3", "Words"),
    ("change_case:uppercase", {}, "小 WORDS 3", "Words"),
    ("length_constraints:number_lines", {"num_lines": 2, "relation": "exactly"}, "a\n\nb", "a\nb\nc"),
    ("length_constraints:number_characters", {"num_characters": 3, "relation": "at most"}, "三个字。", "这是四个字"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given_", "good", "bad"), CASES)
def test_every_kind(kind: str, given_: dict[str, Any], good: str, bad: str) -> None:
    assert follows(Constraint(kind, given_), good)
    assert not follows(Constraint(kind, given_), bad)
    assert not follows(Constraint(kind, given_), " \n ")


def test_every_kind_has_a_case_and_25_are_official() -> None:
    assert {k for k, *_ in CASES} == set(c.KINDS)
    assert len(c.OFFICIAL) == 25


def test_relations() -> None:
    count = {r: [c.compared(n, r, 2) for n in (1, 2, 3)] for r in ("less than", "at least", "at most", "exactly")}
    assert list(count.values()) == [
        [True, False, False],
        [False, True, True],
        [True, True, False],
        [False, True, False],
    ]
    with pytest.raises(ConstraintError, match="unknown relation 'over'"):
        c.compared(1, "over", 2)


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("Dr. Smith met J. Doe at 3.5 p.m. on Monday. They talked!", 2),
        ("Really?! Yes... No.", 3),
        ('He said "Stop." Then he left', 2),
        ("1. eat.\n2. sleep.", 2),
        ("你好。今天很好！", 2),
        ("no end at all", 1),
        ("", 0),
    ],
)
def test_sentences(text: str, n: int) -> None:
    assert sentences(text) == n


def test_words_are_runs_of_letters() -> None:
    assert words("don't stop, well-known_thing 3.5") == 7


def test_loose_forgives_a_remark_and_marks() -> None:
    wanted = [Constraint("change_case:english_lowercase"), Constraint("startend:end_checker", {"end_phrase": "bye"})]
    text = "Sure, here you are:\nthis is the plain answer, bye\nI hope this helps!"
    found = judge(wanted, text)
    assert found.strict == (False, False)
    assert found.loose == (True, True)
    assert not found.prompt_strict
    assert found.prompt_loose
    assert judge([wanted[1]], "**bye**").loose == (True,)
    assert judge([], "anything").prompt_strict


def test_rows_of_the_data() -> None:
    rows = from_ifeval(
        ["punctuation:no_comma", "length_constraints:number_words"],
        [{"num_words": None, "relation": None}, {"num_words": 300, "relation": "at least", "keywords": None}],
    )
    assert rows[1].settings == {"num_words": 300, "relation": "at least"}
    assert judge(rows, "word " * 300).strict == (True, True)
    with pytest.raises(ConstraintError, match="unknown instruction 'x:y'"):
        from_ifeval(["x:y"], [{}])
    with pytest.raises(ConstraintError, match="1 instructions, but settings for 2"):
        from_ifeval(["punctuation:no_comma"], [{}, {}])
    with pytest.raises(ConstraintError, match="number_words"):
        follows(Constraint("length_constraints:number_words", {"relation": "at least"}), "x")


ODD = [
    "[",
    "*",
    "**",
    "<<",
    ">>",
    ".",
    "!",
    '"',
    "\n",
    "***",
    "******",
    "P.S.",
    "{",
    "[[",
    " ",
    "a",
    "A",
    ",",
    "-",
    "。",
]


@given(st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=5)), max_size=30))
@settings(max_examples=150, deadline=None)
def test_no_text_raises_and_loose_forgives_at_least_what_strict_does(parts: list[str]) -> None:
    text = "".join(parts)
    for kind, given_, _, _ in CASES:
        if "language" in kind or "english" in kind:
            continue  # the identifier is slow
        found = judge([Constraint(kind, given_)], text)
        assert found.loose >= found.strict


@pytest.mark.parametrize("piece", [*ODD, ". ", "[ ", "* ", "Mr. ", "A.", "a-", "Section ", "p. ", "\n\n", "'", "1"])
def test_time_is_linear_in_the_answer(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    wanted = [Constraint(k, g) for k, g, _, _ in CASES]
    began = time.process_time()
    for one in wanted:
        follows(one, text)
        follows(one, text + "x")
    assert time.process_time() - began < 3
