"""Prompt sensitivity: how far right answers depend on a prompt's wording, and what worked examples before it do.

A problem is asked in its own wording, in those that its task gives (`paraphrases(problem)`: the same content in other
words), and under changes of the surface that no reader would notice. All wordings draw from the same random streams, so
that what differs is the prompt. A few-shot prompt has solved problems of the train split before it, as text: the paper
finds that they hurt R1. Remedy: RL on problems in many wordings (`tasks.wording.Reworded`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from incentive import measure
from incentive.limits.graded import paired, shares
from incentive.records import Group, Problem
from incentive.tasks.base import Task
from incentive.tasks.wording import OWN, Prompt, edited, wordings

SHOWN = {"zh": "例: {}\n答案: {}\n\n"}
ENGLISH = "example: {}\nanswer: {}\n\n"


def with_examples(task: Task, problem: Problem, seed: int, first: int, shots: int) -> Prompt:
    """The prompt with `shots` solved problems of the train split before it, from index `first` on."""
    shown = SHOWN.get(problem.tags.get("language", ""), ENGLISH)
    solved = [task.problem(seed, "train", first + i) for i in range(shots)]
    before = "".join(shown.format(_text(p.prompt), task.gold(p)) for p in solved)
    return edited(problem.prompt, lambda text: before + text)


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt if m["role"] == "user")


Ask = Callable[[list[Problem]], list[Group]]


def _told(groups: Sequence[Group]) -> dict[str, Any]:
    right = shares(groups)
    return {
        "prompt": _text(groups[0].problem.prompt),
        "right": float(np.mean(right)),
        "ci95": list(measure.share_interval(right)),
        "format": float(np.mean([s.parts["format"] for g in groups for s in g.scores])),
        "tokens": float(np.mean([len(s.ids) for g in groups for s in g.samples])),
    }


def sensitivity(task: Task, problems: list[Problem], ask: Ask, seed: int, shots: Sequence[int]) -> dict[str, Any]:
    """Right answers in every wording and after examples; differences to the own wording are paired over problems.

    `flips` is the share of problems that most answers solve in one wording and do not in another.
    """
    prompts = [wordings(task, p) for p in problems]
    by_wording: dict[str, Any] = {}
    right: dict[str, list[float]] = {}
    for name in [n for n in prompts[0] if n == OWN or any(w[n] != w[OWN] for w in prompts)]:
        groups = ask([replace(p, prompt=w[name]) for p, w in zip(problems, prompts, strict=True)])
        right[name] = shares(groups)
        by_wording[name] = _told(groups)
        if name != OWN:
            by_wording[name]["against_own"] = paired(right[name], right[OWN])
    rates = [w["right"] for w in by_wording.values()]
    majority = np.array([[x > 0.5 for x in v] for v in right.values()])
    few: dict[str, Any] = {}
    for n in shots:
        try:
            asked = [replace(p, prompt=with_examples(task, p, seed, n * i, n)) for i, p in enumerate(problems)]
        except ValueError:  # a file of test problems alone
            break
        groups = ask(asked)
        few[str(n)] = _told(groups) | {"against_own": paired(shares(groups), right[OWN])}
    return {
        "problems": len(problems),
        "wordings": by_wording,
        "spread": max(rates) - min(rates),
        "std": float(np.std(rates)),
        "flips": float(np.mean(majority.any(0) & ~majority.all(0))),
        "few_shot": few,
    }
