"""How good a judge of answers is: calibration, the area under the curve, and what length has to do with it. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from incentive.measure import wilson

DRAWS = 400  # outcomes drawn to tell what a calibrated model would show


def sigmoid(x: Sequence[float] | np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), (N,) -> (N,); in the form that does not overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(x, dtype=np.float64) / 2))


def share(right: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """A share of n independent trials with Wilson's 95% interval; None where there is none."""
    n, c = len(right), int(np.sum(right))
    low, high = wilson(c, n)
    return {"n": n, "share": c / n if n else None, "ci95": [low, high]}


def auc(scores: Sequence[float] | np.ndarray, positive: Sequence[bool] | np.ndarray) -> float | None:
    """How often a positive one scores above a negative one, ties counted half; None where one kind is missing."""
    s, p = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    up, down = int(p.sum()), int((~p).sum())
    if not up or not down:
        return None
    _, place, count = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # mean rank of ties, from 1
    return float((ranks[p].sum() - up * (up + 1) / 2) / (up * down))


def _error(bin_N: np.ndarray, p_N: np.ndarray, y_N: np.ndarray, bins: int) -> np.ndarray:
    """Expected calibration error of outcomes (..., N): over bins, share of n times |mean outcome - mean probability|."""
    inside = np.eye(bins)[bin_N]  # (N, bins)
    return np.abs((y_N - p_N) @ inside).sum(-1) / len(p_N)


def calibration(
    probabilities: Sequence[float] | np.ndarray, outcomes: Sequence[bool] | np.ndarray, low: float = 0.0, bins: int = 10
) -> dict[str, Any]:
    """Expected calibration error, and the bins of a reliability plot.

    With few answers even a calibrated model shows an error; `ece_if_calibrated` is what it would be on average, by draws
    of outcomes from the probabilities themselves (seeded).

    Args:
        probabilities: (N,) from `low` to 1; bins of equal width cut that range.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    at = np.clip(((p - low) / (1 - low) * bins).astype(int), 0, bins - 1)
    drawn = np.random.default_rng(0).random((DRAWS, len(p))) < p
    rows = []
    for b in range(bins):
        mine = at == b
        n, c = int(mine.sum()), int(y[mine].sum())
        edge = [low + (1 - low) * b / bins, low + (1 - low) * (b + 1) / bins]
        found = {"probability": float(p[mine].mean()), "share": c / n, "ci95": list(wilson(c, n))} if n else {}
        rows.append({"from": edge[0], "to": edge[1], "n": n} | found)
    return {
        "ece": float(_error(at, p, y, bins)),
        "ece_if_calibrated": float(_error(at, p, drawn, bins).mean()),
        "bins": rows,
    }


def correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Pearson's; None where one of them does not vary."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return None
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / math.sqrt((x @ x) * (y @ y)))


def of_pairs(chosen: Sequence[float], rejected: Sequence[float], lengths: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What the scores of held-out pairs (N,) say, with the lengths (N, 2) of what was scored.

    Calibration is of the confidence, sigmoid|chosen - rejected| in [1/2, 1], in the side that the model takes. Equal
    scores take no side: they are wrong, with confidence 1/2.
    """
    gap = np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64)
    sizes = np.asarray(lengths, dtype=np.float64).reshape(-1, 2)
    longer = sizes[:, 0] - sizes[:, 1]
    right = gap > 0
    return {
        "pairs": len(gap),
        "accuracy": share(right),
        "calibration": calibration(sigmoid(np.abs(gap)), right, low=0.5),
        "length": {
            "score": correlation([*chosen, *rejected], sizes.T.ravel()),
            "score_within_pairs": correlation(gap, longer),
            "chosen": correlation(np.repeat([1.0, -1.0], len(gap)), sizes.T.ravel()),  # what the data itself has of it
            "accuracy_chosen_shorter": share(right[longer < 0]),
            "accuracy_chosen_longer": share(right[longer > 0]),
        },
    }


def of_labels(scores: Sequence[float], positive: Sequence[bool], lengths: Sequence[int]) -> dict[str, Any]:
    """What the scores of held-out labelled answers (N,) say; above 0 the model says safe."""
    s, safe = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    said = s > 0
    return {
        "labels": len(s),
        "accuracy": share(said == safe),
        "false_safe": share(said[~safe]),
        "false_unsafe": share(~said[safe]),
        "auc": auc(s, safe),
        "calibration": calibration(sigmoid(s), safe),
        "length": {
            "score": correlation(s, lengths),
            "label": correlation(safe.astype(float), lengths),  # what the data itself has of it
        },
    }
