"""Fuzz the graders: `python prove/fuzz.py [ANSWERS] [SEED]`, by default 100,000 answers from seed 0.

Four sources, a quarter each: gold answers whose value is changed; pairs of expressions whose values are worked out here,
on the tree they are written from; a soup of LaTeX; a soup of Unicode. Any pass of an answer that is not right is a false
pass, anything but pass and fail is a crash, and a job over the clock is a hang: the exit status is 1 if there is one.
Right answers that fail are counted too.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from random import Random

from incentive.verify.algebra import parse
from incentive.verify.grade import Grader, Question
from incentive.verify.reading import choice, literal

BATCH = 10_000

GOLDS = [
    ("maths", "42"), ("maths", "-17"), ("maths", "1000000"), ("maths", "0.125"), ("maths", r"\frac{3}{4}"), ("maths", r"-\frac{22}{7}"), ("maths", r"2\sqrt{2}"), ("maths", r"\frac{\pi}{6}"),
    ("maths", "x^2-1"), ("maths", r"3x+\frac{1}{2}"), ("maths", "2^{100}"), ("maths", r"1\pm\sqrt{19}"), ("maths", "3,-7,11"), ("maths", r"(3,\frac{\pi}{2})"), ("maths", "(12,17,5)"),
    ("maths", "[13,19)"), ("maths", r"(-\infty,13]\cup[29,\infty)"), ("maths", "y=3x+17"), ("maths", "x>13"), ("maths", r"13\le x<29"), ("maths", r"\begin{pmatrix}11&12\\13&14\end{pmatrix}"),
    ("maths", r"\text{Evelyn}"), ("maths", r"37\%"), ("maths", "17 cm"), ("maths", "204_5"), ("maths", "17:32"), ("maths", "13+14i"), ("number", "3.14159"), ("number", "1234"), ("number", "17/19"),
    ("set", r"\{13,17,19\}"), ("list", "13, 17, 19"), ("matrix", "[[11,12],[13,14]]"), ("interval", r"(13,\infty)"), ("interval", "[13,17]"), ("choice", "C"), ("text", "Katanga"),
]  # fmt: skip
SOUP = [
    r"\frac", "{", "}", "{", "}", "(", ")", "[", "]", "^", "_", "+", "-", "*", "/", "=", "<", ">", "|", ",", ";", "!", "%", "$", "&", r"\\", r"\sqrt", r"\pi", r"\infty", r"\cup", r"\pm", r"\in",
    r"\le", r"\text{", r"\boxed{", r"\left", r"\right", r"\begin{pmatrix}", r"\end{pmatrix}", r"\sin", r"\log", r"\sum", r"\int", r"\lim", r"\binom", r"\{", r"\}", r"\approx", r"\circ", "x", "y", "n",
    "e", "i", "0", "1", "2", "7", "10", "999", "0.5", "1,000", " ", " or ", " and ", "the answer is ", "nan", "inf", "**", r"\mathrm{", r"\overline{", r"\lfloor", r"\rfloor", r"\det", r"\prod", r"\vec{",
]  # fmt: skip


def changed(random: Random, kind: str, gold: str) -> str:
    """The gold answer with another value."""
    if kind == "choice":
        return random.choice(["A", "(B)", "D", "C or D", "The answer is (A).", "A, B, C", "C/D", r"\boxed{E}"])
    digits = [i for i, c in enumerate(gold) if c.isdigit()]
    way = random.randrange(6)
    if way == 0 or (kind in ("text",) and way < 4) or not digits:
        return (
            gold[::-1] + random.choice("qzkv")
            if not digits
            else gold + random.choice([" or 91", ", 91", r"\text{ and }91"])
        )
    if way == 1 and "%" not in gold and ":" not in gold and "_" not in gold:
        return f"{gold}, {gold.replace(gold[digits[0]], '8' if gold[digits[0]] != '8' else '6', 1)}"
    if way == 2:
        return rf"\boxed{{{gold}}} \boxed{{97}}"
    at = random.choice(digits)  # a digit that becomes another one, or comes twice
    other = random.choice([d for d in "123456789" if d != gold[at]])
    if "_5" in gold and at == len(gold) - 1:
        other = "7"
    text = gold[:at] + other + gold[at + 1 :]
    return text if way < 5 else rf"The answer is ${text}$."


class Tree:
    """An expression with its value and a text; the value never comes from the text."""

    def __init__(self, text: str, value: Fraction | float, tight: bool):
        self.text, self.value, self.tight = text, value, tight

    def inner(self) -> str:
        return self.text if self.tight else f"({self.text})"


def tree(random: Random, depth: int) -> Tree:
    if depth == 0 or random.random() < 0.15:
        n = random.randint(0, 30)
        return Tree(str(n), Fraction(n), True)
    way = random.randrange(7)
    a = tree(random, depth - 1)
    if way == 5:
        if a.value < 0 or a.value > 10**6:
            return a
        return Tree(rf"\sqrt{{{a.text}}}", math.sqrt(a.value), True)
    if way == 6:
        return Tree(f"{a.inner()}^{{2}}", a.value * a.value, False) if abs(a.value) < 10**4 else a
    b = tree(random, depth - 1)
    if way == 0:
        return Tree(f"{a.text}+{b.inner()}", a.value + b.value, False)
    if way == 1:
        return Tree(f"{a.text}-{b.inner()}", a.value - b.value, False)
    if way == 2:
        return Tree(rf"{a.inner()}\cdot {b.inner()}", a.value * b.value, False)
    if abs(b.value) < 1e-9:
        return a
    form = rf"\frac{{{a.text}}}{{{b.text}}}" if way == 3 else f"{a.inner()}/{b.inner()}"
    return Tree(form, a.value / b.value, way == 3)


def pair(random: Random) -> tuple[str, str, bool]:
    """(gold, answer, whether their values are the same): a rewriting of one tree, or two trees, or one a little off."""
    gold = tree(random, 3)
    while literal(parse(gold.text)):  # of a written-out number only another one passes
        gold = tree(random, 3)
    way = random.randrange(3)
    if way == 0:
        other = tree(random, 3)
        return gold.text, other.text, math.isclose(gold.value, other.value, rel_tol=1e-9, abs_tol=1e-9)
    k = random.randint(2, 9)
    same = random.choice(
        [
            rf"\frac{{{k}\cdot ({gold.text})}}{{{k}}}",
            f"{k}+({gold.text})-{k}",
            f"-(-({gold.text}))",
            rf"({gold.text})\cdot\frac{{\sqrt{{{k}}}}}{{\sqrt{{{k}}}}}",
        ]
    )
    return gold.text, same if way == 1 else f"{same}+{random.choice(['1', '0.001', '10^{-9}'])}", way == 1


def soup(random: Random) -> str:
    return "".join(random.choice(SOUP) for _ in range(random.randint(1, 40)))


def unicode(random: Random) -> str:
    ranges = [(0, 127), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x2000, 0x2BFF), (0xD800, 0xDFFF), (0xFE00, 0xFFFF), (0x1D400, 0x1D7FF), (0xE0000, 0xE007F)]  # fmt: skip
    return "".join(chr(random.randint(*random.choice(ranges))) for _ in range(random.randint(1, 60)))


def questions(n: int, seed: int) -> Iterator[tuple[str, Question, bool]]:
    """(source, question, whether the answer is right)."""
    random = Random(seed)
    for i in range(n):
        kind, gold = random.choice(GOLDS)
        source = ("changed", "expressions", "latex", "unicode")[i % 4]
        right = False
        if source == "changed":
            answer = changed(random, kind, gold)
        elif source == "expressions":
            kind = "maths"
            gold, answer, right = pair(random)
        else:
            answer = soup(random) if source == "latex" else unicode(random)
            right = kind == "choice" and choice(answer) == gold  # a lone C is the option C
        yield source, Question(str(i), kind, gold, answer), right


def main(n: int = 100_000, seed: int = 0) -> int:
    table: Counter[tuple[str, str]] = Counter()
    false, spent, done = [], 0.0, 0
    with Grader() as grader:
        grader.grade([Question("warm", "maths", r"\sqrt{2}", r"\frac{2}{\sqrt{2}}")])
        batch: list[tuple[str, Question, bool]] = []
        for item in [*questions(n, seed), None]:
            if item is not None:
                batch.append(item)
            if batch and (item is None or len(batch) == BATCH):
                start = time.monotonic()
                grades = grader.grade(q for _, q, _ in batch)
                spent, done = spent + time.monotonic() - start, done + len(batch)
                for source, q, right in batch:
                    outcome = grades[q.id].outcome
                    table[
                        source,
                        {
                            ("pass", True): "right passes",
                            ("fail", True): "right fails",
                            ("fail", False): "wrong fails",
                        }.get((outcome, right), "FALSE PASS" if outcome == "pass" else "ungraded"),
                    ] += 1
                    if outcome == "pass" and not right:
                        false.append(q)
                batch = []
                print(f"{done} answers, {done / spent:.0f}/s", file=sys.stderr)
        counts, disagreements = dict(grader.counts), len(grader.disagreements)
    columns = ("wrong fails", "right passes", "right fails", "ungraded", "FALSE PASS")
    print("| source | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for source in ("changed", "expressions", "latex", "unicode"):
        print(f"| {source} | " + " | ".join(str(table[source, c]) for c in columns) + " |")
    faults = {k: counts.get(k, 0) for k in ("timeout", "memory", "died", "raised")}
    print(
        f"\n{n} answers in {spent:.0f} s: {n / spent:.0f}/s. Faults: {faults}. math-verify differs from ours on {disagreements}."
    )
    for q in false[:20]:
        print("FALSE PASS", q.kind, repr(q.gold), repr(q.answer))
    return int(bool(false) or any(faults.values()))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
