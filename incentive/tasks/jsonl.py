"""Your own problems from a JSONL file: one object a line with `prompt` and `answer`, if you like `id` and `split`.

    {"prompt": "What is 7 * 8?", "answer": 56}
    {"prompt": [{"role": "user", "content": "Capital of France? (A) Paris (B) Rome"}], "answer": "A", "split": "test"}

A problem's content is its prompt (Unicode NFC, runs of white space as one space), whatever file it stands in, so the
same prompt in a training and in a test file is found. Its split is the line's own or, as for every task, a hash of the
content. `"check"` names how its answer is compared (docs/grading.md); without it, answers that mean the same are equal.
Other fields are left alone. A faulty line is an error with its number; nothing is skipped in silence.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from incentive.records import SPLITS, Problem, Split, hash64, split_of

Check = Callable[[Problem, str], bool]
CHECKS = ("text", "choice", "number", "set", "list", "interval", "matrix", "maths")  # those of verify.answers


class TaskError(ValueError):
    """A task cannot be used. The message names the file and line and the fix; the CLI prints it and exits with 2."""


# what two answers have in common

MAX_CHARS = 2000  # longer answers count by a hash of their text
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:(?<=[0-9])\.?|\.[0-9]+)(?:e[+-]?[0-9]{1,2})?")
_FRACTION = re.compile(r"([+-]?[0-9]+) ?/ ?([0-9]+)")
_LETTER = re.compile(r"\(?([a-z])[).:]*")


def number(text: str) -> Fraction | None:
    """The exact value of a number of at most 64 characters (`1,000`, `-0.50`, `1/2`, `3e8`), or None. No `eval`."""
    text = text.strip().replace("−", "-").lower()
    if len(text) > 64:
        return None
    if found := _FRACTION.fullmatch(text):
        return Fraction(int(found[1]), int(found[2])) if int(found[2]) else None
    if _NUMBER.fullmatch(text) and any("0" <= c <= "9" for c in text):
        return Fraction(text.replace(",", "").replace(".e", "e").removesuffix("."))
    return None


def meaning(answer: str) -> str | None:
    """One text for answers that mean the same: numbers by value, `(B)` and `B.` as the letter, other texts without
    regard to case, width (NFKC), white space and a full stop at the end. None for an empty one."""
    if len(answer) > MAX_CHARS:
        return "sha256:" + hashlib.sha256(" ".join(answer.split()).encode("utf-8", "surrogatepass")).hexdigest()
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    value = number(text)
    if value is not None:
        return str(value)
    if found := _LETTER.fullmatch(text):
        return found[1]
    return text.rstrip(". ") or text or None


# the file


@dataclass(frozen=True, slots=True)
class Line:
    """One problem of a list: where it stands, what it is, and what its answer is."""

    number: int
    id: str
    key: str
    split: Split
    prompt: str | list[dict[str, str]]
    answer: Any
    tags: dict[str, Any] = field(default_factory=dict)


def content(prompt: str | list[dict[str, str]]) -> str:
    """The key of a prompt. A single user message is the same content as its text."""
    turns = [("user", prompt)] if isinstance(prompt, str) else [(m["role"], m["content"]) for m in prompt]
    plain = [[role, " ".join(unicodedata.normalize("NFC", text).split())] for role, text in turns]
    digest = hashlib.sha256(json.dumps(plain).encode()).hexdigest()
    return f"jsonl:{digest[:32]}"


def _prompt(value: Any) -> str | None:
    """What is wrong with a prompt, or None."""
    if isinstance(value, str):
        return None if value.strip() else "the prompt is empty"
    if not isinstance(value, list):
        return f"the prompt must be text or a list of messages, not {kind_of(value)}"
    for m in value:
        if not (isinstance(m, dict) and all(isinstance(m.get(k), str) for k in ("role", "content"))):
            return 'a message of the prompt must be {"role": text, "content": text}'
    if not any(m["role"] == "user" and m["content"].strip() for m in value):
        return "the prompt holds no user message"
    return None


def kind_of(value: Any) -> str:
    names = {"NoneType": "null", "str": "text", "dict": "an object", "list": "a list", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")


def answer_text(value: Any) -> str | None:
    """The answer as text, or None where it is neither text nor a number of sane size."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= 60:
        return format(value, "f")  # as written: 0.50 stays 0.50
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def as_object(text: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text.decode("utf-8"), parse_float=Decimal, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise TaskError(f"{where}: not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise TaskError(f"{where}: not valid JSON: {error.msg.lower()} at column {error.colno}") from None
    except RecursionError:
        raise TaskError(f"{where}: not valid JSON: nested too deep") from None
    except ValueError as error:
        raise TaskError(f"{where}: not valid JSON: {str(error).split(';')[0]}") from None
    if not isinstance(data, dict):
        raise TaskError(f'{where}: {kind_of(data)}, not an object; write {{"prompt": ..., "answer": ...}}')
    return data


def _read(text: bytes, n: int, path: Path) -> Line:
    """One line of the file, checked on its own."""
    where = f"{path}:{n}"
    data = as_object(text, where)
    for name in ("prompt", "answer"):
        if name not in data:
            near = difflib.get_close_matches(name, data, n=1, cutoff=0.5)
            hint = f"; did you mean {name!r} by {near[0]!r}?" if near else f" (it has: {', '.join(data) or 'nothing'})"
            raise TaskError(f"{where}: no {name!r}{hint}")
    if fault := _prompt(data["prompt"]):
        raise TaskError(f"{where}: {fault}")
    answer = answer_text(data["answer"])
    if answer is None:
        got = json.dumps(data["answer"], default=str)[:60]
        raise TaskError(f"{where}: the answer must be text or a number, and not empty; it is {got}")
    given = data.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int) or given == ""):
        raise TaskError(f"{where}: the id must be text or a whole number, not {kind_of(given)}")
    try:
        json.dumps([data["prompt"], answer, given], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise TaskError(f"{where}: half a surrogate pair (such as \\ud83d alone), which is no character") from None
    key = content(data["prompt"])
    split = data.get("split")
    if split is not None and split not in SPLITS:
        raise TaskError(f"{where}: unknown split {str(split)[:40]!r}; choose train, val or test, or leave it out")
    name = f"line-{n}" if given is None else str(given)
    tags = {"line": n, **_check(data, where)}
    return Line(n, name, key, split or split_of(key), data["prompt"], answer, tags)


def _check(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The line's `check` and `tolerance`, where it names one."""
    check, tolerance = data.get("check"), data.get("tolerance", 0)
    if check is not None and check not in CHECKS:
        near = difflib.get_close_matches(str(check), CHECKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(CHECKS)}"
        raise TaskError(f"{where}: unknown check {str(check)[:40]!r}; {hint}")
    if "tolerance" in data and check != "number":
        raise TaskError(f'{where}: a tolerance goes with "check": "number"')
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | Decimal) or not 0 <= tolerance < 1:
        raise TaskError(f"{where}: the tolerance must be a share of the answer, from 0 to below 1, such as 0.01")
    return {"check": check, "tolerance": float(tolerance)} if check else {}


class Listed:
    """Problems of a fixed list, all of them once an epoch in a seeded order.

    Args:
        name: under which the run knows it.
        where: the file or data set that messages name.
        check: judges an answer in place of equal `meaning`; with a `vote_key` of your own if votes should follow it.
    """

    version = ""
    open = False  # without right answers
    judged = False  # a model says what is right, by a reference

    def __init__(
        self,
        name: str,
        where: str,
        lines: list[Line],
        check: Check | None = None,
        vote_key: Callable[[str], str | None] | None = None,
    ):
        self.name, self.where, self.lines = name, where, lines
        self._check, self._vote_key = check, vote_key or meaning
        self.splits: dict[Split, tuple[Line, ...]] = {s: tuple(x for x in lines if x.split == s) for s in SPLITS}
        self._order = lru_cache(maxsize=8)(self._shuffled)

    def size(self, split: Split) -> int:
        """Distinct problems of a split."""
        return len(self.splits[split])

    def _shuffled(self, seed: int, split: Split, epoch: int) -> list[int]:
        order = list(range(self.size(split)))
        Random(hash64("jsonl", seed, split, epoch)).shuffle(order)
        return order

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        """Problem i: each of the split once, then again in another order.

        Raises:
            TaskError: the split is empty.
        """
        n = self.size(split)
        if not n:
            have = ", ".join(f"{self.size(s)} {s}" for s in SPLITS)
            raise TaskError(
                f"{self.where}: no {split} problem among {len(self.lines)} ({have}); a hash of the prompt sends 5% to "
                "val and "
                f'5% to test.\nAdd problems, or choose them yourself: "split": "{split}" on some lines.'
            )
        epoch, at = divmod(i, n)
        return self.posed(self.splits[split][self._order(seed, split, epoch)[at]])

    def posed(self, line: Line) -> Problem:
        return Problem(f"{self.name}/{line.id}", line.key, line.prompt, line.answer, {"task": self.name, **line.tags})

    def check(self, problem: Problem, answer: str) -> bool:
        return self.checks(problem, [answer])[0] is True

    def checks(self, problem: Problem, answers: list[str]) -> list[bool | None]:
        """All answers to one problem, those that worker processes compare beside each other."""
        if self._check is not None:
            return [self._check(problem, a) for a in answers]
        kind = problem.tags.get("check")
        if problem.answer is None or kind == "judge":
            raise TaskError(
                f"task {self.name}: no rule says what a right answer is; only a judge or a model can score it"
            )
        if kind == "code":
            from incentive.verify import programs

            return programs.checks(problem.answer, answers, problem.tags["tier"])
        if kind:
            from incentive.verify import grade  # starts worker processes: only where a line asks for it

            return grade.checks(kind, problem.answer, answers, problem.tags["tolerance"])
        gold = meaning(problem.answer)
        return [gold is not None and meaning(a) == gold for a in answers]

    def gold(self, problem: Problem) -> str:
        found: str = problem.answer["gold"] if isinstance(problem.answer, dict) else problem.answer
        return found

    def vote_key(self, answer: str) -> str | None:
        return self._vote_key(answer)


def judged_by(check: Callable[..., Any] | None) -> str:
    """A check's name, as it counts in a task's version."""
    return f" {check.__module__}.{check.__qualname__}" if hasattr(check, "__qualname__") and check else ""


class Jsonl(Listed):
    """Problems of a JSONL file.

    Args:
        name: by default the path as given.

    Raises:
        TaskError: the file or one of its lines cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        check: Check | None = None,
        vote_key: Callable[[str], str | None] | None = None,
    ):
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise TaskError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        distinct = self._distinct([_read(x, n, self.path) for n, x in enumerate(lines, 1) if x.strip()])
        super().__init__(name or str(path), str(self.path), distinct, check, vote_key)
        self.version = hashlib.sha256(data).hexdigest()[:16] + judged_by(check)  # a changed file is another task

    def _distinct(self, lines: list[Line]) -> list[Line]:
        """The lines less plain repetitions, which `repeated` counts.

        Raises:
            TaskError: there is none; an id comes twice; one prompt has two answers or two splits.
        """
        if not lines:
            raise TaskError(f'{self.path}: empty; write one {{"prompt": ..., "answer": ...}} a line')
        ids: dict[str, Line] = {}
        found: dict[str, Line] = {}
        for x in lines:
            if (other := ids.setdefault(x.id, x)) is not x:
                raise TaskError(
                    f"{self.path}:{x.number}: the id {x.id!r} is that of line {other.number}; ids must differ"
                )
            same = found.setdefault(x.key, x)
            if meaning(same.answer) != meaning(x.answer):
                raise TaskError(
                    f"{self.path}:{x.number}: the prompt is that of line {same.number}, but the answer "
                    f"{x.answer[:40]!r} "
                    f"is not {same.answer[:40]!r}; keep one of them"
                )
            if same.split != x.split:
                raise TaskError(
                    f"{self.path}:{x.number}: the prompt is that of line {same.number}, but in split {x.split!r} and "
                    "not "
                    f"{same.split!r}; a problem that is tested must not be trained on"
                )
        self.repeated = len(lines) - len(found)
        return list(found.values())
