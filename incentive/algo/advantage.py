"""What a sample is worth beside the others of its group: rewards in, advantages out.

An advantage is a function `rewards_G -> advantages_G`, float64. `assign` applies one where some rewards are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Advantage = Callable[[np.ndarray], np.ndarray]

NOISE = 1e-6  # rewards are of order one; a spread below this is rounding (also that of a float32 reward model)


def equal(rewards_G: np.ndarray) -> bool:
    """True where a group (G,) has no signal: its rewards differ by no more than rounding."""
    return bool(np.ptp(rewards_G) <= NOISE * max(1.0, np.abs(rewards_G).max()))


def dr_grpo(rewards_G: np.ndarray) -> np.ndarray:
    """Dr.GRPO: r - mean(r), not divided by the spread. (G,) -> (G,); exactly zero where the rewards are equal."""
    return np.zeros_like(rewards_G) if equal(rewards_G) else rewards_G - rewards_G.mean()


def grpo(rewards_G: np.ndarray) -> np.ndarray:
    """Paper eq. 3: (r - mean(r)) / std(r). (G,) -> (G,).

    The paper does not say which std: ours is the population's (divide by G), with no epsilon, so that the advantages of
    every group that has a signal have mean 0 and mean square 1. Equal rewards give exactly zero, also our choice.
    """
    centred_G = dr_grpo(rewards_G)
    return centred_G / rewards_G.std() if centred_G.any() else centred_G


def rloo(rewards_G: np.ndarray) -> np.ndarray:
    """RLOO: r minus the mean reward of the other samples, which is (r - mean(r)) G / (G - 1). (G,) -> (G,)."""
    return dr_grpo(rewards_G) * (rewards_G.size / (rewards_G.size - 1))


ADVANTAGES: dict[str, Advantage] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}


def assign(rewards: Sequence[float | None], advantage: Advantage) -> list[float | None]:
    """The advantages of one group, in its order; None for each sample that leaves the update.

    A reward of None (no grade, through no fault of the answer) leaves the group: mean and std are those of the rest.
    With fewer than two graded samples there is nothing to compare, and the whole group is dropped.

    Raises:
        ValueError: a reward is NaN or infinite.
    """
    graded = [i for i, r in enumerate(rewards) if r is not None]
    advantages: list[float | None] = [None] * len(rewards)
    if len(graded) < 2:
        return advantages
    rewards_G = np.array([rewards[i] for i in graded], dtype=np.float64)
    if not np.isfinite(rewards_G).all():
        raise ValueError(f"rewards must be finite or None, not {rewards_G.tolist()}")
    for i, a in zip(graded, advantage(rewards_G).tolist(), strict=True):
        advantages[i] = a
    return advantages
