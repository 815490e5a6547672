"""Calibration, AUC and length bias beside numbers worked out by hand and data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from incentive.calibration import auc, calibration, correlation, of_labels, of_pairs, share, sigmoid


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auc_counts_pairs(rows: list[tuple[int, bool]]) -> None:
    up, down = [s for s, p in rows if p], [s for s, p in rows if not p]
    found = auc([s for s, _ in rows], [p for _, p in rows])
    if not up or not down:
        assert found is None
    else:
        by_hand = sum((a > b) + (a == b) / 2 for a in up for b in down) / (len(up) * len(down))
        assert found == pytest.approx(by_hand)


def test_calibration_by_hand() -> None:
    found = calibration([0.1, 0.1, 0.9, 0.9], [False, True, True, True], bins=2)
    assert found["ece"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert [(b["n"], b["share"]) for b in found["bins"]] == [(2, 0.5), (2, 1.0)]
    assert calibration([0.5, 1.0], [True, True], low=0.5)["bins"][9]["n"] == 1


def test_calibrated_and_overconfident_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500)
    good, bold = calibration(p, rng.random(500) < p), calibration(np.where(p > 0.5, 0.99, 0.01), rng.random(500) < p)
    assert good["ece"] < 2 * good["ece_if_calibrated"] < 0.1
    assert bold["ece"] > 5 * bold["ece_if_calibrated"]


def test_pairs_by_hand() -> None:
    found = of_pairs([2.0, 1.0, 0.0, 5.0], [1.0, 2.0, 0.0, 1.0], [(10, 2), (3, 9), (4, 4), (6, 8)])
    assert found["accuracy"]["share"] == 0.5  # equal scores are no right answer
    assert found["length"]["accuracy_chosen_shorter"]["n"] == 2
    assert found["length"]["accuracy_chosen_shorter"]["share"] == 0.5
    assert found["length"]["accuracy_chosen_longer"]["share"] == 1.0
    assert found["calibration"]["bins"][0]["n"] == 1


def test_a_liking_for_length_shows() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(5, 50, (400, 2))
    liking = of_pairs(sizes[:, 0] + rng.normal(0, 3, 400), sizes[:, 1] + rng.normal(0, 3, 400), sizes.tolist())
    assert liking["length"]["score"] > 0.9
    assert abs(liking["length"]["chosen"]) < 0.1
    assert (
        liking["length"]["accuracy_chosen_shorter"]["share"]
        < 0.1
        < 0.9
        < liking["length"]["accuracy_chosen_longer"]["share"]
    )


def test_labels_by_hand() -> None:
    found = of_labels([2.0, -1.0, 1.0, -3.0, 0.5], [True, True, False, False, False], [1, 2, 3, 4, 5])
    assert found["false_safe"] | {"ci95": 0} == {"n": 3, "share": 2 / 3, "ci95": 0}
    assert found["false_unsafe"]["share"] == 0.5
    assert found["accuracy"]["share"] == 0.4
    assert found["auc"] == pytest.approx((3 + 1) / 6)
    assert of_labels([1.0, 2.0], [True, True], [1, 2])["false_safe"]["share"] is None


def test_edges() -> None:
    assert sigmoid([800.0, -800.0, 0.0]).tolist() == [1.0, 0.0, 0.5]
    assert math.isclose(sigmoid([-30.0])[0], 9.357622968839e-14, rel_tol=1e-3)
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert share([]) == {"n": 0, "share": None, "ci95": [0.0, 1.0]}
