"""Problems from a user's JSONL file: what is read, in which order, what counts as equal, and every fault by its "
"line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive.records import SPLITS, split_of
from incentive.tasks import Mixture, distinct, find
from incentive.tasks.jsonl import Jsonl, TaskError, meaning, number


def write(folder: Path, rows: list[Any], name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def sums(n: int, **more: Any) -> list[Any]:
    return [{"prompt": f"{i}+1?", "answer": i + 1, **more} for i in range(n)]


def test_every_problem_once_an_epoch_in_a_seeded_order(tmp_path: Path) -> None:
    task = Jsonl(write(tmp_path, sums(30, split="train")))
    epochs = [[task.problem(5, "train", 30 * e + i).key for i in range(30)] for e in range(3)]
    assert all(len(set(keys)) == 30 for keys in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [task.problem(6, "train", i).key for i in range(30)]
    again = Jsonl(task.path)
    assert [again.problem(5, "train", i) for i in (89, 0, 31)] == [task.problem(5, "train", i) for i in (89, 0, 31)]


def test_splits_follow_the_content_or_the_line(tmp_path: Path) -> None:
    task = Jsonl(write(tmp_path, sums(400)))
    sizes = [task.size(s) for s in SPLITS]
    assert sum(sizes) == 400
    assert sizes[0] > 330
    assert sizes[1] > 5
    assert sizes[2] > 5
    assert all(split_of(task.problem(0, s, i).key) == s for s in SPLITS for i in range(5))
    given_ = Jsonl(write(tmp_path, [*sums(4), {"prompt": "x", "answer": "y", "split": "test"}]))
    assert "x" in [given_.problem(0, "test", i).prompt for i in range(given_.size("test"))]


def test_gold_scores_and_the_mixture_finds_the_task(tmp_path: Path) -> None:
    path = write(
        tmp_path, [*sums(30), {"prompt": [{"role": "user", "content": "who?"}], "answer": "B", "split": "train"}]
    )
    task = find(str(path))
    mix = Mixture({str(path): task}, {str(path): 1.0})
    for i in range(31):
        p = mix.problem(0, "train", i)
        assert mix.check(p, mix.gold(p))
        assert not mix.check(p, "")
        assert not mix.check(p, "42 apples")
    json.dumps(p.answer)
    assert len(distinct(task, 0, "train", 20)) == 20


def test_a_check_of_ones_own(tmp_path: Path) -> None:
    task = Jsonl(write(tmp_path, sums(3, split="train")), name="own", check=lambda p, a: a == "x" + p.answer)
    p = task.problem(0, "train", 0)
    assert p.tags["task"] == "own"
    assert task.check(p, "x" + p.answer)
    assert not task.check(p, p.answer)


def test_a_changed_file_is_another_version(tmp_path: Path) -> None:
    a = Jsonl(write(tmp_path, sums(5), "a.jsonl")).version
    assert a == Jsonl(write(tmp_path, sums(5), "b.jsonl")).version != Jsonl(write(tmp_path, sums(6), "c.jsonl")).version


def test_the_same_prompt_in_two_files_has_the_same_key(tmp_path: Path) -> None:
    a = Jsonl(write(tmp_path, [{"prompt": "What  is\n1+1?", "answer": 2, "split": "train"}], "a.jsonl"))
    message = [{"role": "user", "content": " What is 1+1?"}]
    b = Jsonl(write(tmp_path, [{"prompt": message, "answer": 2, "split": "test"}], "b.jsonl"))
    assert a.problem(0, "train", 0).key == b.problem(0, "test", 0).key


def test_bom_blank_lines_and_windows_ends(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "answer": 1}\r\n\r\n{"prompt": "b", "answer": "\xc3\xa9"}')
    assert [x.number for x in Jsonl(path).lines] == [1, 3]


# equal answers

EQUAL = [
    ("1,000", "1000"), ("0.50", "1/2"), ("1/2", "0.5"), ("+3", "3"), ("−4", "-4"), ("3.0", "3"), ("1e3", "1000"),
    (".5", "0.5"), ("12.", "12"), ("007", "7"), ("1,234.50", "1234.5"), ("(B)", "B"), ("b", "B"), ("B.", "B"),
    ("B)", "B"),
    ("Paris.", "paris"), ("new   York", "New York"), ("１２", "12"), ("Straße", "STRASSE"), ("2 / 4", "1/2"),
    ("-0", "0"),
]  # fmt: skip
UNEQUAL = [
    ("1,00", "100"), ("1/0", "0"), ("10", "100"), ("B", "C"), ("AB", "A"), ("9**9", "387420489"), ("1e999", "0"),
    ("", "0"), ("٣", "3"), ("nan", "0"), ("inf", "1"), ("0x10", "16"), ("1_000", "1000"), ("1 000", "1000"),
    ("--1", "1"),
    ("1.2.3", "1.2"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal(a: str, b: str) -> None:
    assert meaning(a) == meaning(b) is not None


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal(a: str, b: str) -> None:
    assert meaning(a) != meaning(b)


TEXTS = st.one_of(
    st.text(max_size=100),
    st.text(alphabet="0123456789+-−.,/eE ()AB", max_size=70),
    st.characters().map(lambda c: c * 3000),
    st.sampled_from(["9" * 5000, "1" + ",000" * 900, "(" * 3000, "1e99", "9**9**9", "\ud800", "½", "1⁄2"]),
)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_no_answer_makes_it_raise_or_hang(text: str) -> None:
    key = meaning(text)
    assert key is None or (isinstance(key, str) and key)
    if (x := number(text)) is not None:
        assert number(str(x)) == x or len(str(x)) > 64
    assert meaning(f"  {text}\n") == key or len(text) > 1990


@given(st.fractions(max_denominator=10**9).filter(lambda x: abs(x) < 10**12))
@settings(max_examples=60, deadline=None)
def test_numbers_are_read_exactly(x: Fraction) -> None:
    assert number(str(x)) == x


# faults

FAULTS: list[tuple[list[Any], str]] = [
    ([], r"mine\.jsonl: empty; write one"),
    (["", "  "], r"mine\.jsonl: empty"),
    ([*sums(2), '{"prompt": "x", "answer": }'], r"mine\.jsonl:3: not valid JSON: .* at column"),
    ([*sums(1), '{"prompt": "x"} {"a": 1}'], r":2: not valid JSON: extra data at column 17"),
    (['{"prompt": "x", "answer": NaN}'], r":1: not valid JSON: NaN is no JSON"),
    (['{"prompt": "x", "answer": ' + "9" * 5000 + "}"], r":1: not valid JSON: Exceeds the limit"),
    (["[" * 200_000], r":1: not valid JSON"),
    ([[1, 2]], r":1: a list, not an object; write \{"),
    (["null"], r":1: null, not an object"),
    ([*sums(3), {"prompt": "x", "answer": None}], r":4: the answer must be text or a number, .* it is null"),
    ([{"prompt": "x", "answer": "  "}], r":1: the answer must be .* it is \"  \""),
    ([{"prompt": "x", "answer": True}], r":1: the answer must be .* it is true"),
    ([{"prompt": "x", "answer": [1]}], r":1: the answer must be"),
    (['{"prompt": "x", "answer": 1e999999}'], r":1: the answer must be"),
    ([{"prompt": "x"}], r":1: no 'answer' \(it has: prompt\)"),
    ([{"prompt": "x", "anwser": 1}], r":1: no 'answer'; did you mean 'answer' by 'anwser'\?"),
    ([{"answer": 1}], r":1: no 'prompt'"),
    ([{"prompt": " ", "answer": 1}], r":1: the prompt is empty"),
    ([{"prompt": 5, "answer": 1}], r":1: the prompt must be text or a list of messages, not a number"),
    ([{"prompt": [{"role": "user"}], "answer": 1}], r":1: a message of the prompt must be"),
    ([{"prompt": [{"role": "system", "content": "x"}], "answer": 1}], r":1: the prompt holds no user message"),
    ([{"prompt": [], "answer": 1}], r":1: the prompt holds no user message"),
    ([{"prompt": "x", "answer": 1, "id": "a"}, {"prompt": "y", "answer": 1, "id": "a"}],
     r":2: the id 'a' is that of line 1"),
    ([{"prompt": "x", "answer": 1, "id": 1.5}], r":1: the id must be text or a whole number"),
    ([{"prompt": "x", "answer": 1, "split": "dev"}], r":1: unknown split 'dev'; choose train, val or test"),
    ([{"prompt": "x", "answer": 1, "split": ["val"]}], r":1: unknown split"),
    ([{"prompt": "x y", "answer": 1}, {"prompt": "x  y", "answer": 2}],
     r":2: the prompt is that of line 1, but the answer '2'"),
    ([{"prompt": "x", "answer": 1, "split": "train"}, {"prompt": "x", "answer": 1, "split": "test"}],
     r":2: the prompt is that of line 1, but in split 'test' and not 'train'"),
    (['{"prompt": "\\ud83d", "answer": 1}'], r":1: half a surrogate pair"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "message"), FAULTS)
def test_faults_name_the_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        Jsonl(write(tmp_path, rows))
    assert len(str(caught.value).splitlines()) <= 2


def test_not_utf8_missing_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_bytes(b'{"prompt": "a", "answer": 1}\n{"prompt": "\xe9", "answer": 1}\n')
    with pytest.raises(TaskError, match=r"l\.jsonl:2: not UTF-8 \(byte 13"):
        Jsonl(tmp_path / "l.jsonl")
    with pytest.raises(TaskError, match="no such file"):
        Jsonl(tmp_path / "none.jsonl")
    with pytest.raises(TaskError, match="directory"):
        Jsonl(tmp_path)


def test_plain_repetition_counts_once(tmp_path: Path) -> None:
    task = Jsonl(write(tmp_path, [*sums(3), *sums(2)]))
    assert task.repeated == 2
    assert len(task.lines) == 3


def test_a_split_without_problems_is_named_with_the_fix(tmp_path: Path) -> None:
    task = Jsonl(write(tmp_path, sums(6, split="train")))
    with pytest.raises(TaskError, match=r"no val problem among 6 \(6 train, 0 val, 0 test\).*\n.*\"split\": \"val\""):
        task.problem(0, "val", 0)
