"""Multi-step arithmetic: the value of a nested expression such as `((7+8)*3)-5`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from incentive.facts import Language
from incentive.measure import first_right
from incentive.records import Problem, Split
from incentive.tasks.base import drawn
from incentive.tasks.countdown import Chain, as_expression, random_chain


@dataclass(frozen=True)
class Arithmetic:
    """Three to five numbers from 1 to `largest`, worked from the innermost bracket out; every step within 0..99."""

    name: str = "arithmetic"
    largest: int = 40
    language: Language = "en"

    def draw(self, rng: Random) -> Chain | None:
        return random_chain(rng, [1 + int(rng.random() * self.largest) for _ in range(rng.choice((3, 4, 5)))])

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        steps = drawn(self.draw, self.key, self.name, seed, split, i)
        return Problem(
            id=f"{self.name}/{split}/{seed}/{i}",
            key=self.key(steps),
            prompt=self.prompt(steps),
            answer=str(steps[-1][3]),
            tags={"task": self.name, "language": self.language},
        )

    @staticmethod
    def key(steps: Chain) -> str:
        return f"arithmetic:{as_expression(steps)}"

    def prompt(self, steps: Chain) -> str:
        return f"{'计算' if self.language == 'zh' else 'compute'} {as_expression(steps)}"

    def paraphrases(self, problem: Problem) -> dict[str, str]:
        expression = problem.key.removeprefix("arithmetic:")
        if self.language == "zh":
            return {
                "other verb": f"求 {expression}",
                "question": f"{expression} 等于多少?",
                "sentence": f"请算出 {expression} 的值。",
            }
        return {
            "other verb": f"work out {expression}", "question": f"what is {expression}?",
            "sentence": f"Find the value of {expression}.",
        }  # fmt: skip

    def appears(self, problem: Problem, thinking: str) -> int | None:
        """The end of the first line whose computations are true and end in the value."""
        return first_right(thinking, int(problem.answer))

    def check(self, problem: Problem, answer: str) -> bool:
        return self.vote_key(answer) == problem.answer

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*", answer)
        return str(int(found[1])) if found else None
