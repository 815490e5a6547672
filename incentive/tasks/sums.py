"""Sums: whole numbers too large for the miniature's head, with a calculator to ask in the middle of an answer.

A call is `[37*46]`; the calculator appends `1702` and a line break. Nothing forces a call: whether the model
asks, and what it asks, is its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from incentive.records import Problem, Split
from incentive.tasks.base import drawn
from incentive.tasks.countdown import Chain, as_expression
from incentive.tasks.expression import OPS, parse, value

CALL, END_CALL = "[", "]"  # one token each of the miniature: tags in words would have to be spelt
LARGEST = 999_999  # of a result: six digits, as many as a number of an expression may have


@dataclass(frozen=True)
class Calculator:
    """Whole numbers, `+ - * ( )`. Whatever else it is asked, it says `error`."""

    stop: str = END_CALL

    def answer(self, text: str) -> str:
        asked = text.removesuffix(END_CALL).rpartition(CALL)[2] if CALL in text else ""
        tree = parse(asked)
        found = None if tree is None else value(tree)
        return f"{found}\n" if found is not None and abs(found) <= LARGEST else "error\n"


@dataclass(frozen=True)
class Sums:
    """Two steps over three numbers from 10 to 99, at least one of them a product, and no value below 0."""

    name: str = "sums"
    tool: Calculator | None = Calculator()

    def draw(self, rng: Random) -> Chain | None:
        first, second, third = (10 + int(rng.random() * 90) for _ in range(3))
        ops = rng.choice(("*+", "*-", "+*", "-*"))
        middle = OPS[ops[0]](first, second)
        steps = [(first, ops[0], second, middle), (middle, ops[1], third, OPS[ops[1]](middle, third))]
        return None if min(step[3] for step in steps) < 0 else steps

    @staticmethod
    def key(steps: Chain) -> str:
        return f"sums:{as_expression(steps)}"

    @staticmethod
    def prompt(steps: Chain) -> str:
        return f"work out {as_expression(steps)}"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        steps = drawn(self.draw, self.key, self.name, seed, split, i)
        return Problem(
            id=f"{self.name}/{split}/{seed}/{i}",
            key=self.key(steps),
            prompt=self.prompt(steps),
            answer=str(steps[-1][3]),
            tags={"task": self.name, "language": "en"},
        )

    def check(self, problem: Problem, answer: str) -> bool:
        return self.vote_key(answer) == problem.answer

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*", answer)
        return str(int(found[1])) if found else None
