"""The public benchmarks that the paper reports, and the miniature's: what is asked, in which words, how it is graded.

Kept from the paper (appendix D): AIME and GPQA with k = 64, MATH with 16, LiveCodeBench with 8; 32,768 tokens at
temperature 0.6 and top-p 0.95; maths asks for steps and a boxed answer; LiveCodeBench from 2024-08 to 2025-01; IFEval by
prompt, strictly. Ours: the words of the prompts; k = 16 for HumanEval+ and 4 for IFEval, which the paper does not state; the
revision of each data set; GPQA's options in an order that a hash of their content settles. Imports no torch.
"""

from __future__ import annotations

import ast
import base64
import difflib
import io
import json
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from incentive.config import ConfigError
from incentive.tasks.hub import Fault, Fields, Hub, Item, Skip, question_text, value
from incentive.tasks.rows import Row, Source
from incentive.verify.constraints import ConstraintError, from_ifeval

GYM = "reasoning-gym:"
TAGGED = "\n\nThink it through step by step, then give the final answer alone, between <answer> and </answer>."
Kind = Literal["number", "maths", "choice", "code", "instructions"]

MATHS = "{question}\n\nThink it through step by step, and put the final answer in \\boxed{}."
CHOICE = (
    "{question}\n\nThink it through step by step. End with a line of the form `Answer: X`, where X is the letter of the "
    "right option."
)
STDIN = (
    "{question}\n\nWrite a Python 3 program that reads its input from stdin and prints its answer to stdout. Give the whole "
    "program in one ```python block."
)
METHOD = (
    "{question}\n\nSolve it in Python 3 by completing this class, and give the whole class in one ```python block.\n\n"
    "```python\n{code}\n```"
)
FUNCTION = (
    "Complete this Python 3 function. Give the whole function, with its imports, in one ```python block.\n\n"
    "```python\n{code}\n```"
)


# reading rows


def _numbered(row: Row) -> Item:
    """AIME: the answer is a whole number from 0 to 999, with leading zeros in some copies."""
    item = Fields("problem", "answer", prompt=MATHS)(row)
    if not item.answer.isdecimal() or not 0 <= int(item.answer) <= 999:
        raise Fault("the answer is no whole number below 1000")
    return Item(item.question, str(int(item.answer)), item.prompt, tags=item.tags)


def _ifeval(row: Row) -> Item:
    """google/IFEval: prompt, instruction_id_list, kwargs (as text in some copies)."""
    kwargs = row["kwargs"]
    kwargs = json.loads(kwargs) if isinstance(kwargs, str) else kwargs
    ids = row["instruction_id_list"]
    ids = json.loads(ids) if isinstance(ids, str) else ids
    try:
        wanted = from_ifeval(ids, kwargs)
    except ConstraintError as error:
        raise Fault(str(error)) from None
    return Item(question_text(row["prompt"]), [[c.kind, c.settings] for c in wanted], tags={"subject": ids[0]})


def _literal(node: ast.expr) -> Any:
    """A list of plain values; `float("inf")` and the like are no literals and make the row unusable."""
    try:
        return ast.literal_eval(node)
    except (ValueError, RecursionError, MemoryError):
        raise Fault("the tests are no plain data") from None


def _humaneval(row: Row) -> Item:
    """evalplus/humanevalplus: the test program holds its cases as two lists, which are read and never run."""
    try:
        tree = ast.parse(row["test"])
    except (SyntaxError, ValueError, RecursionError):
        raise Fault("the tests are no Python") from None
    named = {
        n.targets[0].id: n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Assign) and len(n.targets) == 1 and isinstance(n.targets[0], ast.Name)
    }
    if "inputs" not in named or "results" not in named:
        raise Fault("the tests hold no lists of inputs and results")
    inputs, results = _literal(named["inputs"]), _literal(named["results"])
    if not inputs or len(inputs) != len(results) or not all(isinstance(x, list) for x in inputs):
        raise Fault("inputs and results do not match")
    tests = [
        {"input": i, "output": o, "tolerance": 1e-6 if _floats(o) else None}
        for i, o in zip(inputs, results, strict=True)
    ]
    code = row["prompt"].strip("\n")
    answer = {"entry": row["entry_point"], "tests": tests, "before": row["prompt"]}
    return Item(row["prompt"], answer, FUNCTION.replace("{code}", code), id=str(row.get("task_id") or "") or None)


def _floats(x: Any) -> bool:
    return isinstance(x, float) or (isinstance(x, list | tuple) and any(map(_floats, x)))


class _Text(pickle.Unpickler):
    """A pickle that holds text alone: one that names anything to import is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


PACKED_BYTES = 512 << 20  # of the tests of one problem, unpacked


def _cases(packed: Any) -> list[dict[str, Any]]:
    """LiveCodeBench's tests: JSON, or JSON as pickled text, compressed and in base 64."""
    if isinstance(packed, list):
        return packed
    try:
        try:
            found = json.loads(packed)
        except ValueError:
            unpack = zlib.decompressobj()
            data = unpack.decompress(base64.b64decode(packed, validate=True), PACKED_BYTES)
            if unpack.unconsumed_tail:
                raise Fault("the tests are too large") from None
            found = json.loads(_Text(io.BytesIO(data)).load())
    except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError):
        raise Fault("the tests cannot be read") from None
    if not isinstance(found, list):
        raise Fault("the tests cannot be read")
    return found


