"""How the answers of a benchmark are read and graded: what counts as the final answer, its vote, and its score.

A response's final answer is its `<answer>`, else what follows the thinking, else all of it; a thought that never closed
has none. Of that, maths takes the last box, choice the last `Answer: X` or box, code the last block of code, and IFEval the
whole. Grading itself is `verify.grade` and `verify.sandbox`, both in processes that can be killed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from incentive import chat
from incentive.records import Problem, Sample, Score
from incentive.rewards import Grade, RewardError
from incentive.tasks.jsonl import meaning
from incentive.verify import constraints

Final = Callable[[Sample], str | None]
SHORT = 200  # characters: a final answer without a box is itself the answer up to here


def final(text: str, opened: bool = False) -> str | None:
    """The final answer of a response, or None where it never came to one.

    Args:
        opened: the prompt ended with `<think>`, so the response begins inside the thinking.
    """
    tagged = chat.split(text)[1]
    if tagged is not None:
        return tagged
    _, closed, tail = text.rpartition(chat.END_THINK)
    if closed:
        return tail.strip() or None
    return None if opened or chat.THINK in text else text.strip() or None


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LETTER = re.compile(r"answer\W{0,6}(?:is\W{0,6})?\(?([A-J])\b(?![A-Za-z'’])", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```([\w+-]*)[^\n]*\n", re.MULTILINE)


def last_box(text: str) -> str | None:
    """What stands in the last `\\boxed{...}` that is closed."""
    for found in reversed(list(_BOX.finditer(text))[-8:]):  # an unclosed one costs the length of the text
        depth = 1
        for at in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0) * (text[at - 1] != "\\")
            if not depth:
                return text[found.end() : at].strip()
    return None


def marked(kind: str, text: str) -> str | None:
    """The part of a final answer that is graded; None where none is marked."""
    if kind == "instructions":
        return text
    if kind == "code":
        return last_block(text)
    if kind == "choice":
        letters = _LETTER.findall(text)
        if letters:
            return letters[-1].upper()
    box = last_box(text)
    return box if box is not None else text if len(text) <= SHORT else None


def last_block(text: str) -> str | None:
    """The last fenced block of Python, else the last block, else a text that defines something itself."""
    blocks: list[tuple[str, str]] = []
    at = 0
    while found := _FENCE.search(text, at):
        end = text.find("```", found.end())
        blocks.append((found[1].lower(), text[found.end() : end if end >= 0 else len(text)]))
        if end < 0:
            break
        at = end + 3
    python = [code for language, code in blocks if language in ("python", "python3", "py")]
    if python or blocks:
        return (python or [code for _, code in blocks])[-1]
    return text if re.search(r"^(?:def|class|import|from)\s", text, re.MULTILINE) else None


def vote(kind: str, text: str | None) -> str | None:
    """Equal for final answers that mean the same; code and instructions have no votes."""
    if text is None or kind in ("code", "instructions"):
        return None
    found = marked(kind, text)
    if found is None:
        return None
    from incentive.verify import reading

    if kind == "choice":
        return reading.choice(found)
    try:
        return meaning(reading.clean(found)[0].replace(" ", ""))
    except ValueError:  # unreadable
        return meaning(found)


# grading


def _scores(
    samples: list[Sample], of: Final, kind: str, one: Callable[[dict[str, str]], dict[str, Score]]
) -> list[Score]:
    """Scores of the samples that mark an answer, which `one` grades by id; the others are wrong."""
    found = {s.id: of(s) for s in samples}
    asked = {id: m for id, text in found.items() if text is not None and (m := marked(kind, text)) is not None}
    graded = one(asked) if asked else {}
    wrong = Score(0.0, {"accuracy": 0.0, "marked": 0.0})
    return [graded.get(s.id, wrong) for s in samples]


def _score(outcome: str, why: str) -> Score:
    if outcome in ("pass", "fail"):
        return Score(float(outcome == "pass"), {"accuracy": float(outcome == "pass"), "marked": 1.0})
    return Score(None, {"marked": 1.0}, why or "could not grade")


@contextlib.contextmanager
def grading(kind: str, of: Final, seconds: float = 6.0) -> Iterator[tuple[Grade, str]]:
    """A benchmark's grader, and its name for the record.

    Raises:
        RewardError: this machine has no sandbox; when grading: the grader or the sandbox is down.
    """
    if kind == "instructions":
        yield lambda problem, samples: [_followed(problem, of(s)) for s in samples], "verify.constraints"
        return
    if kind == "code":
        from incentive.verify import sandbox

        try:
            tier = sandbox.strongest()
            limits = sandbox.Limits(seconds=seconds, memory_mib=1024, output_kib=1024)
            opened = sandbox.open_sandbox(tier, limits=limits)
        except sandbox.SandboxMissing as error:
            raise RewardError(str(error)) from None
        with opened as box:

            def programs(problem: Problem, samples: list[Sample]) -> list[Score]:
                def run(asked: dict[str, str]) -> dict[str, Score]:
                    try:
                        verdicts = box.run((id, program(problem.answer, code)) for id, code in asked.items())
                    except sandbox.SandboxDown as error:
                        raise RewardError(f"the sandbox is down: {error}") from error
                    return {id: _score(v.outcome, v.why) for id, v in verdicts.items()}

                return _scores(samples, of, kind, run)

            yield programs, f"sandbox {tier}"
        return
    from incentive.verify import grade

    with grade.Grader([kind]) as grader:

        def answers(problem: Problem, samples: list[Sample]) -> list[Score]:
            def run(asked: dict[str, str]) -> dict[str, Score]:
                grades = grader.grade(grade.Question(id, kind, problem.answer, text) for id, text in asked.items())
                return {id: _score(g.outcome, g.why) for id, g in grades.items()}

            return _scores(samples, of, kind, run)

        yield answers, f"verify.grade {kind}"


def program(answer: dict[str, Any], code: str) -> Any:
    """A response's code with the hidden tests of its problem. A completion gets the function's beginning before it."""
    from incentive.verify.sandbox import Program, Test

    entry = answer["entry"]
    if answer["before"] and not re.search(rf"^\s*def\s+{re.escape(entry)}\b", code, re.MULTILINE):
        code = answer["before"] + code
    return Program(code, tuple(Test(t["input"], t["output"], t.get("tolerance")) for t in answer["tests"]), entry)


def _followed(problem: Problem, text: str | None) -> Score:
    """Accuracy is prompt-strict; the instructions followed are counted in the parts."""
    wanted = [constraints.Constraint(kind, settings) for kind, settings in problem.answer]
    found = constraints.judge(wanted, text or "")
    parts = {
        "accuracy": float(found.prompt_strict), "marked": float(text is not None), "loose": float(found.prompt_loose),
        "followed": float(sum(found.strict)), "followed_loose": float(sum(found.loose)), "instructions": float(len(wanted)),
    }  # fmt: skip
    return Score(parts["accuracy"], parts)
