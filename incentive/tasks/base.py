"""What a task is, and how its problems are drawn. No registration: pass a task object, or name a shipped one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any, Protocol, TypeVar

from incentive.records import Problem, Split, Tool, hash64, split_of

T = TypeVar("T")


class Task(Protocol):
    """Problems with checkable answers.

    `problem(seed, split, i)` is a pure function of its arguments, and its key hashes into `split`.
    `check` never raises on any text; `gold` passes `check`; `vote_key` is equal for answers that mean the same.
    """

    @property
    def name(self) -> str: ...
    def problem(self, seed: int, split: Split, i: int) -> Problem: ...
    def check(self, problem: Problem, answer: str) -> bool: ...
    def gold(self, problem: Problem) -> str: ...
    def vote_key(self, answer: str) -> str | None: ...


def tool_of(task: Any, problem: Problem) -> Tool | None:
    """What answers within a sample of the problem: the optional `tool` of its task, which a mixture knows."""
    return getattr(task.of(problem) if hasattr(task, "of") else task, "tool", None)


def streams(name: str, seed: int, split: Split, i: int) -> Iterator[Random]:
    """Random streams for problem i, one a try, until a problem's key falls into the wanted split.

    Each stream is seeded by a hash of all its coordinates, so that neighbouring seeds share nothing.
    """
    return (Random(hash64(name, seed, split, i, attempt)) for attempt in count())


def in_split(key: str, split: Split) -> bool:
    return split_of(key) == split


def drawn(draw: Callable[[Random], T | None], key: Callable[[T], str], name: str, seed: int, split: Split, i: int) -> T:
    """What problem i is made of: the first draw from its streams that is one, with a key in the split."""
    for rng in streams(name, seed, split, i):
        found = draw(rng)
        if found is not None and in_split(key(found), split):
            return found
    raise AssertionError("streams do not end")