def livecodebench(first: str, last: str) -> Callable[[Row], Item]:
    """livecodebench/code_generation_lite, contests from `first` to `last` (dates, both included)."""

    def reader(row: Row) -> Item:
        if not first <= str(row["contest_date"])[:10] <= last:
            raise Skip("outside the dates")
        cases = _cases(row["public_test_cases"]) + _cases(row["private_test_cases"])
        question, code = question_text(row["question_content"]), str(row.get("starter_code") or "")
        tags = {"difficulty": str(row.get("difficulty") or "")}
        try:
            if code.strip():
                entry = "Solution." + str(value(row, "metadata.func_name"))
                tests = [
                    {
                        "input": [json.loads(x) for x in c["input"].split("\n") if x.strip()],
                        "output": json.loads(c["output"]),
                    }
                    for c in cases
                ]
                prompt = METHOD.replace("{code}", code.rstrip() + "\n        ...")
            else:
                entry, prompt = None, STDIN
                tests = [{"input": c["input"], "output": c["output"]} for c in cases]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Fault("the tests cannot be read") from None
        if not tests:
            raise Fault("no tests")
        answer = {"entry": entry, "tests": tests, "before": ""}
        return Item(
            question, answer, prompt.replace("{question}", question), str(row.get("question_id") or "") or None, tags
        )

    return reader


# the suites


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark over a data set, or (`tasks`) over tasks of this package."""

    name: str
    about: str
    k: int  # answers to each problem, the paper's where it states one
    max_tokens: int = 32768
    kind: Kind | None = None
    source: Source | None = None
    read: Callable[[Row], Item] | None = None
    licence: str = ""
    tasks: tuple[str, ...] = ()
    problems: int | None = None  # of each task; a data set is asked whole

    def load(self, data: str | Path | None = None) -> Hub:
        """The problems of a suite over a data set, all `test`.

        Raises:
            TaskError: the data cannot be had or read.
        """
        assert self.source is not None
        assert self.read is not None
        return Hub(self.source, self.read, name=self.name, hold="test", data=data)


def _aime(name: str, year: int, source: Source) -> Suite:
    about = f"American Invitational Mathematics Examination {year}: 30 problems, answers from 0 to 999"
    return Suite(
        name,
        about,
        64,
        kind="number",
        source=source,
        read=_numbered,
        licence="Mathematical Association of America; no licence stated",
    )


SUITES: dict[str, Suite] = {
    s.name: s
    for s in (
        _aime("aime24", 2024, Source("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a")),
        _aime("aime25", 2025, Source("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b")),
        Suite(
            "math500", "500 competition problems of MATH, levels 1 to 5", 16, kind="maths",
            source=Source("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
            read=Fields("problem", "answer", prompt=MATHS), licence="MIT (MATH)",
        ),
        Suite(
            "gpqa-diamond", "198 questions of graduate physics, chemistry and biology, four options", 64, kind="choice",
            source=Source("Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", ("gpqa_diamond.csv",)),
            read=Fields("Question", "Correct Answer", wrong=tuple(f"Incorrect Answer {i}" for i in (1, 2, 3)), prompt=CHOICE),
            licence="CC BY 4.0; its authors ask that no example is shown online, and to accept that first",
        ),
        Suite(
            "livecodebench", "contest problems from 2024-08-01 to 2025-01-31, hidden tests", 8, kind="code",
            source=Source("livecodebench/code_generation_lite", "0fe84c3912ea0c4d4a78037083943e8f0c4dd505", ("test*.jsonl",)),
            read=livecodebench("2024-08-01", "2025-01-31"), licence="CC (see the data set's page)",
        ),
        Suite(
            "humaneval-plus", "164 Python functions, many hidden tests each", 16, kind="code",
            source=Source("evalplus/humanevalplus", "d32357cf319e50e9c8d8dab5ea876c72b0fd321b"), read=_humaneval,
            licence="Apache-2.0 (tests), MIT (HumanEval)",
        ),
        Suite(
            "ifeval", "541 prompts with instructions that a program checks", 4, kind="instructions",
            source=Source("google/IFEval", "966cd89545d6b6acfd7638bc708b98261ca58e84"), read=_ifeval, licence="Apache-2.0",
        ),
        Suite("mini", "the miniature's own tasks, test split", 16, 320, tasks=("countdown3", "countdown4", "arithmetic", "logic"), problems=200),
    )
}  # fmt: skip


def find(name: str) -> Suite:
    """The suite of that name, or one task of reasoning-gym as a suite: `reasoning-gym:NAME?setting=value`.

    Raises:
        ConfigError: there is none.
    """
    if name in SUITES:
        return SUITES[name]
    if name.startswith(GYM):
        told = "procedural puzzles of reasoning-gym, graded by its own scorer"
        return Suite(name, told, 4, 8192, tasks=("reasoning-gym/" + name.removeprefix(GYM),), problems=100)
    near = difflib.get_close_matches(name, SUITES, n=1)
    raise ConfigError(
        f"unknown suite {name!r}; "
        + (f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SUITES)}, {GYM}NAME")
    )
