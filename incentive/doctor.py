"""The doctor judges each step's row of metrics, and the watchdog names the phase that hangs: plain words, one
suggestion."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from incentive.config import RL


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: what is so and, where it is not well, the one thing to do about it."""

    level: Literal["ok", "warn", "stop"]
    what: str
    advice: str = ""


class Doctor:
    """Judges a run by its rows of metrics. Each problem is told once when it sets in, and again only after it was gone.

    After a resume, feed it the rows that are on disk first: entropy and length are judged beside the run's start.
    """

    def __init__(self, section: RL):
        self.section = section
        self._bad: dict[str, int] = {}  # rows in a row that showed it
        self._told: set[str] = set()
        self._start: dict[str, list[float]] = {}  # the first values of a metric
        self._last: dict[str, deque[float]] = {}  # the latest
        self._best_reward, self._best_val = -math.inf, (-math.inf, 0.0)  # val accuracy with the reward at that time

    def see(self, row: dict[str, Any]) -> list[Finding]:
        """What this step's row shows for the first time."""
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        found = list(self._nonfinite(row, numbers))
        numbers = {k: v for k, v in numbers.items() if math.isfinite(v)}
        for judge in (self._cut, self._no_signal, self._entropy, self._kl, self._gradient, self._mismatch, self._growth,
                      self._overfit, self._collapse, self._ungraded):  # fmt: skip
            found += judge(numbers)
        for name, v in numbers.items():
            self._last.setdefault(name, deque(maxlen=20)).append(v)
            if len(first := self._start.setdefault(name, [])) < 3:
                first.append(v)
        return found

    def _onset(self, name: str, bad: bool, good: bool, patience: int = 1) -> bool:
        """True once: when it has been bad for `patience` rows. Only a row that is good arms it again."""
        self._bad[name] = self._bad.get(name, 0) + 1 if bad else 0
        if good:
            self._told.discard(name)
        if self._bad[name] < patience or name in self._told:
            return False
        self._told.add(name)
        return True

    def _before(self, name: str) -> float | None:
        """The median of the run's first three values of a metric, once there are three."""
        first = self._start.get(name, [])
        return median(first) if len(first) == 3 else None

    def _nonfinite(self, row: dict[str, Any], numbers: dict[str, float]) -> Iterator[Finding]:
        wrong = sorted({k for k, v in numbers.items() if not math.isfinite(v)} | set(row.get("nonfinite") or ()))
        if self._onset("nonfinite", bool(wrong), not wrong):
            yield Finding(
                "stop",
                f"{', '.join(wrong)} is NaN or infinite",
                "go back to the last checkpoint and halve rl.optim.learning_rate",
            )

    def _cut(self, row: dict[str, float]) -> Iterator[Finding]:
        if (cut := row.get("completions/clipped_ratio")) is None:
            return
        cap = self.section.sampling.max_tokens
        if self._onset("cut", cut > 0.5, cut < 0.3, 1 if cut > 0.95 else 2):
            yield Finding(
                "warn",
                f"{cut:.0%} of the answers are cut at {cap} tokens and can hardly score",
                f"raise rl.sampling.max_tokens to {2 * cap}",
            )

    def _no_signal(self, row: dict[str, float]) -> Iterator[Finding]:
        if (flat := row.get("frac_reward_zero_std")) is None or not self._onset("signal", flat > 0.9, flat < 0.7, 3):
            return
        solved, unsolved = row.get("frac_solved_groups", 0.0), row.get("frac_unsolved_groups", 0.0)
        what = f"{flat:.0%} of the groups have equal rewards, so almost nothing is learnt"
        if solved > 0.5:
            yield Finding(
                "warn",
                f"{what}: {solved:.0%} are solved in every try",
                "the task is learnt: stop here or give harder problems",
            )
        elif unsolved > 0.5:
            yield Finding(
                "warn",
                f"{what}: {unsolved:.0%} are solved in no try",
                "give easier problems, or raise rl.num_generations",
            )
        else:
            yield Finding("warn", what, "set rl.dynamic_sampling = true")

    def _entropy(self, row: dict[str, float]) -> Iterator[Finding]:
        now, start = row.get("entropy"), self._before("entropy")
        if now is None or start is None or start <= 0:
            return
        if self._onset("entropy low", now < 0.05 * start, now > 0.1 * start, 3):
            yield Finding(
                "warn",
                f"entropy fell from {start:.2f} to {now:.3f}: the policy hardly explores any more",
                "raise rl.epsilon_high or rl.beta, or lower the learning rate",
            )
        if self._onset("entropy high", now > max(2 * start, start + 1), now < 1.5 * start, 3):
            yield Finding(
                "warn",
                f"entropy rose from {start:.2f} to {now:.2f}: the text falls apart",
                "halve rl.optim.learning_rate",
            )

    def _kl(self, row: dict[str, float]) -> Iterator[Finding]:
        if (kl := row.get("kl")) is not None and self._onset("kl", kl > 2, kl < 1, 2):
            yield Finding(
                "warn",
                f"the policy is {kl:.1f} nats a token from its reference",
                "halve rl.optim.learning_rate, or raise rl.beta",
            )

    def _gradient(self, row: dict[str, float]) -> Iterator[Finding]:
        norm, last = row.get("grad_norm"), self._last.get("grad_norm", ())
        if norm is None or len(last) < 5:
            return
        usual = median(last)
        if self._onset("gradient", norm > 10 * usual > 0 and norm > self.section.optim.max_grad_norm, norm < 3 * usual):
            yield Finding(
                "warn",
                f"the gradient's norm jumped to {norm:.3g}, usually {usual:.3g} (it is clipped to "
                f"{self.section.optim.max_grad_norm:g})",
                "if that comes again, halve rl.optim.learning_rate",
            )

    def _mismatch(self, row: dict[str, float]) -> Iterator[Finding]:
        gap = row.get("sampler_mismatch")
        if gap is not None and self._onset("mismatch", gap > 0.1, gap < 0.05):
            yield Finding(
                "warn",
                f"engine and learner disagree by {gap:.2f} in a token's log-probability: the engine's weights are "
                "stale "
                "or its numbers too coarse",
                "stop and resume, which reloads it; if it stays, set both dtypes to 'float32'",
            )

    def _growth(self, row: dict[str, float]) -> Iterator[Finding]:
        """Longer answers that do not pay: over twenty rollouts the length doubles and the reward does not rise."""
        lengths, paid = self._last.get("completions/mean_length", ()), self._last.get("reward", ())
        now, reward, circles = (
            row.get("completions/mean_length"),
            row.get("reward"),
            row.get("completions/repetition", 0.0),
        )
        if now is None or reward is None or len(lengths) < 6 or len(paid) < 6:
            return
        before, earned = float(np.mean(list(lengths)[:3])), float(np.mean(list(paid)[:3]))
        recent = float(np.mean([*list(paid)[-2:], reward]))
        bad = now > 2 * before and recent <= earned + 0.02
        if self._onset(
            "growth", bad or (circles > 0.5 and now > 1.2 * before), now < 1.5 * before and circles < 0.4, 3
        ):
            said = f", {circles:.0%} of it repetition" if circles else ""
            yield Finding(
                "warn",
                f"answers grew from {before:.0f} to {now:.0f} tokens without more reward{said}: probably going in "
                "circles",
                "look at the samples; then set rl.loss_type = 'dr_grpo' or lower rl.sampling.max_tokens",
            )

    def _overfit(self, row: dict[str, float]) -> Iterator[Finding]:
        val = row.get("val/accuracy")
        if val is None:
            return
        recent = [*list(self._last.get("reward", ()))[-4:], *([row["reward"]] if "reward" in row else [])]
        reward = float(np.mean(recent)) if recent else 0.0
        if val >= self._best_val[0]:
            self._best_val = val, reward
        best, then = self._best_val
        if self._onset("overfit", val < best - 0.1 and reward > then + 0.02, val > best - 0.05, 2):
            yield Finding(
                "warn",
                f"the reward rises ({then:.2f} to {reward:.2f}) while val accuracy fell from {best:.0%} to {val:.0%}: "
                "the reward is being gamed or the problems learnt by heart",
                "use best/ and look at samples of high reward",
            )

    def _collapse(self, row: dict[str, float]) -> Iterator[Finding]:
        if "reward" not in row:
            return
        recent = float(np.mean([*list(self._last.get("reward", ()))[-2:], row["reward"]]))
        if len(self._last.get("reward", ())) >= 2:
            self._best_reward = max(self._best_reward, recent)
        best = self._best_reward
        if self._onset("collapse", best > 0.1 and recent < 0.5 * best, recent > 0.8 * best, 3):
            yield Finding(
                "warn",
                f"the reward fell from {best:.2f} to {recent:.2f}",
                "go back to best/ with half the rl.optim.learning_rate",
            )

    def _ungraded(self, row: dict[str, float]) -> Iterator[Finding]:
        if (n := row.get("ungraded")) is not None and self._onset("ungraded", n > 0, n == 0):
            yield Finding(
                "warn",
                f"{n:.0f} answers could not be graded and left their groups",
                "see `error` in this step's rollouts",
            )


