"""How the made-up people who have a calculator work out sums: some ask it, some trust their heads, some ask badly."""

from __future__ import annotations

from random import Random
from typing import Any

from incentive import chat
from incentive.records import hash64, split_of
from incentive.tasks.countdown import Chain
from incentive.tasks.expression import OPS
from incentive.tasks.sums import CALL, END_CALL, Calculator, Sums

# shares of the writers: ask at each step; ask at the first alone; ask with a slip of the pen; ask in words; ask nothing
HABITS = ((0.25, "asks"), (0.20, "asks once"), (0.20, "slips"), (0.10, "words"), (0.25, "heads"))


def _guess(rng: Random, value: int) -> int:
    """A result worked out in the head: right for one in ten, else off by a digit or two."""
    return value if rng.random() < 0.1 else max(0, value + rng.choice((-100, -20, -10, -1, 1, 10, 20, 100)))


def _habit(rng: Random) -> str:
    at = rng.random()
    for share, name in HABITS:
        at -= share
        if at < 0:
            return name
    return HABITS[-1][1]


def turns(steps: Chain, rng: Random) -> list[str]:
    """A response in pieces: the writer's, the calculator's, the writer's, ..."""
    habit, tool = _habit(rng), Calculator()
    pieces = [chat.THINK]
    (a, op, b, _), (_, then, c, _) = steps

    def ask(call: str) -> str:
        pieces[-1] += f"{CALL}{call}{END_CALL}"
        said = tool.answer("".join(pieces))
        pieces.extend((said, ""))
        return said.strip()

    def work(left: int, sign: str, right: int) -> int:
        found = _guess(rng, OPS[sign](left, right))
        pieces[-1] += f"{left}{sign}{right}={found}\n"
        return found

    if habit == "heads":
        value = work(a, op, b)
    elif habit == "words":
        ask(f"{a} {op} {b} is")
        value = work(a, op, b)
    else:
        slip = rng.choice((-10, -1, 1, 10)) if habit == "slips" else 0
        said = ask(f"{a}{op}{max(1, b + slip)}")
        value = int(said) if said != "error" else 0
    if habit in ("asks", "slips"):
        said = ask(f"{value}{then}{c}")
        value = int(said) if said != "error" else 0
    else:
        value = work(value, then, c)
    pieces[-1] += f"{chat.END_THINK}{chat.ANSWER}{value}{chat.END_ANSWER}"
    return pieces


def rows(n: int, seed: int) -> list[dict[str, Any]]:
    """`n` rows to fine-tune on, of train problems alone."""
    task, rng = Sums(), Random(hash64("calls", seed))
    found: list[dict[str, Any]] = []
    while len(found) < n:
        steps = task.draw(rng)
        if steps is not None and split_of(task.key(steps)) == "train":
            pieces = turns(steps, rng)
            said = {"response": "".join(pieces), "turns": pieces}
            found.append({"prompt": task.prompt(steps), **said, "key": task.key(steps)})
    return found
