"""Tool use: does a model ask the tool that a task gives it, is it answered, and is it better for it?

The same problems are asked with the tool and without: without, a call is text like any other and nothing answers it.
Remedy: RL on a task with a tool (`incentive run tool-mini`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from incentive import measure
from incentive.limits.graded import paired, right, shares
from incentive.records import Group, Tool


def tool_use(asked: Sequence[Group], alone: Sequence[Group], tool: Tool) -> dict[str, Any]:
    """Right answers with the tool and without, paired over problems; calls, and those it answered with `error`.

    Where a sample's mask is off the tool has spoken: what the policy writes in its place by itself is no call.
    """
    calls: list[int] = []
    errors = 0
    called_right: list[bool] = []
    for g in asked:
        for sample, score in zip(g.samples, g.scores, strict=True):
            spoke = np.flatnonzero(np.diff(np.concatenate([[True], sample.mask]).astype(int)) == -1)
            calls.append(len(spoke))
            errors += min(len(spoke), sample.text.count(f"{tool.stop}error"))  # the policy may write it, too
            if len(spoke):
                called_right.append(right(score))
    a, b = shares(asked), shares(alone)
    return {
        "problems": len(asked),
        "samples": len(asked[0].samples),
        "right": float(np.mean(a)),
        "ci95": list(measure.share_interval(a)),
        "right_alone": float(np.mean(b)),
        "ci95_alone": list(measure.share_interval(b)),
        "difference": paired(a, b),
        "asks": float(np.mean([c > 0 for c in calls])),
        "calls": float(np.mean(calls)),
        "errors": errors / sum(calls) if sum(calls) else None,
        "right_when_asked": float(np.mean(called_right)) if called_right else None,
        "by_calls": {str(n): int(np.sum(np.array(calls) == n)) for n in sorted(set(calls))},
    }
