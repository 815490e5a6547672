"""Structured output: is the answer JSON, does it have the form that the problem's JSON Schema asks for, is it right?

Remedy: the reward `schema`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from incentive import chat, measure
from incentive.limits.graded import right
from incentive.records import Group
from incentive.verify.schema import fault

OUTCOMES = ("right", "valid, but wrong", "not the schema", "not JSON", "no answer")


def structured(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Outcomes of one task's answers as shares; None where its problems have no schema."""
    mine = [g for g in groups if "schema" in g.problem.tags]
    if not mine:
        return None
    counts = dict.fromkeys(OUTCOMES, 0)
    valid = []
    for g in mine:
        good = 0
        for sample, score in zip(g.samples, g.scores, strict=True):
            answer = chat.split(sample.text)[1]
            why = "no answer" if answer is None else fault(answer, g.problem.tags["schema"])
            good += why is None
            counts[why or ("right" if right(score) else "valid, but wrong")] += 1
        valid.append(good / len(g.samples))
    total = sum(counts.values())
    return {
        "problems": len(mine),
        "samples": len(mine[0].samples),
        "valid": float(np.mean(valid)),
        "ci95": list(measure.share_interval(valid)),
        "right": counts["right"] / total,
        "outcomes": {name: n / total for name, n in counts.items()},
    }
