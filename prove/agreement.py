"""Our graders beside others': `python prove/agreement.py gym` and `python prove/agreement.py math-verify TESTS`.

`gym`: reasoning-gym's tasks whose answers are numbers or expressions (pip install reasoning-gym), 40 problems of each,
the gold answer, wrong ones and other ways to write them, scored by the task's own scorer (full marks) and by `maths`.
`math-verify`: the examples of math-verify's own tests (the `tests` folder of its source distribution) whose answer has at
most 200 characters, read from its files, never imported. Every difference is printed.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

from incentive.verify.grade import Grader, Question

TASKS = ["aiw", "basic_arithmetic", "binary_alternation", "chain_sum", "coin_flip", "complex_arithmetic", "count_bits", "count_primes", "decimal_arithmetic", "decimal_chain_sum", "dice", "fraction_simplification", "gcd", "gsm_symbolic", "largest_island", "lcm", "leg_counting", "letter_counting", "maze", "number_sequence", "polynomial_multiplication", "power_function", "products", "rectangle_count", "rotten_oranges", "self_reference", "simple_equations", "simple_geometry"]
PROBLEMS = 40


def variants(gold: str) -> dict[str, str]:
    """Answers to one problem, by what was done to the gold one."""
    found = {"gold": gold, "empty": "", "hedge": f"{gold} or 7919", "word": "seven", "and one more": f"{gold}1", "negated": f"-{gold}"}
    try:
        value = Fraction(gold)
    except (ValueError, ZeroDivisionError):
        return found
    found |= {"plus one": str(value + 1), "sentence": f"The answer is {gold}.", "boxed": rf"\boxed{{{gold}}}"}
    if value.denominator == 1 and "." not in gold:
        return found | {"with .0": f"{gold}.0", "plus 0.001": f"{gold}.001"}
    return found | {"unreduced": f"{3 * value.numerator}/{3 * value.denominator}"}


def gym(grader: Grader) -> None:
    import reasoning_gym

    asked, theirs = [], {}
    for name in TASKS:
        data = reasoning_gym.create_dataset(name, size=PROBLEMS, seed=42)
        for i, entry in enumerate(data):
            gold = str(entry["answer"])
            for what, answer in variants(gold).items():
                id = f"{name}|{i}|{what}"
                asked.append(Question(id, "maths", gold, answer))
                theirs[id] = data.score_answer(answer=answer, entry=entry) >= 0.999
    grades = grader.grade(asked)
    differ: dict[tuple[str, str, bool], list[Question]] = {}
    for q in asked:
        name, _, what = q.id.split("|")
        if (grades[q.id].outcome == "pass") != theirs[q.id]:
            differ.setdefault((name, what, theirs[q.id]), []).append(q)
    print(f"{len(asked)} answers of {len(TASKS)} tasks: {sum(map(len, differ.values()))} differ\n")
    print("| what was done | task | its scorer | ours | answers | such as |\n|---|---|---|---|---|---|")
    for (name, what, full), qs in sorted(differ.items(), key=lambda d: (d[0][1], d[0][0])):
        ours = grades[qs[0].id].outcome
        print(f"| {what} | {name} | {'pass' if full else 'fail'} | {ours} | {len(qs)} | `{qs[0].answer[:50]}` for `{qs[0].gold[:50]}` |")


def examples(folder: Path) -> list[tuple[str, str, bool]]:
    """(gold, answer, expected) of every parametrize table, as literals."""
    found = []
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "parametrize" and len(node.args) > 1):
                continue
            names = ast.literal_eval(node.args[0]).replace(" ", "").split(",")
            if names[:2] != ["gold", "pred"] or not isinstance(node.args[1], ast.List) or "strict" in names or "allow_set_relation_comp" in names:
                continue
            at = next(i for i, n in enumerate(names) if n in ("expected", "result"))
            for row in node.args[1].elts:
                try:
                    values = ast.literal_eval(row)
                except ValueError:
                    continue
                if len(values[1]) <= 200:
                    found.append((values[0], values[1], bool(values[at])))
    return found


def math_verify(grader: Grader, folder: Path) -> None:
    asked = examples(folder)
    grades = grader.grade(Question(str(i), "maths", gold, answer) for i, (gold, answer, _) in enumerate(asked))
    table = Counter((expected, grades[str(i)].outcome) for i, (*_, expected) in enumerate(asked))
    print(f"{len(asked)} examples: {dict(table)}\n\n| gold | answer | its tests say | ours | why |\n|---|---|---|---|---|")
    for i, (gold, answer, expected) in enumerate(asked):
        grade = grades[str(i)]
        if (grade.outcome == "pass") != expected:
            cells = [f"`{t.replace('|', '¦')!r}`" for t in (gold, answer)]
            print(f"| {' | '.join(cells)} | {'pass' if expected else 'fail'} | {grade.outcome} | {grade.why} |")


if __name__ == "__main__":
    with Grader() as grader:
        from incentive.verify import grade as rules

        rules.BAD_SHARE = 1.0  # others' golds may be ours to refuse: they are listed
        gym(grader) if sys.argv[1:] == ["gym"] else math_verify(grader, Path(sys.argv[2]))
