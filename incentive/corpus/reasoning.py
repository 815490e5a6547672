"""Documents that solve a problem a rule can check, and pages of sums."""

from __future__ import annotations

from random import Random

from incentive import facts
from incentive.corpus.writer import Document, Habits, Solver, Try, Voice, Write, plain, voice
from incentive.records import split_of
from incentive.tasks.arithmetic import Arithmetic
from incentive.tasks.choice import LETTERS, Choice
from incentive.tasks.countdown import LIMIT, Chain, Countdown, as_expression, random_chain
from incentive.tasks.expression import OPS
from incentive.tasks.logic import ASSIGNMENTS, NAMES, Logic, Statement, fits
from incentive.tasks.program import LARGEST, Function, Program, Steps
from incentive.tasks.program import OPS as PROGRAM_OPS


def _work(steps: Chain) -> str:
    return ",".join(f"{a}{op}{b}={c}" for a, op, b, c in steps)


def countdown(task: Countdown, rng: Random, habits: Habits) -> Document | None:
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
            wrong.append(plain(_work(other), f"?{target} ", as_expression(other)))
    right = plain(_work(steps), f"?{target} ", as_expression(steps))
    written = Solver(rng, habits, voice(rng, task.language, habits.wide)).write(wrong, right)
    return Document(task.prompt(numbers, target), written, task.key(numbers, target))


def arithmetic(task: Arithmetic, rng: Random, habits: Habits) -> Document | None:
    steps = task.draw(rng)
    if steps is None or split_of(task.key(steps)) != "train":
        return None
    a, op, b, c = steps[-1]
    wrong = []
    for slip in (rng.choice((-10, -2, -1, 1, 2, 10)) for _ in range(2)):
        if 0 <= c + slip <= LIMIT:
            wrong.append(plain(_work([*steps[:-1], (a, op, b, c + slip)]), f"?{c} ", str(c + slip)))
    right = plain(_work(steps), f"?{c} ", str(c))
    written = Solver(rng, habits, voice(rng, task.language, habits.wide)).write(wrong[:1], right)
    return Document(task.prompt(steps), written, task.key(steps))


def _logic_try(liars: str, said: list[Statement], task: Logic, spelled: bool) -> Write:
    """`AC`, its check `? A ok B no` (each statement until one does not fit), and the answer.

    Spelled: each mark in steps, `A- B+ or C- lies:+ no`: A lies, of what A says B is honest and C lies, it is true, so it
    does not fit.
    """
    marks, name = [], liars or "none"

    def sign(true: bool) -> str:
        return "+" if true else "-"

    for person, (kind, about) in zip(NAMES, said, strict=True):
        honest, ok = person not in liars, fits(liars, person, (kind, about))
        claim = task.claim(kind, *(p + sign(p not in liars) for p in about))
        marks.append((f"{person}{sign(honest)} {claim}:{sign(honest == ok)}" if spelled else person, ok))
        if not ok:
            break

    def write(say: Voice) -> Try:
        return name, "?" + "".join(f" {p} {say('ok' if ok else 'no')}" for p, ok in marks) + " ", name

    return write


def logic(task: Logic, rng: Random, habits: Habits) -> Document | None:
    drawn = task.draw(rng)
    if drawn is None or split_of(task.key(drawn[0])) != "train":
        return None
    said, liars = drawn
    others = [a for a in ASSIGNMENTS if a != liars]
    rng.shuffle(others)
    wrong = [_logic_try(a, said, task, habits.wide) for a in others[:9]]
    right = _logic_try(liars, said, task, habits.wide)
    written = Solver(rng, habits, voice(rng, task.language, habits.wide)).write(wrong, right)
    return Document(task.prompt(said), written, task.key(said))


def _program_try(function: Function, shown: list[tuple[int, int]]) -> Write:
    """The expression in backticks, its check `?f(5) 5+3=8,8*2=16?16 ok ` (each example until one does not fit), and the
    source."""
    marks = []
    for x, y in shown:
        marks.append((f"f({x}) {_work(function.trace(x))}?{y}", function(x) == y))
        if not marks[-1][1]:
            break

    def write(say: Voice) -> Try:
        check = "?" + "".join(f"{t} {say('ok' if ok else 'no')} " for t, ok in marks)
        return f"`{function.expression}`", check, function.source

    return write


