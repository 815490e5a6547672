"""Grades: keyed by id, an answer never gains by being ungradable, and a grader that is down is loud."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incentive import rewards
from incentive.records import Problem, Sample
from incentive.rewards import RewardError
from incentive.tasks.jsonl import Jsonl, TaskError
from incentive.verify import attacks_answers, grade
from incentive.verify.grade import CouldNotGrade, Grade, Grader, Question
from incentive.verify.pool import Pool

pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as g:
        yield g


def sample(id: str, text: str) -> Sample:
    none = np.zeros(0, dtype=np.int64)
    return Sample(id, "p", none, none, none.astype(bool), none.astype(np.float32), 1.0, "stop", (0, 0), 0, text)


def test_attacks_fail_and_true_answers_pass(grader: Grader) -> None:
    assert len(attacks_answers.ATTACKS) >= 100
    assert [r for r in attacks_answers.run(grader) if r.outcome != "fail"] == []
    true = attacks_answers.run_true(grader)
    assert len(true) >= 100
    assert [r for r in true if r.outcome != "pass"] == []
    assert [r for r in attacks_answers.run_responses("9", grader) if r.outcome != "fail"] == []


def test_the_attacks_names_are_distinct_in_each_kind() -> None:
    cases = [(a.kind, a.gold, a.name) for a in attacks_answers.ATTACKS]
    assert len(cases) == len(set(cases))


def test_grades_are_keyed_by_id(grader: Grader) -> None:
    questions = [Question(f"s{i}", "number", str(i), str(i if i % 3 else i + 1)) for i in range(200)]
    found = grader.grade(questions)
    assert list(found) == [q.id for q in questions]
    assert all((found[f"s{i}"].outcome == "pass") == (i % 3 != 0) for i in range(200))
    with pytest.raises(RewardError, match="two questions have the id 's'"):
        grader.grade([Question("s", "number", "1", "1"), Question("s", "number", "2", "2")])


class Sick:
    """A pool whose target misbehaves on chosen answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, grader: Grader, target: str):
        monkeypatch.syspath_prepend(str(Path(__file__).parent))
        self.grader = grader
        grader._pool.close()
        monkeypatch.setattr(grader, "_pool", Pool(target, 1, memory_mib=512))


@pytest.mark.parametrize("what", ["hang", "exit", "memory"])
def test_what_an_answer_causes_fails(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    with Grader(["text"], timeout=0.5) as grader:
        Sick(monkeypatch, grader, "grade_targets:judge")
        found = grader.grade([Question("a", "text", "gold", what), Question("b", "text", "gold", "gold")])
        assert found["a"].outcome == "fail"
        assert found["a"].why
        assert found["b"] == Grade("pass")


def test_what_the_gold_answer_causes_too_could_not_be_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    with Grader(["text"], timeout=0.5) as grader:
        Sick(monkeypatch, grader, "grade_targets:judge")
        found = grader.grade([Question("a", "text", "exit", "other")])
        assert found["a"].outcome == "could-not-grade"
        assert "'exit'" in found["a"].why


def test_a_bad_gold_is_named_and_many_stop_the_run() -> None:
    with Grader(["maths"], workers=1) as grader:
        found = grader.grade(
            [Question("a", "maths", "{1", "1"), *(Question(str(i), "maths", str(i), "1") for i in range(40))]
        )
        assert found["a"].outcome == "could-not-grade"
        assert "'{1'" in found["a"].why
        with pytest.raises(RewardError, match=r"5 of 45 gold answers cannot be used, more than 5%: '\{1'"):
            grader.grade([Question(str(i), "maths", "{" * i + "1", "1") for i in range(2, 6)])


def test_a_grader_that_is_down_is_tried_again_and_then_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade, "PAUSE_S", 0.01)
    with Grader(["text"]) as grader:
        Sick(monkeypatch, grader, "no_such_room:judge")
        with pytest.raises(RewardError, match=r"the grader is down, tried 3 times.*no_such_room"):
            grader.grade([Question("a", "text", "x", "x")])


def test_a_down_grader_stops_the_reward_and_is_not_counted_as_ungraded() -> None:
    def down(problem: Problem, samples: list[Sample]) -> list[float | None]:  # noqa: ARG001
        raise RewardError("the grader is down")

    with pytest.raises(RewardError, match="down"):
        rewards.each({"a": down}, {"a": 1.0})(Problem("p", "k", "q", "1"), [sample("s", "x")])


def test_the_accuracy_reward(grader: Grader) -> None:
    reward = grade.accuracy(grader, "maths")
    texts = [
        "<think>a</think><answer>0.5</answer>",
        "<think>a</think><answer>2</answer>",
        "no tags",
        "<think>a</think><answer>9^9^9^9</answer>",
    ]
    samples = [sample(str(i), t) for i, t in enumerate(texts)]
    assert reward(Problem("p", "k", "q", r"\frac12"), samples) == [1.0, 0.0, 0.0, 0.0]
    assert reward(Problem("p", "k", "q", "{1"), samples)[:2] == [None, None]
    scores = rewards.each({"accuracy": reward}, {"accuracy": 1.0})(Problem("p", "k", "q", "{1"), samples)
    assert [s.total for s in scores] == [None, None, 0.0, None]


def test_threads_wait_for_each_other(grader: Grader) -> None:
    found: dict[int, Any] = {}

    def ask(n: int) -> None:
        found[n] = grader.grade([Question(str(i), "number", str(n), str(i)) for i in range(50)])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all([id for id, g in found[n].items() if g.outcome == "pass"] == [str(n)] for n in range(4))


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_jsonl_task_names_its_check(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl",
        {"prompt": "a half?", "answer": r"\frac{1}{2}", "check": "maths", "split": "train"},
        {"prompt": "pi?", "answer": 3.14159, "check": "number", "tolerance": 0.01, "split": "val"},
        {"prompt": "which?", "answer": "B", "split": "test"},
        {"prompt": "broken?", "answer": "{1", "check": "maths", "split": "test"},
    )
    task = Jsonl(file)
    half, pi = task.problem(0, "train", 0), task.problem(0, "val", 0)
    assert task.check(half, "50%")
    assert task.check(half, task.gold(half))
    assert not task.check(half, "")
    assert not task.check(half, "1/3")
    assert task.check(pi, "3.14")
    assert not task.check(pi, "3.2")
    which, broken = sorted((task.problem(0, "test", i) for i in (0, 1)), key=lambda p: p.answer)
    assert "check" not in which.tags
    assert task.check(which, "(b)")
    with pytest.raises(CouldNotGrade, match=r"'\{1'"):
        task.check(broken, "1")


@pytest.mark.parametrize(("line", "said"), [
    ({"check": "math"}, r"a.jsonl:1: unknown check 'math'; did you mean 'maths'\?"), ({"check": "maths", "tolerance": 0.1}, 'a tolerance goes with "check": "number"'),
    ({"check": "number", "tolerance": -1}, "the tolerance must be a share"), ({"check": "number", "tolerance": True}, "the tolerance must be a share"), ({"check": 7}, "unknown check '7'"),
])  # fmt: skip
def test_a_wrong_check_is_an_error_with_its_line(tmp_path: Path, line: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        Jsonl(write(tmp_path / "a.jsonl", {"prompt": "q", "answer": "1"} | line))


def test_the_checks_of_a_file_are_the_kinds_of_the_grader() -> None:
    from incentive.tasks import jsonl
    from incentive.verify.answers import KINDS

    assert jsonl.CHECKS == KINDS
