"""Rewards: every part by name, a failing grader is counted, and a careless reward function is told so."""

# ruff: noqa: ARG001, ARG005  rewards, checks and golds have fixed signatures
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from incentive import chat, rewards
from incentive.records import Problem, Sample, Score
from incentive.rewards import RewardError
from incentive.tasks import SHIPPED

TASK = SHIPPED["countdown3"]
PROBLEM = TASK.problem(0, "train", 0)


def sample(text: str, i: int = 0, stop: Any = "stop", seed: int = 0) -> Sample:
    ids = np.arange(3, dtype=np.int64)
    return Sample(
        f"p/{i}", PROBLEM.id, ids, ids.copy(), np.ones(3, dtype=bool), np.zeros(3, dtype=np.float32), 1.0, stop, (0, 0),
        seed, text,
    )  # fmt: skip


RIGHT = chat.perfect("so", TASK.gold(PROBLEM))
FOUR = [sample(RIGHT), sample(chat.perfect("so", "1+1"), 1), sample(TASK.gold(PROBLEM), 2), sample("", 3)]


def grade(reward: rewards.Reward, weight: float = 1.0) -> list[Score]:
    return rewards.each({"mine": reward}, {"mine": weight})(PROBLEM, FOUR)


def test_shipped_parts_and_weights() -> None:
    scores = rewards.each(rewards.shipped(TASK.check), {"accuracy": 2.0, "format": 0.5})(PROBLEM, FOUR)
    assert [s.parts for s in scores] == [
        {"accuracy": 1.0, "format": 1.0}, {"accuracy": 0.0, "format": 1.0}, *[{"accuracy": 0.0, "format": 0.0}] * 2,
    ]  # fmt: skip
    assert [s.total for s in scores] == [2.5, 0.5, 0.0, 0.0]
    assert all(s.error is None for s in scores)


def test_an_answer_that_was_cut_has_no_form_but_may_be_right() -> None:
    scores = rewards.each(rewards.shipped(TASK.check), {"accuracy": 1.0, "format": 1.0})(
        PROBLEM, [sample(RIGHT, stop="length")]
    )
    assert scores[0].parts == {"accuracy": 1.0, "format": 0.0}


def test_repetition_looks_at_what_a_reader_gets() -> None:
    kind = "hello pete, it is 5. very nice. it is nice. very nice. it is nice."
    texts = [
        chat.perfect("so " * 30, "hello pete, it is 5."),
        chat.perfect("so", kind),
        "<think>open open open open open",
    ]
    clean, often, nothing = rewards.repetition(PROBLEM, [sample(t) for t in texts])
    assert clean == nothing == 0
    # 21 words and signs, 19 runs of three; ". very nice", "very nice .", "nice . it", ". it is", "it is nice", "is nice ." again
    assert often == pytest.approx(-6 / 19)


def test_the_coin_sees_the_seed_alone() -> None:
    values = rewards.coin(PROBLEM, [sample(t, seed=s) for s in range(200) for t in ("", RIGHT)])
    assert values[::2] == values[1::2]
    assert 70 < sum(v or 0 for v in values[::2]) < 130


def test_a_reward_that_raises_is_counted_and_named() -> None:
    def broken(problem: Problem, samples: list[Sample]) -> list[float | None]:
        raise KeyError("target")

    assert [(s.total, s.error) for s in grade(broken)] == [(None, "mine: KeyError: 'target'")] * 4


def test_what_another_reward_said_is_kept_beside_the_failure() -> None:
    def broken(problem: Problem, samples: list[Sample]) -> list[float | None]:
        raise ZeroDivisionError

    found = rewards.each({"mine": broken, "format": rewards.format_}, {"mine": 1.0, "format": 1.0})(PROBLEM, FOUR)
    assert [s.parts for s in found] == [{"format": 1.0}, {"format": 1.0}, {"format": 0.0}, {"format": 0.0}]
    assert all(s.total is None and s.error for s in found)


def test_none_is_ungraded_not_zero() -> None:
    found = grade(lambda p, s: [1.0, None, 0, 2])
    assert [s.total for s in found] == [1.0, None, 0.0, 2.0]
    assert found[1].error == "mine: could not grade"
    assert found[1].parts == {}
    assert type(found[2].total) is float


def test_numpy_floats_are_floats() -> None:
    assert [s.total for s in grade(lambda p, s: list(np.ones(4)))] == [1.0] * 4


def _set_ids(p: Problem, s: list[Sample]) -> list[float | None]:
    s[2].ids[0] = 99
    return [0.0] * 4


def _sort(p: Problem, s: list[Sample]) -> list[float | None]:
    s.sort(key=lambda x: x.text)
    return [0.0] * 4


def _put(p: Problem, s: list[Sample]) -> list[float | None]:
    s[0] = replace(s[0], text="x")
    return [0.0] * 4


def _junk(p: Problem, s: list[Sample]) -> list[float | None]:
    s[0] = "x"  # type: ignore[call-overload]
    return [0.0] * 4


def _change_and_raise(p: Problem, s: list[Sample]) -> list[float | None]:
    s[1].sampler_logp[:] = 0.5
    raise RuntimeError


BAD: list[tuple[Callable[..., Any], str]] = [
    (lambda p, s: [0.0, float("nan"), 0.0, 0.0], r"reward 'mine' returned nan for sample p/1; return a finite float"),
    (lambda p, s: [float("inf")] * 4, r"returned inf for sample p/0"),
    (lambda p, s: [1.0, 1.0, True, 1.0], r"returned True for sample p/2"),
    (lambda p, s: ["1"] * 4, r"returned '1' for sample p/0"),
    (lambda p, s: [0.0], r"returned 1 values for 4 samples"),
    (lambda p, s: [0.0] * 5, r"returned 5 values for 4 samples"),
    (lambda p, s: 1.0, r"returned float for 4 samples"),
    (lambda p, s: None, r"returned NoneType for 4 samples"),
    (lambda p, s: np.ones(4), r"returned ndarray for 4 samples"),
    (lambda p, s: [s.pop() and 0.0 for _ in range(4)], r"changed its samples"),
    (_set_ids, r"changed its samples"),
    (_sort, r"changed its samples"),
    (_put, r"changed its samples"),
    (_junk, r"changed its samples"),
    (_change_and_raise, r"changed its samples"),
]


@pytest.mark.parametrize(("reward", "message"), BAD)
def test_a_broken_contract_is_loud(reward: Any, message: str) -> None:
    four = [replace(s, ids=s.ids.copy(), sampler_logp=s.sampler_logp.copy()) for s in FOUR]
    with pytest.raises(RewardError, match=message):
        rewards.each({"mine": reward}, {"mine": 1.0})(PROBLEM, four)


def test_an_unknown_reward_is_named() -> None:
    with pytest.raises(RewardError, match="unknown reward 'acuracy'; did you mean 'accuracy'"):
        rewards.each(rewards.shipped(TASK.check), {"acuracy": 1.0})
