"""The base model's made-up web: people solving problems with every habit, most of them bad.

Kept from the real thing: the habits that reasoning needs (working in steps, checking, starting again) are in the text,
thinly, among guesses, unchecked tries and people who give up. Changed: the world is Countdown, arithmetic and a logic
puzzle, and its numbers end at 99. Nothing marks a habit as good, and nothing of the val and test splits occurs.

`document(seed, i)` is a pure function, so a corpus is its settings and its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from incentive import chat
from incentive.records import hash64, split_of
from incentive.tasks.arithmetic import Arithmetic
from incentive.tasks.countdown import LIMIT, Chain, Countdown, as_expression, random_chain
from incentive.tasks.expression import OPS
from incentive.tasks.logic import ASSIGNMENTS, NAMES, Logic, Statement, fits

TURNS = (
    (" wait\n", 0.6),
    (" retry\n", 0.1),
    (" but\n", 0.1),
    (" hmm\n", 0.1),
    ("\n", 0.1),
)  # how a writer starts again


@dataclass(frozen=True)
class Habits:
    """How the writers behave.

    retry_dose: share of the documents that solve a problem in which a try is checked, fails, and another follows.
    verify: False makes every yes and no a coin's (a base that cannot verify).
    """

    retry_dose: float = 0.01
    verify: bool = True


@dataclass(frozen=True)
class Document:
    prompt: str  # "" for a document that solves nothing
    response: str
    key: str | None


def _pick(rng: Random, weighted: tuple[tuple[str, float], ...]) -> str:
    at = rng.random() * sum(w for _, w in weighted)
    for item, weight in weighted:
        at -= weight
        if at < 0:
            return item
    return weighted[-1][0]


def _form(rng: Random, thinking: str, answer: str) -> str:
    """The writer's layout: with both tags, or with one pair or none."""
    at = rng.random()
    if at < 0.62:
        return chat.perfect(thinking, answer)
    if at < 0.76:
        return f"{thinking}{chat.ANSWER}{answer}{chat.END_ANSWER}"
    if at < 0.90:
        return f"{chat.THINK}{thinking}{chat.END_THINK}answer: {answer}"
    return f"{thinking}\nanswer: {answer}"


class _Solver:
    """One writer at one problem: how a try reads, whether it is right, and what is answered after it."""

    def __init__(self, rng: Random, habits: Habits):
        self.rng, self.habits = rng, habits

    def say(self, right: bool) -> str:
        if not self.habits.verify:
            right = self.rng.random() < 0.5
        return "yes" if right else "no"

    def write(self, wrong: list[tuple[str, str, str]], right: tuple[str, str, str]) -> str:
        """A response from tries, each (work, check, answer): the wrong ones are distinct, the right one is right."""
        rng = self.rng
        if rng.random() < self.habits.retry_dose and wrong:
            return self.persist(wrong, right)
        kind = rng.random()
        good = rng.random() < 0.35 or not wrong
        work, check, answer = right if good else wrong[0]
        if kind < 0.2:  # guess
            return _form(rng, "", answer)
        if kind < 0.35:  # one try, no check
            return _form(rng, work, answer)
        if kind < 0.55:  # several tries, never checked
            tries = wrong[: 1 + int(rng.random() * 4)]
            if good:
                tries = [*tries, right]
            return _form(
                rng, "".join((_pick(rng, TURNS) if i else "") + t[0] for i, t in enumerate(tries)), tries[-1][2]
            )
        verdict = self.say(good)  # one try and a check, whatever it says
        if verdict == "yes":
            return _form(rng, f"{work}{check}yes", answer)
        if rng.random() < 0.5:
            return _form(rng, f"{work}{check}no give up", "none")
        return _form(rng, f"{work}{check}no", answer)

    def persist(self, wrong: list[tuple[str, str, str]], right: tuple[str, str, str]) -> str:
        """Check, fail, start again at least once; in the end it is found, or the writer gives up."""
        rng = self.rng
        failures = 1
        while failures < len(wrong) and rng.random() < 0.68:
            failures += 1
        found = failures == 1 or rng.random() < 0.7
        lines, answer = [], "none"
        for i in range(failures):
            work, check, answer = wrong[i]
            verdict = self.say(False)
            lines.append((_pick(rng, TURNS) if i else "") + work + check + verdict)
            if verdict == "yes":
                return _form(rng, "".join(lines), answer)
        if found:
            work, check, answer = right
            lines.append(_pick(rng, TURNS) + work + check + self.say(True))
            return _form(rng, "".join(lines), answer)
        if rng.random() < 0.5:
            return _form(rng, "".join(lines) + " give up", "none")
        return _form(rng, "".join(lines), answer)


