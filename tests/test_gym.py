"""Tasks of reasoning-gym: pure, split by content, graded by the package's own scorer in workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("reasoning_gym")

from incentive import rewards, suites
from incentive.records import split_of
from incentive.tasks import find, gym
from incentive.tasks.jsonl import TaskError
from incentive.verify.grade import CouldNotGrade, Grader


def test_a_problem_is_a_pure_function_and_its_split_is_that_of_its_content() -> None:
    a, b = find("reasoning-gym/chain_sum"), find("reasoning-gym/chain_sum")
    seen: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        for i in range(20):
            problem = a.problem(0, split, i)  # type: ignore[arg-type]
            assert problem == b.problem(0, split, i)  # type: ignore[arg-type]
            assert split_of(problem.key) == split
            seen.setdefault(split, set()).add(problem.key)
    assert not seen["train"] & (seen["val"] | seen["test"])
    assert not {a.problem(0, "train", i).key for i in range(50)} <= {a.problem(1, "train", i).key for i in range(50)}


def test_the_packages_scorer_decides_and_partial_credit_is_wrong() -> None:
    task: Any = find("reasoning-gym/countdown?min_numbers=3&max_numbers=3")
    problem = task.problem(0, "train", 0)
    gold = task.gold(problem)
    assert len(problem.tags["gym"]["settings"]) == 2
    found = task.checks(problem, [gold, f"({gold})", "1", "no idea", "", "9" * 100_000, "((((" * 500, gold])
    assert found == [True, True, False, False, False, False, False, True]


def test_a_reward_and_a_vote_know_it() -> None:
    import numpy as np

    from incentive.records import Sample

    task: Any = find("reasoning-gym/gcd")
    problem = task.problem(0, "train", 3)
    none = np.zeros(0, dtype=np.int64)

    def said(answer: str) -> Sample:
        text = f"<think>hm</think><answer>{answer}</answer>"
        return Sample(
            answer, problem.id, none, none, none.astype(bool), none.astype(np.float32), 1.0, "stop", (0, 0), 0, text
        )

    grade = rewards.each(rewards.shipped(task.check, task.checks), {"accuracy": 1.0, "format": 1.0})
    assert [s.total for s in grade(problem, [said(task.gold(problem)), said("0.5")])] == [2.0, 1.0]
    assert task.vote_key(" 12 ") == task.vote_key("12.0")


def test_a_gold_answer_that_its_scorer_refuses_is_could_not_grade() -> None:
    from dataclasses import replace

    task: Any = find("reasoning-gym/gcd")
    problem = task.problem(0, "train", 1)
    with pytest.raises(CouldNotGrade, match="less than 1"):
        task.checks(replace(problem, answer="-7"), ["12", "13"])
    halting = {"name": "game_of_life_halting", "settings": {}, "index": 0}
    entry = gym._made("game_of_life_halting", {}, 0)[1]
    spec = {**halting, "key": gym._key(entry)}
    with pytest.raises(CouldNotGrade, match=r"gives .* 1 as well"):
        task.checks(replace(problem, answer=entry["answer"], tags={**problem.tags, "gym": spec}), ["True", "False"])
    tags = {**problem.tags, "gym": {**problem.tags["gym"], "key": "another"}}
    with pytest.raises(CouldNotGrade):
        task.checks(replace(problem, tags=tags), ["12"])


def test_a_scorer_that_hangs_is_ended_and_the_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    task: Any = find("reasoning-gym/gcd")
    problem = task.problem(0, "train", 2)
    _, asked = gym._grader()
    with Grader([gym.KIND], 1, timeout=1.0, target="gym_targets:judge") as slow:
        monkeypatch.setattr(gym, "_grader", lambda: (slow, asked))
        gold = task.gold(problem)
        assert task.checks(problem, ["hang", gold]) == [False, True]
        assert slow.counts["timeout"] == 1


ATTACKS = (
    "__import__('os').system('touch {mark}')",
    "[].__class__.__base__.__subclasses__()",
    "[open('{mark}', 'w')]",
    "exec('open(\\'{mark}\\', \\'w\\')')",
    'S(\'__import__("os").system("touch {mark}")\')',
    "(lambda: open('{mark}', 'w'))()",
    'f\'{{open("{mark}", "w")}}\'',
    "x.__class__",
    "sin.func",
    "9**9**9**9 if open('{mark}', 'w') else 1",
)


@pytest.mark.parametrize("name", gym.EVALUATED)
def test_an_answer_that_is_code_never_reaches_a_scorer_that_evaluates(name: str, tmp_path: Path) -> None:
    """Judged here, not in a worker: were it run, the mark would be there."""
    entry = gym._made(name, {}, 3)[1]
    spec = {"name": name, "settings": {}, "index": 3, "key": gym._key(entry), "answer": gym.answer_of(entry)}
    mark = tmp_path / "mark"
    for attack in ATTACKS:
        text = attack.format(mark=mark)
        assert gym.EVALUATED[name].fullmatch(text) is None
        assert gym.judge({"gold": json.dumps(spec), "answer": text})[0] == "fail"
    assert not mark.exists()
    assert gym.judge({"gold": json.dumps(spec), "answer": gym.answer_of(entry)})[0] == "pass"


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(TaskError, match=r"did you mean 'countdown'\?"):
        find("reasoning-gym/countdwn")
    with pytest.raises(TaskError, match="refuses it"):
        find("reasoning-gym/countdown?min_numbers=3&numbers=4")
    narrow: Any = find(
        "reasoning-gym/gcd?min_numbers=2&max_numbers=2&min_value=1&max_value=2"
    )  # four questions at most
    keys = {gym._key(gym._made("gcd", narrow.settings, i)[1]) for i in range(50)}
    missing: Any = ({"val", "test"} - {split_of(k) for k in keys}).pop()
    with pytest.raises(TaskError, match="too few differ"):
        narrow.problem(0, missing, 0)


def test_a_suite_names_one_task() -> None:
    suite = suites.find("reasoning-gym:countdown?min_numbers=3")
    assert suite.tasks == ("reasoning-gym/countdown?min_numbers=3",)
