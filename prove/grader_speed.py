"""Answers graded a second: `python prove/grader_speed.py [WORKERS]`, groups of 16 answers to one gold each, warm workers."""

from __future__ import annotations

import sys
import time

from incentive.verify.grade import Grader, Question

GROUP = 16
SETS = {
    "whole numbers, 1 of 16 right": ("maths", "{n}", [str(i) + "{n}" if i else "{n}" for i in range(GROUP)], 400),
    "fractions, all right": ("maths", r"\frac{{{n}}}{{7}}", ["{n}/7", r"\frac{{{n}}}{{7}}", r"\boxed{{{n}/7}}", "x={n}/7"] * 4, 400),
    "option letters": ("choice", "B", ["(B)", "The answer is C.", "A or B", "D"] * 4, 400),
    "sets of numbers": ("set", "{n}, 2, 3", ["3, 2, {n}", "1, 2", r"\{{2, 3, {n}\}}", "{n}"] * 4, 200),
    "roots, all wrong": ("maths", r"{n}\sqrt{{2}}", [rf"{i}\sqrt{{{{3}}}}" for i in range(GROUP)], 60),
    "roots, all right in another form (math-verify is asked)": ("maths", r"{n}\sqrt{{2}}", [r"\sqrt{{2}}\cdot {n}", r"\frac{{2\cdot {n}}}{{\sqrt{{2}}}}"] * 8, 30),
}  # fmt: skip


def main(workers: int = 2) -> None:
    print("| answers | answers/s |\n|---|---|")
    with Grader(workers=workers) as grader:
        grader.grade([Question(str(i), "maths", r"\sqrt{2}", r"\frac{2}{\sqrt{2}}") for i in range(4)])
        for name, (kind, gold, answers, groups) in SETS.items():
            questions = [
                Question(f"{n}.{i}", kind, gold.format(n=n), a.format(n=n))
                for n in range(11, 11 + groups)
                for i, a in enumerate(answers)
            ]
            start = time.monotonic()
            grader.grade(questions)
            print(f"| {name} | {len(questions) / (time.monotonic() - start):,.0f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
