"""R1's limits on the miniature, with their remedies: the figures of docs/limits.md.

    python prove/limits.py ZERO [--wide base-wide] [--only brief ...] [--quick] [--threads 2] [--dir DIR]

ZERO is an R1-Zero model of zero-mini. Every run and measurement lies in DIR; what is there already
is not done again, and a run that was stopped goes on. `--quick` takes fewer answers and updates, and for brief countdown3 alone.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

SMALL = ("eval.split=val", "eval.problems=50", "eval.samples=4", "eval.also_t1=false")
QUICK = (
    'rl.tasks={"countdown3"=1.0}', 'eval.tasks=["countdown3"]', "rl.max_steps=30", "rl.problems_per_step=12", "rl.eval_steps=0",
    "eval.problems=20",
)  # fmt: skip
REWORDED = (
    'rl.tasks={"countdown3-reworded"=1.0}',
    'eval.tasks=["countdown3"]',
    "rl.max_steps=40",
    "rl.problems_per_step=16",
)


class Prove:
    def __init__(self, folder: Path, threads: int):
        self.dir, self.threads = folder, threads

    def incentive(self, *words: object) -> None:
        line = [sys.executable, "-m", "incentive", *map(str, words)]
        print("$ incentive", shlex.join(map(str, words)), flush=True)
        subprocess.run(line, check=True)

    def learn(self, name: str, recipe: str, *sets: str) -> Path:
        """The model that a recipe makes."""
        where = self.dir / name
        if not (where / "done.json").is_file():
            more = [w for s in (*SMALL, f"threads={self.threads}", *sets) for w in ("--set", s)]
            begun = ["--resume"] if (where / "run.json").is_file() else more
            self.incentive("run", recipe, "--run", where, "--plain", *begun)
        return where / "zero/model"

    def limits(self, name: str, model: Path | str, *words: object) -> Path:
        """A model's limits.json, on val."""
        where = self.dir / f"limits-{name}"
        if not (where / "limits.json").is_file():
            asked = ("--split", "val", "--threads", self.threads, "--out", where)
            self.incentive("limits", model, *words, *asked)
        return where / "limits.json"


def brief(prove: Prove, zero: str, quick: bool) -> None:
    """Does the length reward shorten easy problems, and what does it cost? Against the same RL without it."""
    sets = (f"base={zero}", *(QUICK if quick else ()))
    control = prove.learn("control", "zero-brief", *sets, "rl.rewards={accuracy=1.0, format=0.2}")
    made = prove.learn("brief", "zero-brief", *sets)
    names = ("countdown3",) if quick else ("countdown3", "countdown4")
    asked = 100 if quick else 200
    tasks = ("--only", "overthinking", "--problems", asked, *(w for n in names for w in ("--task", n)))
    before = prove.limits("control", control, *tasks)
    prove.limits("brief", made, *tasks, "--against", before)
    prove.limits("zero", zero, *tasks)


def wording(prove: Prove, zero: str, _quick: bool) -> None:
    """Does RL on many wordings carry over to those that it never drew?"""
    tasks = ("--only", "sensitivity", "--task", "countdown3")
    prove.limits("worded-before", zero, *tasks)
    made = prove.learn("worded", "zero-mini", f"base={zero}", *REWORDED)
    prove.limits("worded", made, *tasks)


def tool(prove: Prove, _zero: str, _quick: bool) -> None:
    """Does RL learn to ask the calculator?"""
    made = prove.learn("tool", "tool-mini")
    prove.limits("cold", prove.dir / "tool/cold/model", "--only", "tools", "--problems", 200)
    prove.limits("tool", made, "--only", "tools", "--problems", 200)


def json(prove: Prove, wide: str, quick: bool) -> None:
    """Does RL learn the form that a schema asks for?"""
    asked = ("--only", "structured", "--problems", 100 if quick else 200)
    prove.limits("json-before", wide, *asked)
    sets = ("rl.max_steps=30", "rl.problems_per_step=12", "rl.eval_steps=0", "eval.problems=20") if quick else ()
    made = prove.learn("json", "zero-json", f"base={wide}", *sets)
    prove.limits("json", made, *asked)


def mixing(prove: Prove, wide: str, _quick: bool) -> None:
    """In which languages does the wide base think?"""
    tasks = [w for t in ("countdown3", "countdown3-zh", "logic", "logic-zh") for w in ("--task", t)]
    prove.limits("wide", wide, "--only", "mixing", *tasks)


PARTS = {"tool": tool, "brief": brief, "json": json, "mixing": mixing, "wording": wording}
OF_WIDE = ("json", "mixing")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("zero", help="an R1-Zero model of zero-mini")
    parser.add_argument("--wide", default="base-wide", help="a base of the wide world")
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable; all by default")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("runs/prove-limits"))
    args = parser.parse_args()
    for part in args.only or PARTS:
        PARTS[part](Prove(args.dir, args.threads), args.wide if part in OF_WIDE else args.zero, args.quick)