class Watchdog:
    """While open: if no `beat` comes for `limit_s` seconds, says which phase hangs and writes every thread's stack.

    Once a stall; a beat arms it again. The thread ends with the block.

        with Watchdog(300, say, stage.dir / "stacks.txt") as watchdog:
            ... show=lambda row: watchdog.beat(row["phase"])

    Args:
        stacks: file for the stacks, appended to; none: stderr.
    """

    def __init__(self, limit_s: float, say: Callable[[str], None], stacks: Path | None = None):
        self.limit, self.say, self.stacks = limit_s, say, stacks
        self._phase, self._at, self._stalled = "start", time.monotonic(), False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def beat(self, phase: str) -> None:
        self._phase, self._at, self._stalled = phase, time.monotonic(), False

    def __enter__(self) -> Watchdog:
        self.beat(self._phase)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(min(1.0, self.limit / 4)):
            silent = time.monotonic() - self._at
            if silent > self.limit and not self._stalled:
                self._stalled = True
                where = f"; what it was doing is in {self.stacks}" if self.stacks else ""
                with contextlib.suppress(OSError, ValueError):  # a closed pipe must not end the watching
                    self.say(f"no sign of life for {silent:.0f} s in phase {self._phase!r}{where}")
                self._dump(silent)

    def _dump(self, silent: float) -> None:
        with contextlib.suppress(OSError, ValueError, AssertionError):  # no stderr, or no file behind it
            if self.stacks is None:
                assert sys.__stderr__ is not None
                faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
            else:
                with self.stacks.open("a", encoding="utf-8") as file:
                    file.write(f"\n{silent:.0f} s in phase {self._phase!r}\n")
                    file.flush()
                    faulthandler.dump_traceback(file, all_threads=True)
