"""Answers a second of a JSONL task with a check: one at a time, a group at a time, a whole rollout at a time.

    python prove/check_speed.py [ROUNDS]

Groups of 16 different answers to 32 problems, warm workers, best of ROUNDS. A group is what a task grades at once.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from incentive.tasks.jsonl import Jsonl
from incentive.verify import grade

SETS = {  # check, gold, answers of a group
    "numbers": ("number", "{n}", [str(i) for i in range(15)] + ["{n}"]),
    "fractions as maths": ("maths", r"\frac{{{n}}}{{7}}", [f"{{n}}/7 + {i} - {i % 3}" for i in range(16)]),
    "roots as maths, half right": ("maths", r"{n}\sqrt{{2}}", [rf"\sqrt{{{{2}}}}\cdot {{n}} + {i // 2 * (i % 2)}" for i in range(16)]),
}  # fmt: skip


def _best(rounds: int, answers: int, call: Callable[[], Any]) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        found.append(answers / (time.perf_counter() - began))
    return max(found)


def main(rounds: int = 3) -> None:
    print("| answers | one at a time | a group at a time | a rollout at a time |\n|---|---|---|---|")
    for name, (kind, gold, answers) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "problems.jsonl"
            lines = [
                {"prompt": f"{n}?", "answer": gold.format(n=n), "check": kind, "split": "train"} for n in range(11, 43)
            ]
            file.write_text("".join(json.dumps(x) + "\n" for x in lines))
            task = Jsonl(file)
        asked = [
            (p, [a.format(n=p.prompt[:-1]) for a in answers]) for p in (task.problem(0, "train", i) for i in range(32))
        ]
        total = sum(len(a) for _, a in asked)
        grader = grade.shared(kind == "maths")
        task.checks(*asked[0])

        def single(asked: Any = asked, task: Jsonl = task) -> list[Any]:
            return [[task.check(p, a) for a in given] for p, given in asked]

        def grouped(asked: Any = asked, task: Jsonl = task) -> list[Any]:
            return [task.checks(p, given) for p, given in asked]

        def whole(asked: Any = asked, grader: Any = grader, kind: str = kind) -> Any:
            return grader.grade(
                grade.Question(f"{p.id}/{i}", kind, p.answer, a) for p, given in asked for i, a in enumerate(given)
            )

        if single() != grouped():
            sys.exit(f"{name}: the verdicts differ")
        speeds = [_best(rounds, total, call) for call in (single, grouped, whole)]
        print(f"| {name} | " + " | ".join(f"{x:,.0f}" for x in speeds) + " |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
