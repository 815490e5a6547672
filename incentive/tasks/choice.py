"""Choice: which of four substances has the most, or the least, of a property? The facts are the world's."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from incentive import facts
from incentive.records import Problem, Split
from incentive.tasks.base import drawn

LETTERS = "ABCD"
MOST = {"en": {True: "most", False: "least"}, "zh": {True: "最大", False: "最小"}}


@dataclass(frozen=True)
class Choice:
    """Four options, one right; recall four facts, compare them."""

    name: str = "choice"
    language: facts.Language = "en"

    def draw(self, rng: Random) -> tuple[str, bool, list[str]]:
        """(attribute, the most or the least, four substances in the order of the letters)."""
        return rng.choice(facts.NUMERIC), rng.random() < 0.5, rng.sample(facts.SUBSTANCES, len(LETTERS))

    @staticmethod
    def right(attribute: str, most: bool, options: list[str]) -> str:
        values = [facts.number(s, attribute) for s in options]
        return LETTERS[values.index(max(values) if most else min(values))]

    @staticmethod
    def key(attribute: str, most: bool, options: list[str]) -> str:
        return f"choice:{attribute} {MOST['en'][most]} {','.join(sorted(options))}"

    def prompt(self, attribute: str, most: bool, options: list[str]) -> str:
        listed = " ".join(f"{letter} {s}" for letter, s in zip(LETTERS, options, strict=True))
        how = MOST[self.language][most]
        if self.language == "zh":
            return f"哪个{facts.say(attribute, 'zh')}{how}? {listed}"
        return f"which has the {how} {attribute}? {listed}"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        attribute, most, options = drawn(self.draw, lambda d: self.key(*d), self.name, seed, split, i)
        return Problem(
            id=f"{self.name}/{split}/{seed}/{i}",
            key=self.key(attribute, most, options),
            prompt=self.prompt(attribute, most, options),
            answer=self.right(attribute, most, options),
            tags={"task": self.name, "language": self.language},
        )

    def check(self, problem: Problem, answer: str) -> bool:
        return answer.strip() == problem.answer

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        letter = answer.strip()
        return letter if len(letter) == 1 and letter in LETTERS else None
