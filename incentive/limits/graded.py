"""What every limit asks of graded groups: how often a problem's answers are right, and how two ways of asking differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from incentive import measure
from incentive.records import Group, Score


def right(score: Score) -> bool:
    return score.parts.get("accuracy", 0.0) > 0


def shares(groups: Sequence[Group]) -> list[float]:
    """Of each problem the share of right answers, (P,)."""
    return [float(np.mean([right(s) for s in g.scores])) for g in groups]


def paired(a_P: Sequence[float], b_P: Sequence[float]) -> dict[str, Any]:
    """The mean of a less b over the same problems, with a 95% interval and p."""
    found = measure.paired_difference(a_P, b_P)
    return {"difference": found.mean, "ci95": [found.low, found.high], "p": found.p}