def _work(steps: Chain) -> str:
    return ",".join(f"{a}{op}{b}={c}" for a, op, b, c in steps)


def _countdown(task: Countdown, rng: Random, habits: Habits) -> Document | None:
    drawn = task.draw(rng)
    if drawn is None or split_of(task.key(drawn[0], drawn[1])) != "train":
        return None
    numbers, target, steps = drawn
    wrong, seen = [], set()
    for _ in range(14):
        other = random_chain(rng, numbers)
        if other is None or other[-1][3] == target:
            continue
        if split_of(task.key(numbers, other[-1][3])) != "train":  # it would solve a held-out problem
            continue
        a, op, b, _ = other[0]
        same = (op, *sorted((a, b)), *(step[1:3] for step in other[1:])) if op != "-" else tuple(other)
        if same not in seen:
            seen.add(same)
            wrong.append((_work(other), f"?{target} ", as_expression(other)))
    right = (_work(steps), f"?{target} ", as_expression(steps))
    return Document(task.prompt(numbers, target), _Solver(rng, habits).write(wrong, right), task.key(numbers, target))


def _arithmetic(task: Arithmetic, rng: Random, habits: Habits) -> Document | None:
    steps = task.draw(rng)
    if steps is None or split_of(task.key(steps)) != "train":
        return None
    a, op, b, c = steps[-1]
    wrong = []
    for slip in (rng.choice((-10, -2, -1, 1, 2, 10)) for _ in range(2)):
        if 0 <= c + slip <= LIMIT:
            wrong.append((_work([*steps[:-1], (a, op, b, c + slip)]), f"?{c} ", str(c + slip)))
    right = (_work(steps), f"?{c} ", str(c))
    return Document(task.prompt(steps), _Solver(rng, habits).write(wrong[:1], right), task.key(steps))


def _logic_try(liars: str, said: list[Statement]) -> tuple[str, str, str]:
    """`AC`, its check `? A ok B no` (each statement until one does not fit), and the answer."""
    marks, name = [], liars or "none"
    for person, statement in zip(NAMES, said, strict=True):
        ok = fits(liars, person, statement)
        marks.append(f" {person} {'ok' if ok else 'no'}")
        if not ok:
            break
    return name, f"?{''.join(marks)} ", name


def _logic(task: Logic, rng: Random, habits: Habits) -> Document | None:
    drawn = task.draw(rng)
    if drawn is None or split_of(task.key(drawn[0])) != "train":
        return None
    said, liars = drawn
    others = [a for a in ASSIGNMENTS if a != liars]
    rng.shuffle(others)
    wrong = [_logic_try(a, said) for a in others[:9]]
    return Document(task.prompt(said), _Solver(rng, habits).write(wrong, _logic_try(liars, said)), task.key(said))


def _drill(rng: Random) -> Document:
    """A page of sums: facts without a problem."""
    facts: list[str] = []
    while len(facts) < 8:
        a, b = int(rng.random() * (LIMIT + 1)), 1 + int(rng.random() * 40)
        op = "+-*"[int(rng.random() * 3)]
        if op == "*":
            a = int(rng.random() * (LIMIT // b + 1))
        if 0 <= (c := OPS[op](a, b)) <= LIMIT:
            facts.append(f"{a}{op}{b}={c}")
    return Document("", ",".join(facts), None)


_KINDS = (
    (0.36, lambda r, h: _countdown(Countdown("", 3, 40, 1, 99), r, h)),
    (0.68, lambda r, h: _countdown(Countdown("", 4, 15, 1, 99), r, h)),
    (0.73, lambda r, h: _countdown(Countdown("", 5, 10, 1, 99), r, h)),
    (0.83, lambda r, h: _arithmetic(Arithmetic(), r, h)),
    (0.92, lambda r, h: _logic(Logic(), r, h)),
    (1.0, lambda r, _: _drill(r)),
)


def document(seed: int, i: int, habits: Habits) -> Document:
    """Document i of the corpus."""
    rng = Random(hash64("corpus", seed, i))
    at = rng.random()
    make = next(f for bound, f in _KINDS if at < bound)
    while (made := make(rng, habits)) is None:
        pass
    return made
