"""One problem in several wordings: those of its task, and changes of the surface that no reader would notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from incentive.records import Problem, Split, hash64
from incentive.tasks.base import Task

Prompt = str | list[dict[str, str]]
OWN = "own"
HELD_OUT = ("sentence", "please")  # never drawn by the shipped reworded task, so that they show what carries over
PLEASE = {"zh": "请"}


def surface(language: str) -> dict[str, Callable[[str], str]]:
    """Changes that no reader would notice."""
    return {
        "capital": lambda text: f"{text[:1].upper()}{text[1:]}",
        "please": lambda text: f"{PLEASE.get(language, 'please ')}{text}",
        "line break": lambda text: f"{text}\n",
    }


def edited(prompt: Prompt, edit: Callable[[str], str]) -> Prompt:
    """The prompt with its text, or the text of its last user message, changed."""
    if isinstance(prompt, str):
        return edit(prompt)
    last = max((i for i, m in enumerate(prompt) if m["role"] == "user"), default=-1)
    return [{**m, "content": edit(m["content"])} if i == last else m for i, m in enumerate(prompt)]


def wordings(task: Task, problem: Problem) -> dict[str, Prompt]:
    """Every wording of a problem by its name, its own first."""
    found: dict[str, Prompt] = {OWN: problem.prompt}
    if paraphrases := getattr(task, "paraphrases", None):
        found |= paraphrases(problem)
    edits = surface(problem.tags.get("language", ""))
    return found | {name: edited(problem.prompt, edit) for name, edit in edits.items()}


@dataclass(frozen=True)
class Reworded:
    """A task whose train problems come in wordings drawn at random; val and test keep their own.

    Args:
        held_out: wordings that are never drawn, to be asked in later.
    """

    task: Any
    held_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.task.name}-reworded"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        found = self.task.problem(seed, split, i)
        if split == "train":
            chosen = [p for name, p in wordings(self.task, found).items() if name not in self.held_out]
            found = replace(found, prompt=chosen[hash64("wording", seed, i) % len(chosen)])
        return replace(found, id=f"{self.name}/{split}/{seed}/{i}", tags={**found.tags, "task": self.name})

    def check(self, problem: Problem, answer: str) -> bool:
        return self.task.check(problem, answer)

    def gold(self, problem: Problem) -> str:
        return self.task.gold(problem)

    def vote_key(self, answer: str) -> str | None:
        return self.task.vote_key(answer)

    def __getattr__(self, name: str) -> Any:
        """What not every task has, as `paraphrases`, `appears` or `tool`."""
        if name.startswith("__"):  # copying and the like ask before there is a task
            raise AttributeError(name)
        return getattr(self.task, name)