def _slip(rng: Random, function: Function) -> Function:
    """A function that somebody might write by mistake: one constant or one operator is another, or a step is missing."""
    name = "high" if function.high and rng.random() < 0.5 else "low"
    steps: list[tuple[str, int]] = list(getattr(function, name))
    at, kind = int(rng.random() * len(steps)), rng.random()
    op, c = steps[at]
    if kind < 0.5:
        steps[at] = (op, max(1, c + rng.choice((-2, -1, 1, 2))))
    elif kind < 0.8 or len(steps) == 1:
        other = rng.choice([o for o in PROGRAM_OPS if o != op])
        steps[at] = (other, min(c, LARGEST[other]))
    else:
        del steps[at]
    changed: Steps = tuple(steps)
    low, high = (changed, function.high) if name == "low" else (function.low, changed)
    return Function(low, high, function.under)


def program(task: Program, rng: Random, habits: Habits) -> Document | None:
    drawn = task.draw(rng)
    if drawn is None or split_of(task.key(drawn[0])) != "train":
        return None
    function, inputs, examples = drawn
    shown = [(x, function(x)) for x in inputs]
    wrong: dict[str, Write] = {}
    for _ in range(8):
        other = _slip(rng, function)
        values = [step[3] for x in inputs for step in other.trace(x)]
        if all(other(x) == y for x, y in shown) or not 0 <= min(values) <= max(values) <= LIMIT:
            continue
        if split_of(task.key(other)) == "train":  # else it would tell a held-out function
            wrong.setdefault(other.expression, _program_try(other, shown))
    solver = Solver(rng, habits, voice(rng, task.language, habits.wide))
    written = solver.write(list(wrong.values()), _program_try(function, shown), skill=0.2)
    return Document(task.prompt(function, inputs, examples), written, task.key(function))


def choice(task: Choice, rng: Random, habits: Habits) -> Document | None:
    attribute, most, options = task.draw(rng)
    if split_of(task.key(attribute, most, options)) != "train":
        return None
    values = [facts.number(s, attribute) for s in options]

    def attempt(n: int) -> Write:
        """`B 72`, its check `?A 45 ok C 80 no ` (each other option until one is more), and the letter."""
        marks = []
        for m, v in enumerate(values):
            if m != n:
                marks.append((f"{LETTERS[m]} {v}", v < values[n] if most else v > values[n]))
                if not marks[-1][1]:
                    break

        def write(say: Voice) -> Try:
            check = "?" + "".join(f"{t} {say('ok' if ok else 'no')} " for t, ok in marks)
            return f"{LETTERS[n]} {values[n]}", check, LETTERS[n]

        return write

    right = LETTERS.index(task.right(attribute, most, options))
    others = [n for n in range(len(LETTERS)) if n != right]
    rng.shuffle(others)
    written = Solver(rng, habits, voice(rng, task.language, habits.wide)).write(
        list(map(attempt, others)), attempt(right)
    )
    return Document(task.prompt(attribute, most, options), written, task.key(attribute, most, options))


def drill(rng: Random, wide: bool = False) -> Document:
    """A page of sums: facts without a problem. The wide world divides, too."""
    found: list[str] = []
    while len(found) < 8:
        a, b = int(rng.random() * (LIMIT + 1)), 1 + int(rng.random() * 40)
        if wide and rng.random() < 0.4:
            op, b = ("//", 1 + b % 6) if rng.random() < 0.5 else ("%", 1 + b % 20)
            found.append(f"{a}{op}{b}={PROGRAM_OPS[op](a, b)}")
            continue
        op = "+-*"[int(rng.random() * 3)]
        if op == "*":
            a = int(rng.random() * (LIMIT // b + 1))
        if 0 <= (c := OPS[op](a, b)) <= LIMIT:
            found.append(f"{a}{op}{b}={c}")
    return Document("", ",".join(found), None)
