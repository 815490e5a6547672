"""Knights and knaves: four people, each honest or a liar, each says one thing; who lies? One assignment fits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from incentive.facts import Language
from incentive.records import Problem, Split
from incentive.tasks.base import drawn

NAMES = "ABCD"
Statement = tuple[str, str]  # (kind, the one or two people it is about)

CLAIMS: dict[str, tuple[str, Callable[..., bool]]] = {  # kind -> text, truth of the claim given who lies
    "liar": ("{0} lies", lambda x: x),
    "honest": ("{0} is honest", lambda x: not x),
    "alike": ("{0} and {1} are alike", lambda x, y: x == y),
    "differ": ("{0} and {1} differ", lambda x, y: x != y),
    "some": ("{0} or {1} lies", lambda x, y: x or y),
    "both": ("{0} and {1} lie", lambda x, y: x and y),
    "neither": ("{0} and {1} are honest", lambda x, y: not x and not y),
    "one": ("{0} or {1} is honest", lambda x, y: not x or not y),
}

ZH = {
    "liar": "{0} 说谎", "honest": "{0} 诚实", "alike": "{0} 和 {1} 相同", "differ": "{0} 和 {1} 不同", "some": "{0} 或 {1} 说谎",
    "both": "{0} 和 {1} 说谎", "neither": "{0} 和 {1} 诚实", "one": "{0} 或 {1} 诚实",
}  # fmt: skip


def fits(liars: str, speaker: str, statement: Statement) -> bool:
    """Whether what the speaker says agrees with who lies: liars say false things, honest people true ones."""
    kind, about = statement
    return CLAIMS[kind][1](*(person in liars for person in about)) != (speaker in liars)


ASSIGNMENTS = ["".join(n for b, n in enumerate(NAMES) if bits >> b & 1) for bits in range(16)]


@dataclass(frozen=True)
class Logic:
    name: str = "logic"
    language: Language = "en"

    def draw(self, rng: Random) -> tuple[list[Statement], str] | None:
        """Four statements and the liars, where one assignment alone fits."""
        said = []
        for speaker in NAMES:
            others = [n for n in NAMES if n != speaker]
            kind = rng.choice(list(CLAIMS))
            about = rng.sample(others, 1 if kind in ("liar", "honest") else 2)
            said.append((kind, "".join(sorted(about))))
        found = [a for a in ASSIGNMENTS if all(fits(a, n, s) for n, s in zip(NAMES, said, strict=True))]
        return (said, found[0]) if len(found) == 1 else None

    @staticmethod
    def key(said: list[Statement]) -> str:
        return "logic:" + ";".join(f"{kind} {about}" for kind, about in said)

    def prompt(self, said: list[Statement]) -> str:
        lines = ". ".join(f"{n}: {self.claim(kind, *about)}" for n, (kind, about) in zip(NAMES, said, strict=True))
        return f"{lines}. {'谁说谎' if self.language == 'zh' else 'who lies'}?"

    def claim(self, kind: str, *about: str) -> str:
        return (ZH[kind] if self.language == "zh" else CLAIMS[kind][0]).format(*about)

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        said, liars = drawn(self.draw, lambda d: self.key(d[0]), self.name, seed, split, i)
        return Problem(
            id=f"{self.name}/{split}/{seed}/{i}",
            key=self.key(said),
            prompt=self.prompt(said),
            answer=liars or "none",
            tags={"task": self.name, "language": self.language},
        )

    def paraphrases(self, problem: Problem) -> dict[str, str]:
        said = (
            str(problem.prompt).rpartition(" ")[0] if self.language == "zh" else str(problem.prompt).rpartition(". ")[0]
        )
        if self.language == "zh":
            return {"other verb": f"{said} 谁在说谎?", "sentence": f"{said} 请找出说谎的人。"}
        return {
            "other verb": f"{said}. who are the liars?", "short": f"{said}. liars?",
            "sentence": f"{said}. Find everyone who lies.",
        }  # fmt: skip

    def appears(self, problem: Problem, thinking: str) -> int | None:
        """The end of the first line that begins with who lies, its check included."""
        end = -1
        for line in thinking.split("\n"):
            end += 1 + len(line)
            if self.vote_key(line.partition("?")[0].strip()) == problem.answer:
                return end
        return None

    def check(self, problem: Problem, answer: str) -> bool:
        return self.vote_key(answer) == problem.answer

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        text = answer.strip()
        if text == "none":
            return text
        return "".join(sorted(text)) if re.fullmatch("[A-D]{1,4}", text) and len(set(text)) == len(text) else None
