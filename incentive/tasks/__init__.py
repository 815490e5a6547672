"""The tasks that come with the package. Yours need no entry here: pass the object, or a JSONL file."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from functools import lru_cache
from random import Random
from typing import Any

from incentive.records import Problem, Split, hash64
from incentive.tasks.arithmetic import Arithmetic
from incentive.tasks.base import Task
from incentive.tasks.choice import Choice
from incentive.tasks.countdown import Countdown
from incentive.tasks.general import General
from incentive.tasks.harm import Harm
from incentive.tasks.instruct import Instruct
from incentive.tasks.jsonl import Jsonl, TaskError
from incentive.tasks.logic import Logic
from incentive.tasks.program import Program
from incentive.tasks.sums import Sums
from incentive.tasks.wording import HELD_OUT, Reworded

SHIPPED: dict[str, Task] = {
    t.name: t
    for t in (
        Countdown("countdown3", 3, 40),
        Countdown("countdown4", 4, 15),
        Countdown("countdown3-large", 3, 40, 80, 99),
        Countdown("countdown4-large", 4, 15, 80, 99),
        Countdown("countdown5", 5, 10),
        Arithmetic(),
        Logic(),
        Choice(),
        Program(),
        Instruct(),
        Instruct("instruct-json", kinds=("json",)),
        General(),
        Harm(),
        Sums(),
        Reworded(Countdown("countdown3", 3, 40), HELD_OUT),
        Countdown("countdown3-zh", 3, 40, language="zh"),
        Countdown("countdown4-zh", 4, 15, language="zh"),
        Arithmetic("arithmetic-zh", language="zh"),
        Logic("logic-zh", "zh"),
        Choice("choice-zh", "zh"),
        Program("program-zh", "zh"),
        Instruct("instruct-zh", "zh"),
        General("general-zh", "zh"),
        Harm("harm-zh", "zh"),
    )
}


def find(name: str) -> Task:
    """The shipped task of that name, the problems of a file where it ends in `.jsonl`, of a data set (`hub:...`), or of
    reasoning-gym (`reasoning-gym/NAME`).

    Raises:
        TaskError: there is no such task, or the file cannot be used.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    if name.endswith(".jsonl"):
        return Jsonl(name)
    if name.startswith("hub:"):
        from incentive.tasks import hub

        return hub.named(name)
    if name.startswith("reasoning-gym/"):
        from incentive.tasks import gym

        return gym.Gym(name)
    near = difflib.get_close_matches(name, SHIPPED, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SHIPPED)}, or a file that ends in .jsonl"
    raise TaskError(f"unknown task {name!r}; {hint}")


class Mixture:
    """Several tasks as one: problem i is drawn from one of them by its share, and answered by it.

    Raises:
        ValueError: there is no task, a share is not above zero.
    """

    def __init__(self, tasks: dict[str, Task], shares: dict[str, float]):
        if not shares or any(not s > 0 for s in shares.values()):
            raise ValueError(f"tasks: give each a share above 0, not {shares}")
        self.name, self.tasks, self.shares = "+".join(shares), tasks, shares

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        at = Random(hash64("mixture", seed, split, i)).random() * sum(self.shares.values())
        name = ""
        for name, share in self.shares.items():  # noqa: B007  the last one, should rounding let none be reached
            at -= share
            if at < 0:
                break
        return self.tasks[name].problem(seed, split, i)

    def of(self, problem: Problem) -> Task:
        return self.tasks[problem.tags["task"]]

    def check(self, problem: Problem, answer: str) -> bool:
        return self.of(problem).check(problem, answer)

    def checks(self, problem: Problem, answers: list[str]) -> list[bool | None]:
        return checks(self.of(problem), problem, answers)

    def gold(self, problem: Problem) -> str:
        return self.of(problem).gold(problem)


def checks(task: Task, problem: Problem, answers: list[str]) -> list[bool | None]:
    """Whether each answer is right, all at once where the task has a `checks` of its own. None: could not be graded."""
    together = getattr(task, "checks", None)
    return [task.check(problem, a) for a in answers] if together is None else together(problem, answers)


def distinct(task: Task, seed: int, split: Split, n: int) -> list[Problem]:
    """The first `n` problems of distinct content; drawn once in a process, for every model of a run is asked the same.

    Raises:
        ValueError: the task has fewer.
    """
    known: Any = task
    drawn = _distinct if isinstance(known, Hashable) else _distinct.__wrapped__  # a user's own may be anything
    return list(drawn(known, seed, split, n))


@lru_cache(maxsize=64)
def _distinct(task: Any, seed: int, split: Split, n: int) -> tuple[Problem, ...]:
    found: dict[str, Problem] = {}
    for i in range(20 * n + 200):
        problem = task.problem(seed, split, i)
        found.setdefault(problem.key, problem)
        if len(found) == n:
            return tuple(found.values())
    raise ValueError(
        f"task {task.name!r} has only {len(found)} distinct {split} problems, {n} are needed; add problems or ask for fewer"
    )
