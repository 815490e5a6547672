"""Overthinking: do easy problems cost fewer tokens, and how much is thought after the right answer has appeared?

Difficulty is the model's own, without circularity: an answer's is the share of wrong ones among the *other* answers to
its problem, so that one long failure does not make its own problem hard.

Where the right answer first appears is the task's to say, `appears(problem, thinking)`: the end of the first try that is
right, its check included. A task without that rule has a literal one: the end of the line in which the gold answer first
stands as a whole number or word; for short answers it finds accidents, and is an upper bound of what is spent after.
Remedy: the reward `length`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from incentive import chat, measure
from incentive.limits import graded
from incentive.records import Group, Problem, Sample
from incentive.tasks.base import Task

BINS = ("solved", "mostly solved", "mostly failed", "failed")  # share of wrong ones among the other answers
EDGES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the tokens of one answer went."""

    tokens: int  # all that the policy wrote, the stop token included
    thinking: int  # up to the end of the thinking
    first: int | None  # up to where the right answer first appears; None where it does not
    right: bool
    repeated: float  # share of its tries that compute what an earlier one has

    @property
    def after(self) -> int | None:
        """Tokens of thinking once the right answer is there."""
        return None if self.first is None else max(0, self.thinking - self.first)


def appears(task: Task, problem: Problem, thinking: str) -> int | None:
    """Where in the thinking, in characters, the right answer first stands complete; None where it never does."""
    rule = getattr(task, "appears", None)
    if rule is not None:
        return rule(problem, thinking)
    gold = str(task.gold(problem)).strip()
    found = re.search(rf"(?<![\w.]){re.escape(gold)}(?![\w]|\.\d)", thinking) if gold else None
    if found is None:
        return None
    end = thinking.find("\n", found.end())
    return len(thinking) if end < 0 else end


def tokens_before(tokenizer: Any, ids: np.ndarray, chars: int) -> int:
    """How many of the ids it takes to write the first `chars` characters of their text."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(ids[:middle])) >= chars:
            high = middle
        else:
            low = middle + 1
    return low


def spent(task: Task, problem: Problem, sample: Sample, right: bool, tokenizer: Any) -> Spent:
    thinking = chat.split(sample.text)[0]
    start = max(0, sample.text.find(thinking))
    place = appears(task, problem, thinking)

    def written(chars: int) -> int:
        return int(sample.mask[: tokens_before(tokenizer, sample.ids, chars)].sum())

    return Spent(
        tokens=int(sample.mask.sum()),
        thinking=written(start + len(thinking)) if thinking else 0,
        first=None if place is None else written(start + place),
        right=right,
        repeated=measure.repeated_tries(measure.tries(thinking)),
    )


def difficulty(right: Sequence[bool], i: int) -> float | None:
    """Share of wrong ones among the other answers; None where there is no other."""
    others = [r for j, r in enumerate(right) if j != i]
    return 1 - sum(others) / len(others) if others else None


def _mean(values_P: Sequence[float]) -> dict[str, Any] | None:
    """A mean over problems with its 95% interval."""
    if not values_P:
        return None
    low, high = measure.interval(values_P) if len(values_P) > 1 else (values_P[0], values_P[0])
    return {"mean": float(np.mean(values_P)), "ci95": [low, high], "problems": len(values_P)}


def _by_problem(rows: Sequence[tuple[str, float]]) -> list[float]:
    found: dict[str, list[float]] = {}
    for key, value in rows:
        found.setdefault(key, []).append(value)
    return [float(np.mean(v)) for v in found.values()]


def overthinking(groups: Sequence[Group], task: Task, tokenizer: Any) -> dict[str, Any]:
    """What one task's graded groups say of it. Means are over problems, each the mean of its answers."""
    rows: list[tuple[str, int | None, Spent]] = []
    for g in groups:
        right = list(map(graded.right, g.scores))
        for i, sample in enumerate(g.samples):
            hard = difficulty(right, i)
            place = None if hard is None else int(np.searchsorted(EDGES, hard, side="right"))
            rows.append((g.problem.key, place, spent(task, g.problem, sample, right[i], tokenizer)))
    bins: dict[str, Any] = {}
    for place, name in enumerate(BINS):
        mine = [(key, s) for key, p, s in rows if p == place]
        bins[name] = {
            "answers": len(mine),
            "right": float(np.mean([s.right for _, s in mine])) if mine else None,
            "tokens": _mean(_by_problem([(key, float(s.tokens)) for key, s in mine])),
            "tokens_right": _mean(_by_problem([(key, float(s.tokens)) for key, s in mine if s.right])),
            "after": _mean(_by_problem([(key, float(s.after)) for key, s in mine if s.after is not None])),
        }
    every = [(key, s) for key, _, s in rows]
    seen = [(key, s) for key, s in every if s.first is not None]
    thought = sum(s.thinking for _, s in seen)
    shares = {
        g.problem.key: {
            "right": right,
            "tokens": float(np.mean([s.mask.sum() for s in g.samples])),
        }
        for g, right in zip(groups, graded.shares(groups), strict=True)
    }
    return {
        "problems": len(groups),
        "samples": len(groups[0].samples),
        "rule": "the task's" if hasattr(task, "appears") else "literal",
        "right": float(np.mean([s.right for _, s in every])),
        "tokens": _mean(_by_problem([(key, float(s.tokens)) for key, s in every])),
        "appeared": len(seen) / len(every),
        "before": _mean(_by_problem([(key, float(s.first or 0)) for key, s in seen])),
        "after": _mean(_by_problem([(key, float(s.after or 0)) for key, s in seen])),
        "after_share": sum(s.after or 0 for _, s in seen) / thought if thought else 0.0,
        "abandoned": sum(not s.right for _, s in seen) / len(seen) if seen else None,
        "repeated": float(np.mean([s.repeated for _, s in every])),
        "bins": bins,
        "by_problem": shares,
    }


def against(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """Right answers and tokens of one measurement less another's, on the problems that both were asked."""
    a, b = mine["by_problem"], other["by_problem"]
    same = [k for k in a if k in b]
    if len(same) < 2:
        return None
    out: dict[str, Any] = {"paired": len(same)}
    for name in ("right", "tokens"):
        x, y = [a[k][name] for k in same], [b[k][name] for k in same]
        out[name] = {"before": float(np.mean(y)), **graded.paired(x, y)}
    return out
