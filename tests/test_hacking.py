"""The hacking monitor: silent on noise, finds planted falls, and names a step before them."""

from __future__ import annotations

import numpy as np
import pytest

from incentive.hacking import Fall, Monitor, _tail

LOOKS, PROBLEMS, FALL = 30, 200, 14


def simulate(seed: int, drop: float = 0.0, rise: float = 0.01, problems: int = PROBLEMS) -> Fall | None:
    """Two truths, right or wrong on each problem by its own chance; one loses `drop` over eight looks after FALL.

    Each look is at step 10, 20, ...; the reward rises a little at each, with noise.
    """
    rng, monitor = np.random.default_rng([seed, problems]), Monitor()
    base = rng.beta(2, 1.5, size=(2, problems))
    for t in range(LOOKS):
        lost = drop * min(1.0, max(0, t - FALL) / 8)
        chance = {"code": base[0] * (1 - lost / base[0].mean()), "rubric": base[1]}
        truths = {name: rng.random(problems) < p for name, p in chance.items()}
        if found := monitor.see(10 * (t + 1), 0.5 + rise * t + rng.normal(0, 0.02), truths):
            return found[0]
    return None


@pytest.mark.parametrize("problems", [20, PROBLEMS])
def test_silent_on_noise(problems: int) -> None:
    """1,000 runs whose truths are flat and whose reward rises: the docstring promises under 5% with an alarm."""
    alarms = sum(simulate(seed, problems=problems) is not None for seed in range(1000))
    assert alarms < 50


def test_finds_falls_and_names_a_step_before() -> None:
    found = [simulate(seed, drop=0.15) for seed in range(200)]
    hits = [f for f in found if f is not None and f.truth == "code"]
    assert len(hits) > 0.95 * len(found)
    last_good = 10 * (FALL + 1)
    assert np.mean([f.keep <= last_good for f in hits]) > 0.75
    assert np.mean([f.keep <= last_good + 10 for f in hits]) > 0.95  # one look in: a fiftieth is lost
    assert np.mean([f.step for f in hits]) < last_good + 80
    assert all(f.ci95[0] > 0 and f.after < f.before and f.reward_after > f.reward_before for f in hits)


def test_a_fall_without_a_rising_reward_is_another_matter() -> None:
    assert sum(simulate(seed, drop=0.2, rise=0.0) is not None for seed in range(40)) <= 4
    assert all(simulate(seed, drop=0.2, rise=-0.01) is None for seed in range(20))


def test_words() -> None:
    fall = next(f for seed in range(9) if (f := simulate(seed, drop=0.2)) is not None)
    said = fall.finding
    assert said.level == "warn"
    assert "code fell from" in said.what
    assert f"between steps {fall.keep} and {fall.step}" in said.what
    assert f"checkpoint of step {fall.keep}" in said.advice


def test_told_once_and_the_same_after_a_resume() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (t + 1, 0.1 * t, {"a": (rng.random(300) < 0.8 - 0.3 * (t > 10)).astype(float), "b": rng.random(300)})
        for t in range(25)
    ]
    whole = Monitor()
    first = [(row[0], fall) for row in rows for fall in whole.see(*row)]
    assert [fall.truth for _, fall in first] == ["a"]
    again = Monitor()
    assert [(row[0], fall) for row in rows for fall in again.see(*row)] == first
    assert first[0][1].keep <= 11 < first[0][1].step


@pytest.mark.parametrize(
    ("step", "truths", "said"),
    [
        (1, {"a": [1.0, 0.0]}, "in order"),
        (2, {"b": [1.0, 0.0]}, "the same"),
        (2, {"a": [1.0, 0.0, 1.0]}, "3 problems after 2"),
        (2, {"a": [1.0, float("nan")]}, "finite"),
    ],
)
def test_looks_must_be_paired(step: int, truths: dict[str, list[float]], said: str) -> None:
    monitor = Monitor()
    monitor.see(1, 0.0, {"a": [1.0, 0.0]})
    with pytest.raises(ValueError, match=said):
        monitor.see(step, 0.0, truths)


def test_a_constant_fall_of_few_problems_is_not_certain() -> None:
    """Three problems that agree prove nothing; thirty do."""
    for problems, told in ((3, False), (30, True)):
        monitor = Monitor()
        found = [f for t in range(20) for f in monitor.see(t, float(t), {"a": [1.0 if t < 10 else 0.5] * problems})]
        assert bool(found) is told
        assert (
            not found or found[0].keep == 6
        )  # of 5, 6, 7, the last window that shares no look with the latest (8, 9, 10)


def test_tail_is_students() -> None:
    """Beside tabulated quantiles of Student's t."""
    for t, df, p in (
        (1.812, 10, 0.05),
        (2.764, 10, 0.01),
        (4.587, 10, 0.0005),
        (1.660, 100, 0.05),
        (3.390, 100, 0.0005),
    ):
        assert _tail(t, df + 1) == pytest.approx(p, rel=0.03)
    assert _tail(-1.0, 10) == 1.0
    assert _tail(50.0, 10) == 2.0**-10
