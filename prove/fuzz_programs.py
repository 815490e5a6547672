"""Fuzzed programs through a tier: no crash, no hang, no false pass.

    python prove/fuzz_programs.py [--tier monty] [--programs 20000] [--seed 0] [--workers 2] [--right]

Four kinds, drawn anew from the seed: `wrong`, a right solution whose result is changed so that it cannot be right (its type, its
length, its value), among edits that change nothing; `soup`, random tokens; `edited`, a right solution with
characters or lines deleted, doubled, swapped or replaced at random (some stay right: their passes are run once more
against many more tests); `right`, which must all pass, so that no program harms another. Prints one line of JSON; exits 1
on any fault. With --right, right programs alone: the throughput.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from incentive.verify.local import Local
from incentive.verify.sandbox import TIERS, Limits, Program, Test, open_sandbox

LIMITS = Limits(seconds=0.25, memory_mib=64, output_kib=16, file_kib=64)
BATCH = 500
TESTS, MORE = 4, 60


@dataclass(frozen=True)
class Problem:
    """A solution, the same function here, and how to draw its arguments. `changes` are results that cannot be right."""

    source: str
    truth: Callable[..., Any]
    draw: Callable[[random.Random], list[Any]]
    changes: tuple[str, ...]

    def tests(self, rng: random.Random, number: int) -> tuple[Test, ...]:
        inputs = [self.draw(rng) for _ in range(number)]
        return tuple(Test(x, self.truth(*x)) for x in inputs)


def _numbers(rng: random.Random) -> list[int]:
    return [rng.randint(-20, 20) for _ in range(rng.randint(1, 8))]


ANY = (
    "None",
    "[{r}]",
    "({r},)",
    "{{'r': {r}}}",
    "str({r}) + '.'",
    "f'{{ {r} !r}} '",
    "float('nan')",
    "f",
    "x",
    "{{1}}",
)
NUMBER = (
    *ANY,
    "{r} + 1",
    "{r} - 1",
    "-{r} - 10**9",
    "{r} + 0.0",
    "{r} * 1.0",
    "str({r})",
    "bool({r})",
    "{r} == {r}",
    "~{r}",
)
LIST = (
    *ANY,
    "{r} + [0]",
    "{r}[:-1]",
    "{r}[1:]",
    "[0] + {r}",
    "len({r})",
    "str({r})",
    "[float(v) for v in {r}]",
    "{r} * 2",
)
TEXT = (*ANY, "{r} + ' '", "{r} + chr(0)", "{r}[:-1]", "{r} * 2", "list({r})", "len({r})")
TRUTH = (*ANY, "not {r}", "int({r})", "float({r})", "str({r})")

PROBLEMS = (
    Problem("def f(x):\n    t = 0\n    for v in x:\n        t = t + v\n    return t", sum, lambda r: [_numbers(r)], NUMBER),
    Problem("def f(x):\n    b = x[0]\n    for v in x:\n        if v > b:\n            b = v\n    return b", max, lambda r: [_numbers(r)], NUMBER),
    Problem("def f(x):\n    return sorted(x)", sorted, lambda r: [_numbers(r)], LIST),
    Problem("def f(x):\n    o = []\n    for v in x:\n        o.append(v * v)\n    return o", lambda x: [v * v for v in x], lambda r: [_numbers(r)], LIST),
    Problem("def f(x):\n    return x[::-1]", lambda s: s[::-1], lambda r: ["".join(r.choices("abc d", k=r.randint(1, 9)))], TEXT),
    Problem("def f(x):\n    n = 0\n    for c in x:\n        if c in 'aeiou':\n            n += 1\n    return n", lambda s: sum(c in "aeiou" for c in s), lambda r: ["".join(r.choices("abeiouxyz", k=r.randint(1, 9)))], NUMBER),
    Problem("def f(x, y):\n    while y:\n        x, y = y, x % y\n    return x", math.gcd, lambda r: [r.randint(1, 99), r.randint(1, 99)], NUMBER),
    Problem("def f(x):\n    a, b = 0, 1\n    for _ in range(x):\n        a, b = b, a + b\n    return a", lambda n: [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89][n], lambda r: [r.randint(0, 11)], NUMBER),
    Problem("def f(x):\n    return x == x[::-1]", lambda s: s == s[::-1], lambda r: [r.choice(["aba", "ab", "a", "xyx", "abc"])], TRUTH),
    Problem("def f(x):\n    return ' '.join(x.split())", lambda s: " ".join(s.split()), lambda r: ["a " + "".join(r.choices("ab  ", k=6))], TEXT),
)  # fmt: skip

TOKENS = (
    "def f(x):", "\n", "\n    ", "    ", "return", "x", "f", "(", ")", "[", "]", "{", "}", ":", ",", ".", "+", "-", "*",
    "**", "/", "//", "%", "<", ">", "=", "==", "1", "0", "9999999999", "-1", "0.5", "'a'", '"', "'", "\\", "None",
    "True", "if", "else", "elif", "for", "while", "in", "not", "and", "lambda", "class", "try:", "except:", "raise",
    "import", "math", "print", "len", "range", "list", "str", "int", "yield", "await", "async", "with", "as", "global",
    "del", "match", "case", "@", "#", ";", ":=", "...", "f'{x}'", "\x00", "é", "数", "\ud7ff", "\t", "__class__", "eval",
    "'x'*10**9", "10**10**6", "while True: pass", "[x]*10**8", "f(x)", "x.append(x)", "1j", "b'x'", "assert", "_", "~",
)  # fmt: skip

NOTHING = ("    # a comment\n", "    pass\n", "    q = 3\n", "    if False:\n        return 7\n", "    q = [v for v in range(3)]\n", "    'text'\n")  # fmt: skip


def wrong(problem: Problem, rng: random.Random) -> str:
    """A solution whose result cannot be right, behind edits that change nothing."""
    head, body = problem.source.split("\n", 1)
    change = rng.choice(problem.changes)
    if change == "x" and problem.truth is sorted:
        change = "None"  # the input may be sorted already
    for _ in range(rng.randint(0, 3)):
        body = rng.choice(NOTHING) + body
    inner = f"{head.replace('def f', 'def g')}\n{body}\n"
    names = head[head.index("(") + 1 : head.index(")")]
    return f"{inner}def f({names}):\n    r = g({names})\n    return {change.format(r='r')}\n"


def soup(_: Problem, rng: random.Random) -> str:
    return rng.choice(("", "def f(x):\n    return ")) + " ".join(rng.choices(TOKENS, k=rng.randint(1, 60)))


def edited(problem: Problem, rng: random.Random) -> str:
    text = problem.source
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + rng.randint(0, 12))
        part = rng.choice(("", text[a:b] * 2, text[a:b][::-1], rng.choice(TOKENS), chr(rng.randrange(32, 0xD7FF))))
        text = text[:a] + part + text[b:]
        if not text:
            break
    return text


def right(problem: Problem, _: random.Random) -> str:
    return problem.source


KINDS: dict[str, tuple[Callable[[Problem, random.Random], str], int]] = {
    "wrong": (wrong, 45), "soup": (soup, 25), "edited": (edited, 28), "right": (right, 2)
}  # fmt: skip


def drawn(seed: int, number: int, right_alone: bool) -> list[tuple[str, str, Problem, Program]]:
    """(id, kind, problem, program) of each."""
    out = []
    for i in range(number):
        rng = random.Random(f"{seed}/{i}")
        problem = rng.choice(PROBLEMS)
        kind = "right" if right_alone else rng.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
        tests = problem.tests(rng, TESTS)
        if kind == "wrong":  # where the input happens to be the answer, or the answer is empty, the change may be none
            while any(t.output in (t.input[0], [], "", 0) for t in tests):
                tests = problem.tests(rng, TESTS)
        out.append((f"{kind}/{i}", kind, problem, Program(KINDS[kind][0](problem, rng), tests, "f")))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=[t for t in TIERS if t != "remote"], default="monty")
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--right", action="store_true")
    args = parser.parse_args()
    fuzz = drawn(args.seed, args.programs, args.right)
    counts: Counter[tuple[str, str]] = Counter()
    faults: list[dict[str, Any]] = []
    doubtful: list[tuple[str, Program]] = []
    longest = 0.0
    with open_sandbox(args.tier, args.workers, LIMITS) as box:
        box.run((str(n), fuzz[0][3]) for n in range(args.workers))  # warm
        began = time.monotonic()
        assert isinstance(box, Local)
        for first in range(0, len(fuzz), BATCH):
            part = fuzz[first : first + BATCH]
            verdicts = box.run((id, program) for id, _, _, program in part)
            for id, kind, problem, program in part:
                verdict = verdicts[id]
                counts[kind, verdict.outcome] += 1
                longest = max(longest, verdict.seconds)
                if verdict.outcome == "ungraded" or (
                    (kind == "right") != (verdict.outcome == "pass") and kind != "edited"
                ):
                    faults.append({"id": id, "source": program.source, "verdict": str(verdict)})
                elif kind == "edited" and verdict.outcome == "pass":
                    doubtful.append((id, replace(program, tests=problem.tests(random.Random(id), MORE))))
        seconds = time.monotonic() - began
        again = box.run(doubtful)
        started = box._pool.started
    lucky = [id for id, verdict in again.items() if verdict.outcome != "pass"]
    slack = 4 * LIMITS.seconds * (TESTS + 1) + 5.0
    report = {
        "tier": args.tier, "programs": len(fuzz), "seed": args.seed, "workers": args.workers, "seconds": round(seconds, 1),
        "programs_per_second": round(len(fuzz) / seconds, 1),
        "counts": {f"{kind} {outcome}": n for (kind, outcome), n in sorted(counts.items())},
        "longest_s": round(longest, 2), "hangs": int(longest > slack), "workers_started": started,
        "edited_that_pass": len(doubtful), "of_these_wrong_on_more_tests": len(lucky), "faults": faults[:20],
        "number_of_faults": len(faults),
    }  # fmt: skip
    print(json.dumps(report))
    return 1 if faults or longest > slack else 0


if __name__ == "__main__":
    raise SystemExit(main())
