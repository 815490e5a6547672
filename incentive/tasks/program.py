"""Program: a Python function of one number, from a short statement with an example, or from examples alone.

The answer is source text; it runs on hidden inputs in the sandbox's `monty` tier, an interpreter for untrusted code, so
that rewards do not depend on the machine. Every test has to pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from threading import get_ident
from typing import Any

from incentive import facts
from incentive.records import Problem, Split
from incentive.tasks.base import drawn
from incentive.tasks.countdown import LIMIT, Chain

Steps = tuple[tuple[str, int], ...]  # (operator, constant), from left to right

OPS: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__, "-": int.__sub__, "*": int.__mul__, "//": int.__floordiv__, "%": int.__mod__,
}  # fmt: skip
LARGEST = {"+": 20, "-": 9, "*": 6, "//": 6, "%": 20}  # of the constant
VERBS = {
    "en": {"+": "add {}", "-": "minus {}", "*": "times {}", "//": "div {}", "%": "mod {}"},
    "zh": {"+": "加{}", "-": "减{}", "*": "乘{}", "//": "除{}", "%": "模{}"},
}
INPUTS = range(20)  # of the hidden tests


@dataclass(frozen=True)
class Function:
    """Steps for every x, or, where `under` is given, `low` for x under it and `high` for the others."""

    low: Steps
    high: Steps = ()
    under: int | None = None

    def steps(self, x: int) -> Steps:
        return self.low if self.under is None or x < self.under else self.high

    def trace(self, x: int) -> Chain:
        """The computation at x, step by step."""
        out = []
        for op, c in self.steps(x):
            out.append((x, op, c, OPS[op](x, c)))
            x = out[-1][3]
        return out

    def __call__(self, x: int) -> int:
        return self.trace(x)[-1][3]

    def outputs(self) -> list[int]:
        return [self(x) for x in INPUTS]

    @property
    def expression(self) -> str:
        low = _expression(self.low)
        return low if self.under is None else f"{low} if x<{self.under} else {_expression(self.high)}"

    @property
    def source(self) -> str:
        return f"def f(x): return {self.expression}"

    def told(self, language: str) -> str:
        verbs = VERBS[language]
        low, high = (", ".join(verbs[op].format(c) for op, c in steps) for steps in (self.low, self.high))
        if self.under is None:
            return low
        return f"小于{self.under}时{low}, 否则{high}" if language == "zh" else f"under {self.under} {low}, else {high}"


def _expression(steps: Steps) -> str:
    """`(x+3)*2%7`: brackets only where Python needs them."""
    text, loose = "x", False
    for op, c in steps:
        text = f"({text}){op}{c}" if loose and op not in "+-" else f"{text}{op}{c}"
        loose = op in "+-"
    return text


def random_steps(rng: Random, n: int) -> Steps:
    steps: list[tuple[str, int]] = []
    for _ in range(n):
        op = rng.choice([o for o in OPS if not steps or (o in "+-") != (steps[-1][0] in "+-")])
        steps.append((op, 2 + int(rng.random() * (LARGEST[op] - 1))))
    return tuple(steps)


@cache
def _sandbox(thread: int) -> Any:  # noqa: ARG001  a sandbox serves one thread
    from incentive.verify.sandbox import open_sandbox

    return open_sandbox("monty", workers=1)


@dataclass(frozen=True)
class Program:
    """Two or three steps, or some for small x and others for large; a quarter of the problems tell by examples alone."""

    name: str = "program"
    language: facts.Language = "en"

    def draw(self, rng: Random) -> tuple[Function, list[int], bool] | None:
        """(function, the inputs shown, told by examples alone). No value is negative; what is shown stays in 0..99."""
        at, under = rng.random(), 3 + int(rng.random() * 15)
        examples = at < 0.25
        if at < 0.6:
            function = Function(random_steps(rng, 2 if examples else 3))
        else:
            function = Function(random_steps(rng, 1), random_steps(rng, 1 + int(rng.random() * 2)), under)
        if min(step[3] for x in INPUTS for step in function.trace(x)) < 0 or len(set(function.outputs())) < 3:
            return None
        shown = sorted(rng.sample(range(10), 3)) if examples else [int(rng.random() * 20)]
        if max(step[3] for x in shown for step in function.trace(x)) > LIMIT:
            return None
        return function, shown, examples

    @staticmethod
    def key(function: Function) -> str:
        """What it computes, however it is written or told."""
        return f"program:{','.join(map(str, function.outputs()))}"

    def prompt(self, function: Function, shown: list[int], examples: bool) -> str:
        start = "写 f" if self.language == "zh" else "write f"
        seen = " ".join(f"f({x})={function(x)}" for x in shown)
        return f"{start}: {seen}" if examples else f"{start}: {function.told(self.language)}. {seen}"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        function, shown, examples = drawn(self.draw, lambda d: self.key(d[0]), self.name, seed, split, i)
        return Problem(
            id=f"{self.name}/{split}/{seed}/{i}",
            key=self.key(function),
            prompt=self.prompt(function, shown, examples),
            answer=function.source,
            tags={"task": self.name, "language": self.language, "outputs": function.outputs(), "examples": examples},
        )

    def check(self, problem: Problem, answer: str) -> bool:
        """Whether every hidden test passes.

        Raises:
            RewardError: there is no sandbox here, or it is down.
        """
        from incentive.rewards import RewardError
        from incentive.verify.sandbox import Program as Source
        from incentive.verify.sandbox import SandboxDown, SandboxMissing, Test

        tests = tuple(Test([x], y) for x, y in zip(INPUTS, problem.tags["outputs"], strict=True))
        try:
            verdict = _sandbox(get_ident()).run([("", Source(answer.strip(), tests, "f"))])[""]
        except (SandboxMissing, SandboxDown) as error:  # no answer is to blame: the run stops
            raise RewardError(str(error)) from error
        if verdict.outcome == "ungraded":
            raise RuntimeError(f"the sandbox could not grade: {verdict.why}")
        return verdict.outcome == "pass"

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        """The text without spaces: votes need no second run."""
        return "".join(answer.split()) or None
