"""Countdown: combine all given numbers, each once, with `+ - *` to make a target."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from incentive.facts import Language
from incentive.measure import first_right
from incentive.records import Problem, Split
from incentive.tasks.base import drawn
from incentive.tasks.expression import OPS, canonical, leaves, parse, value

Chain = list[tuple[int, str, int, int]]  # (left, op, right, result), each step starting from the last result

LIMIT = 99  # no step of a generated solution leaves 0..99


def random_chain(rng: Random, numbers: list[int]) -> Chain | None:
    """A random left-to-right solution that uses every number once within 0..99, or None where it got stuck.

    Operators are drawn among those that stay within the limit.
    """
    rest = numbers[:]
    rng.shuffle(rest)
    total, steps = rest[0], []
    for number in rest[1:]:
        fits = [op for op, f in OPS.items() if 0 <= f(total, number) <= LIMIT]
        if not fits:
            return None
        op = fits[int(rng.random() * len(fits))]
        result = OPS[op](total, number)
        steps.append((total, op, number, result))
        total = result
    return steps


def as_expression(steps: Chain) -> str:
    """`(3+7)*2` for the chain 3+7=10, 10*2=20."""
    text = str(steps[0][0])
    for i, (_, op, number, _) in enumerate(steps):
        text = f"({text}){op}{number}" if i else f"{text}{op}{number}"
    return text


@dataclass(frozen=True)
class Countdown:
    """`n` numbers from 1 to `largest`, targets `lowest` to `highest`; each problem has a left-to-right solution."""

    name: str
    n: int
    largest: int
    lowest: int = 1
    highest: int = 79
    language: Language = "en"

    def draw(self, rng: Random) -> tuple[list[int], int, Chain] | None:
        numbers = [1 + int(rng.random() * self.largest) for _ in range(self.n)]
        steps = random_chain(rng, numbers)
        if steps is None or not self.lowest <= steps[-1][3] <= self.highest:
            return None
        return numbers, steps[-1][3], steps

    @staticmethod
    def key(numbers: list[int], target: int) -> str:
        return f"countdown:{','.join(map(str, sorted(numbers)))}={target}"

    def prompt(self, numbers: list[int], target: int) -> str:
        given = ",".join(map(str, numbers))
        return f"用 {given} 得到 {target}" if self.language == "zh" else f"use {given} to make {target}"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        numbers, target, steps = drawn(self.draw, lambda d: self.key(*d[:2]), self.name, seed, split, i)
        return Problem(
            id=f"{self.name}/{split}/{seed}/{i}",
            key=self.key(numbers, target),
            prompt=self.prompt(numbers, target),
            answer=as_expression(steps),
            tags={"task": self.name, "language": self.language, "numbers": numbers, "target": target},
        )

    def paraphrases(self, problem: Problem) -> dict[str, str]:
        numbers, target = problem.tags["numbers"], problem.tags["target"]
        close, spaced = ",".join(map(str, numbers)), ", ".join(map(str, numbers))
        if self.language == "zh":
            return {
                "other order": f"得到 {target}, 用 {close}", "other verb": f"用 {close} 凑出 {target}",
                "spaced": f"用 {spaced} 得到 {target}", "sentence": f"请用 {spaced} 这些数得到 {target}。",
            }  # fmt: skip
        return {
            "other order": f"make {target} with {close}", "other verb": f"use {close} to reach {target}",
            "spaced": f"use {spaced} to make {target}",
            "sentence": f"Combine the numbers {spaced} so that the result is {target}.",
        }  # fmt: skip

    def appears(self, problem: Problem, thinking: str) -> int | None:
        """The end of the first try that makes the target by true arithmetic from all the numbers, each once."""
        return first_right(thinking, problem.tags["target"], problem.tags["numbers"])

    def check(self, problem: Problem, answer: str) -> bool:
        tree = parse(answer)
        return (
            tree is not None
            and sorted(leaves(tree)) == sorted(problem.tags["numbers"])
            and value(tree) == problem.tags["target"]
        )

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        tree = parse(answer)
        return None if tree is None else canonical(tree)
