"""Tags: which answer counts, what is well formed, and that no text takes long."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive import chat

SPLITS = [
    ("<think>a</think><answer>5</answer>", "a", "5"),
    ("<think>a</think>\n<answer> 5 </answer>\n", "a", "5"),
    ("a</think><answer>5</answer>", "a", "5"),
    ("a<answer>5</answer>", "a", "5"),
    ("", "", None),
    ("5", "5", None),
    ("<think>a", "a", None),
    ("<think>a</think>", "a", None),
    ("<think>a</think>5", "a", None),
    ("<think>a</think><answer>5", "a", None),
    ("<think>a</think>5</answer>", "a", None),
    ("<think>a</think></answer>5<answer>", "a", None),
    ("<think>a</think><answer></answer>", "a", ""),
    ("<think>a</think><answer>1</answer><answer>2</answer>", "a", "2"),
    ("<think>a</think><answer>1<answer>2</answer>", "a", "1<answer>2"),
    ("<think>a</think><answer>1</answer>2</answer>", "a", "1"),
    ("<think>a</think><answer>1</answer><answer>2", "a", "1"),
    ("<think><answer>1</answer></think>", "<answer>1</answer>", None),  # an answer inside the thinking is none
    ("<think><answer>1</answer></think><answer>2</answer>", "<answer>1</answer>", "2"),
    ("<think>a<answer>1</answer>", "a", None),
    ("<think>a</think><think>b<answer>1</answer>", "a", None),
    ("<think>a</think><answer>1</answer><think>b<answer>2</answer>", "a", "1"),
    ("<think>a</think>b</think><answer>5</answer>", "a</think>b", "5"),
    ("<answer>\n5\n</answer>", "", "5"),
]


@pytest.mark.parametrize(("text", "thinking", "answer"), SPLITS)
def test_split(text: str, thinking: str, answer: str | None) -> None:
    assert chat.split(text) == (thinking, answer)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think>a</think><answer>5</answer>", True),
        (" <think>\na\n</think>\n\n<answer>5</answer>\n", True),
        ("<think></think><answer>5</answer>", True),
        ("<think>a</think><answer> </answer>", False),
        ("<think>a</think>so<answer>5</answer>", False),
        ("<think>a</think><answer>5</answer>.", False),
        ("so<think>a</think><answer>5</answer>", False),
        ("<answer>5</answer><think>a</think>", False),
        ("<think><think>a</think><answer>5</answer>", False),
        ("<think>a</think><answer>5</answer><answer>5</answer>", False),
        ("<think>a<answer>4</answer></think><answer>5</answer>", False),
        ("<Think>a</Think><Answer>5</Answer>", False),
        ("a</think><answer>5</answer>", False),
        ("", False),
    ],
)
def test_well_formed(text: str, good: bool) -> None:
    assert chat.well_formed(text) is good


@given(st.lists(st.sampled_from([*chat.TAGS, "a", " ", "5", "\n"]), max_size=12).map("".join))
@settings(max_examples=200, deadline=None)
def test_what_is_well_formed_has_an_answer(text: str) -> None:
    _, answer = chat.split(text)
    assert not chat.well_formed(text) or answer
    assert answer is None or chat.END_ANSWER not in answer


def test_perfect_is_well_formed_and_comes_apart_again() -> None:
    text = chat.perfect("so\nso", "1+2")
    assert chat.well_formed(text)
    assert chat.split(text) == ("so\nso", "1+2")


@pytest.mark.parametrize("tag", [*chat.TAGS, "</think><answer>", "<think></think><answer>", "\n"])
def test_a_flood_of_tags_is_read_in_time(tag: str) -> None:
    began = time.process_time()
    chat.split(tag * 30_000)
    chat.well_formed(tag * 30_000)
    chat.well_formed("<think>" + "\n" * 30_000 + "</think>" + "\n" * 30_000 + "<answer>")
    assert time.process_time() - began < 1


# prompts


def test_templates() -> None:
    assert chat.render("mini", "1+1?") == "User: 1+1?\nAssistant:"
    zero = chat.render("r1-zero", "{prompt} {0} %s")
    assert zero.endswith("User: {prompt} {0} %s. Assistant:")
    assert all(t in zero for t in chat.TAGS)
    assert (
        chat.render("mini", [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
        == "User: a\nb\nAssistant:"
    )
    with pytest.raises(ValueError, match="unknown template 'r2': choose mini, r1-zero or chat"):
        chat.render("r2", "x")
    with pytest.raises(ValueError, match="no chat template: use template = 'r1-zero'"):
        chat.render("chat", "x", SimpleNamespace(chat_template=None))
