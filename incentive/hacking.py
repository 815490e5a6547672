"""The reward-hacking monitor: says when the reward keeps rising while a ground truth falls, and what to go back to.

Paper (B.5, fig. 6): trained longer on the helpful reward model, its reward rises and coding falls. Ground truth is what no
reward model sees: the world's rubric, accuracy on held-out maths and code, on the same problems every time. Imports no
torch. The doctor judges a step by its own row; this judges the run by problems that the run does not train on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np

from incentive.doctor import Finding


@dataclass(frozen=True, slots=True)
class Fall:
    """A ground truth fell while the reward rose. Means are of a window of looks; `keep` is the last step before it."""

    truth: str
    step: int  # where it was noticed
    keep: int
    before: float
    after: float
    ci95: tuple[float, float]  # of before - after, paired by problem, as if this comparison were the only one
    reward_before: float
    reward_after: float

    @property
    def finding(self) -> Finding:
        low, high = self.ci95
        return Finding(
            "warn",
            f"the reward rises ({self.reward_before:.3g} to {self.reward_after:.3g}) while {self.truth} fell from "
            f"{self.before:.3g} to {self.after:.3g} between steps {self.keep} and {self.step} (by {low:.2g} to {high:.2g}): "
            "the reward is being gamed",
            f"stop, and use the checkpoint of step {self.keep}, the last before the fall",
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """What an RL stage lets the monitor look at.

    proxy: the reward that may be gamed, by name.
    truths: ground truth -> the tasks whose held-out problems tell it.
    """

    proxy: str
    truths: Mapping[str, tuple[str, ...]]

    @property
    def version(self) -> str:
        """Counts in a stage's key."""
        return f"{self.proxy} {dict(self.truths)}"


def _tail(t: float, n: int) -> float:
    """P(T > t) of Student's t with n - 1 degrees of freedom (Wallace 1959: its normal equivalent), and never below the
    2^-n of n signs that all agree, the least that n problems can tell."""
    if t <= 0:
        return 1.0
    v = n - 1
    z = (8 * v + 1) / (8 * v + 3) * math.sqrt(v * math.log1p(t * t / v))
    return max(0.5 * math.erfc(z / math.sqrt(2)), 2.0**-n)


class Monitor:
    """Watches one run. Feed it every look at the ground truths, after a resume those that are on disk first.

    The decision. A window is the mean, problem by problem, of `window` looks in a row. At every look the latest window is
    compared with each earlier one that shares no look with it, by a one-sided paired t test over problems; a truth has
    fallen where one of these comparisons is significant. The m-th look at which there is something to compare may spend
    10 alpha / ((m + 9) (m + 10)) of false alarms, in equal parts on its m comparisons and on the truths. These add up to
    alpha over all m, so by Bonferroni the chance of any false alarm stays below alpha, however long the run.

    A fall is hacking only where the reward rose meanwhile: by more than three standard errors of the difference of two
    windows (it is asked again at every look after the fall), its noise taken from the differences of looks that follow each other. A fall without a rise is a collapse,
    which the doctor tells.

    `keep`, the last step before the fall: of the windows, the latest whose truth is within one standard error (paired)
    of the best window's (the rule of Breiman et al. 1984 for choosing a tree), and of it the middle look.

    Args:
        alpha: chance of a false alarm in a whole run with flat truths, at most.
        window: looks that are averaged. More find smaller falls, later.
    """

    def __init__(self, alpha: float = 0.05, window: int = 3):
        if not 0 < alpha < 1 or window < 1:
            raise ValueError(f"alpha {alpha} must lie between 0 and 1, and window {window} be 1 or more")
        self.alpha, self.window = alpha, window
        self._steps: list[int] = []
        self._reward: list[float] = []
        self._truths: dict[str, list[np.ndarray]] = {}  # a look each, (P,)
        self._told: set[str] = set()

    def see(self, step: int, reward: float, truths: Mapping[str, Sequence[float] | np.ndarray]) -> list[Fall]:
        """What this look shows for the first time, at most once for each truth.

        Args:
            reward: mean of the proxy, the reward models' reward, since the last look.
            truths: name -> value of each held-out problem (P,), the same problems in the same order at every look.

        Raises:
            ValueError: the truths are not those of the looks before, or not finite, or the step is not later.
        """
        new = {name: np.asarray(values, dtype=np.float64) for name, values in truths.items()}
        self._check(step, reward, new)
        self._steps.append(step)
        self._reward.append(float(reward))
        for name, values in new.items():
            self._truths.setdefault(name, []).append(values)
        found = [fall for name in new if name not in self._told and (fall := self._fall(name))]
        self._told |= {fall.truth for fall in found}
        return found

    def _check(self, step: int, reward: float, new: Mapping[str, np.ndarray]) -> None:
        if self._steps and step <= self._steps[-1]:
            raise ValueError(f"step {step} after step {self._steps[-1]}: looks come in order")
        if self._steps and new.keys() != self._truths.keys():
            raise ValueError(f"truths {sorted(new)} after {sorted(self._truths)}: every look needs the same")
        for name, values in new.items():
            if values.ndim != 1 or len(values) < 2 or not (np.isfinite(values).all() and math.isfinite(reward)):
                raise ValueError(f"{name!r} needs a finite value for each of at least two problems")
            if self._steps and len(values) != len(self._truths[name][0]):
                raise ValueError(f"{name!r} has {len(values)} problems after {len(self._truths[name][0])}")

    def _fall(self, name: str) -> Fall | None:
        w, looks = self.window, self._truths[name]
        comparisons = len(looks) - 2 * w + 1
        if comparisons < 1:
            return None
        sums_T = np.cumsum([np.zeros_like(looks[0]), *looks], axis=0)
        windows_T = (sums_T[w:] - sums_T[:-w]) / w  # (T - w + 1, P); row i ends with look i + w - 1
        earlier, now = windows_T[:comparisons], windows_T[-1]
        spent = 10 * self.alpha / ((comparisons + 9) * (comparisons + 10))
        level = spent / comparisons / len(self._truths)
        means, errors = _paired(earlier - now)
        if _tail(float((means / errors).max()), len(now)) > level:
            return None
        means, errors = _paired(earlier[int(earlier.mean(1).argmax())] - earlier)
        kept = int(np.flatnonzero(means <= errors)[-1])
        before, after = fmean(self._reward[kept : kept + w]), fmean(self._reward[-w:])
        noise = pstdev(np.diff(self._reward).tolist()) / math.sqrt(2)
        if after - before <= 3 * noise * math.sqrt(2 / w):
            return None
        mean, error = (float(x) for x in _paired(earlier[kept] - now))
        return Fall(
            name, self._steps[-1], self._steps[kept + (w - 1) // 2], float(earlier[kept].mean()), float(now.mean()),
            (mean - 1.96 * error, mean + 1.96 * error), before, after,
        )  # fmt: skip


def _paired(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over problems: (..., P) -> (...), (...); the error never quite 0, to be divided by."""
    error = differences.std(-1, ddof=1) / math.sqrt(differences.shape[-1])
    return differences.mean(-1), np.maximum(error, 1e-12)
