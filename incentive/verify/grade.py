"""Grades keyed by sample id: pass, fail, or could-not-grade.

Could-not-grade is only what the answer cannot have caused. An answer that takes too long, wants too much memory, ends
its worker or cannot be read fails, once the gold answer has passed in a worker of the same pool under the same limits.
A gold answer that fails its own check is could-not-grade and named. A grader that is down is tried again, then it is a
RewardError: it never pays 0.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from incentive import chat
from incentive.records import Problem, Sample
from incentive.rewards import Reward, RewardError
from incentive.verify.answers import KINDS
from incentive.verify.pool import Done, Pool, PoolError

ANSWERS = "incentive.verify.answers:judge"
TIMEOUT_S = 5.0
MEMORY_MIB = 1024  # address space; sympy's modules alone take a quarter of it
TRIES, PAUSE_S = 3, 0.5  # to start workers, the pause doubles
BAD_GOLDS, BAD_SHARE = 5, 0.05  # so many golds at least, and more than this share of those seen: the data is at fault
LISTED = 1000  # disagreements kept

Outcome = Literal["pass", "fail", "could-not-grade"]


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to grade. `id` is the sample's."""

    id: str
    kind: str
    gold: str
    answer: str
    tolerance: float = 0.0  # of `number`: a share of the gold value

    def job(self, answer: str | None = None) -> dict[str, Any]:
        text = self.answer if answer is None else answer
        return {"kind": self.kind, "gold": self.gold, "answer": text, "tolerance": self.tolerance}


@dataclass(frozen=True, slots=True)
class Grade:
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Our checker and math-verify differ. The answer fails."""

    gold: str
    answer: str
    ours: bool
    math_verify: bool


class CouldNotGrade(Exception):
    """A grader's fault on one problem; `rewards.each` counts it and the samples leave their group."""


class Grader:
    """Grades answers in its own pool. One call at a time; others wait.

    Args:
        kinds: what it will be asked; `maths` needs math-verify, which each worker imports at its start.
        workers: processes at a time; by default two, or as many as there are cores, at most 16.
        timeout: wall clock of one answer, seconds.
        target: what the workers call, with kinds of its own: `judge` of `verify.answers`, or another that returns the same.

    Raises:
        RewardError: when grading: workers do not start after three tries, or too many gold answers cannot be used.
    """

    def __init__(
        self, kinds: Iterable[str] = KINDS, workers: int | None = None, timeout: float = TIMEOUT_S,
        memory_mib: int = MEMORY_MIB, target: str = ANSWERS,
    ):  # fmt: skip
        self.kinds, self.timeout = frozenset(kinds), timeout
        if target == ANSWERS and (unknown := self.kinds - set(KINDS)):
            raise RewardError(f"unknown kind of answer {min(unknown)!r}; there are: {', '.join(KINDS)}")
        workers = workers or max(2, min(16, os.cpu_count() or 2))
        self._pool = Pool(target, workers, memory_mib=memory_mib, setup=sorted(self.kinds))
        self._lock = threading.Lock()
        self._golds: dict[tuple[str, str], str | None] = {}  # why each gold cannot be used; None where it can
        self.counts: Counter[str] = Counter()
        self.disagreements: list[Disagreement] = []

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._pool.close()

    def grade(self, questions: Iterable[Question]) -> dict[str, Grade]:
        """A grade for every question's id."""
        asked: dict[str, Question] = {}
        for q in questions:
            if q.kind not in self.kinds:
                raise RewardError(
                    f"sample {q.id}: kind {q.kind!r} is not of this grader ({', '.join(sorted(self.kinds))})"
                )
            if q.id in asked:
                raise RewardError(f"two questions have the id {q.id!r}")
            asked[q.id] = q
        with self._lock:
            grades = self._graded(asked)
        self.counts.update(g.outcome for g in grades.values())
        self._check_golds()
        return {id: grades[id] for id in asked}

    def _graded(self, asked: dict[str, Question]) -> dict[str, Grade]:
        grades: dict[str, Grade] = {}
        faults: dict[str, Question] = {}
        for id, outcome in self._run({id: q.job() for id, q in asked.items()}).items():
            if isinstance(outcome, Done):
                grades[id] = self._grade(asked[id], *outcome.value)
            else:
                faults[id] = asked[id]
                self.counts[outcome.kind] += 1
        if not faults:
            return grades
        # The answer is to blame only if its gold passes now, under the same limits, and the fault comes again.
        sound = self._run(
            {id: q.job(q.gold) for id, q in {(q.kind, q.gold): (id, q) for id, q in faults.items()}.values()}
        )
        passes = {
            (faults[id].kind, faults[id].gold): isinstance(o, Done) and o.value[0] == "pass" for id, o in sound.items()
        }
        again = self._run({id: q.job() for id, q in faults.items() if passes[q.kind, q.gold]})
        for id, q in faults.items():
            outcome = again.get(id)
            if outcome is None:
                grades[id] = self._grade(q, "gold", "it fails or overruns by itself", None)
            elif isinstance(outcome, Done):
                grades[id] = self._grade(q, *outcome.value)
            else:
                grades[id] = Grade("fail", outcome.why)
        return grades

    def _grade(self, q: Question, verdict: str, why: str, audit: list[Any] | None) -> Grade:
        self._golds[q.kind, q.gold] = why if verdict == "gold" else None
        if audit and audit[0] is None:
            self.counts["by math-verify alone"] += 1
        elif audit:
            self.counts["disagreements"] += 1
            if len(self.disagreements) < LISTED:
                self.disagreements.append(Disagreement(q.gold, q.answer, *audit))
        if verdict == "gold":
            return Grade("could-not-grade", f"the gold answer {q.gold[:60]!r} cannot be used: {why}")
        return Grade("pass" if verdict == "pass" else "fail", why)

    def _run(self, jobs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Outcomes of jobs; what has finished before the workers failed is not done again."""
        found: dict[str, Any] = {}
        for i in range(TRIES):
            try:
                left = [(id, job) for id, job in jobs.items() if id not in found]
                for id, outcome in self._pool.run(left, self.timeout):
                    found[id] = outcome
                return found
            except PoolError as error:
                if i + 1 == TRIES:
                    fix = "\nInstall it: pip install 'incentive[maths]'" if "math_verify" in str(error) else ""
                    raise RewardError(f"the grader is down, tried {TRIES} times: {error}{fix}") from error
                time.sleep(PAUSE_S * 2**i)
        raise AssertionError("unreachable")

    def _check_golds(self) -> None:
        bad = [(gold, why) for (_, gold), why in self._golds.items() if why is not None]
        if len(bad) >= BAD_GOLDS and len(bad) > BAD_SHARE * len(self._golds):
            some = "; ".join(f"{gold[:40]!r} ({why})" for gold, why in bad[:3])
            raise RewardError(
                f"{len(bad)} of {len(self._golds)} gold answers cannot be used, more than {BAD_SHARE:.0%}: {some}\n"
                "Mend these answers, or choose another kind of check."
            )


def accuracy(grader: Grader, kind: str | Callable[[Problem], str], tolerance: float = 0.0) -> Reward:
    """1 if the marked answer says the same as the problem's, else 0; None where it could not be graded."""

    def reward(problem: Problem, samples: list[Sample]) -> list[float | None]:
        of = kind if isinstance(kind, str) else kind(problem)
        answers = {s.id: chat.split(s.text)[1] for s in samples}
        grades = grader.grade(
            Question(id, of, str(problem.answer), a, tolerance) for id, a in answers.items() if a is not None
        )
        values = {"pass": 1.0, "fail": 0.0, "could-not-grade": None}
        return [values[grades[s.id].outcome] if s.id in grades else 0.0 for s in samples]

    return reward


@lru_cache(maxsize=2)
def shared(maths: bool) -> Grader:
    """The process's grader for tasks that name a check: one with math-verify, one that does without it."""
    grader = Grader(KINDS if maths else [k for k in KINDS if k != "maths"])
    atexit.register(grader.close)
    return grader


def check(kind: str, gold: str, answer: str, tolerance: float = 0.0) -> bool:
    """One answer, as a task's `check` is asked.

    Raises:
        CouldNotGrade: the gold answer cannot be used.
        RewardError: the grader is down.
    """
    found = checks(kind, gold, [answer], tolerance)[0]
    assert found is not None
    return found


def checks(kind: str, gold: str, answers: list[str], tolerance: float = 0.0) -> list[bool | None]:
    """All answers to one problem at once, several workers beside each other; equal ones are graded once.

    Raises:
        CouldNotGrade: the gold answer cannot be used, so that none could be graded.
        RewardError: the grader is down.
    """
    return together(shared(kind == "maths"), [Question("", kind, gold, a, tolerance) for a in answers])


def together(grader: Grader, questions: list[Question]) -> list[bool | None]:
    """Right, wrong, or could-not-grade, for questions about one gold answer; ids are not asked for.

    Raises:
        CouldNotGrade: the gold answer cannot be used, so that none could be graded.
        RewardError: the grader is down.
    """
    once = {q.answer: replace(q, id=str(i)) for i, q in enumerate(questions)}
    grades = grader.grade(once.values())
    if grades and all(g.outcome == "could-not-grade" for g in grades.values()):
        raise CouldNotGrade(next(iter(grades.values())).why)
    values = {"pass": True, "fail": False, "could-not-grade": None}
    return [values[grades[once[q.answer].id].outcome] for q in questions]
