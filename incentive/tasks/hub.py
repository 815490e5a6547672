"""Problems from a Hugging Face data set, or from a local copy of the same schema.

    Hub("openai/gsm8k@740312a...", Fields(question="question", answer="answer"))
    Hub("my-copy/", Fields(question="problem", choices="options", answer="label"))

A data set is named by its Hub id and a revision; what was read is recorded by commit and by the hash of each file. A
local copy is a file or a folder of parquet, jsonl, json or csv files. A problem's content is its question (and its
options), so the same question in a JSONL file and in a data set is found, and its split is a hash of that content.

Public data has faulty rows. They are left out and counted by reason; where most rows are faulty the mapping is wrong,
and that is an error. `rows` reads the files.
"""

from __future__ import annotations

import difflib
import json
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qsl

from incentive import hub, language
from incentive.records import SPLITS, Split, hash64, split_of
from incentive.tasks.jsonl import (
    CHECKS,
    Check,
    Line,
    Listed,
    TaskError,
    answer_text,
    content,
    judged_by,
    meaning,
)
from incentive.tasks.rows import Row, Source, Table, read

LETTERS = string.ascii_uppercase


# one row


@dataclass(frozen=True, slots=True)
class Item:
    """What a row says. `tags` go along with the problem: subject, difficulty, tests."""

    question: str
    answer: Any
    prompt: str | None = None  # the question as it is posed, where it is not the question itself
    id: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)


class Fault(ValueError):
    """A row that is no problem; the reason is counted."""


class Skip(Fault):
    """A row that is meant to be left out, as one outside the dates of a benchmark."""


Reader = Callable[[Row], Item]


def value(row: Row, name: str) -> Any:
    """A row's field; `reward_model.ground_truth` looks into an object, or into text that holds one as JSON.

    Raises:
        KeyError: there is none.
    """
    found: Any = row
    for part in name.split(".") if name not in row else [name]:
        if isinstance(found, str):
            try:
                found = json.loads(found)
            except ValueError:
                raise KeyError(name) from None
        if not isinstance(found, dict) or part not in found:
            raise KeyError(name)
        found = found[part]
    return found


def question_text(given: Any) -> str:
    """A question as text: text, or the user's turn of a list of messages.

    Raises:
        Fault: it is neither, or empty.
    """
    if isinstance(given, list) and given and all(isinstance(m, dict) for m in given):
        given = "\n".join(str(m.get("content") or "") for m in given if m.get("role") == "user")
    if not isinstance(given, str) or not given.strip():
        raise Fault("no question")
    return given


def lettered(question: str, options: list[str]) -> str:
    """A multiple-choice question as it is posed, options as `(A) ...` lines."""
    return question.rstrip() + "\n\n" + "\n".join(f"({x}) {o}" for x, o in zip(LETTERS, options, strict=False))


def shuffled(question: str, right: str, wrong: list[str]) -> tuple[list[str], str]:
    """Options in an order that a hash of their content settles, and the letter of the right one."""
    options = sorted([right, *wrong])
    Random(hash64("options", question, *options)).shuffle(options)
    return options, LETTERS[options.index(right)]


@dataclass(frozen=True, slots=True)
class Fields:
    """Which columns hold what. Dots look into objects.

    Without `choices`, the answer is text or a number; `after` cuts it to what follows its last occurrence (GSM8K ends
    with `#### 72`). With `choices`, a column that holds a list (or an object by letter), the answer is a letter, an
    index from 0, or the option's own text. `wrong` names columns of wrong options in place of `choices`: those have no
    order of their own, so a hash of the content shuffles them. `check` names how answers are compared, as in a JSONL file,
    or is one of two more: `code`, where the answer is a column of test cases (`{input, output}`, stdin to stdout) for
    programs that run in the sandbox tier `tier`, and `gold` a column with a right program; `judge`, where no rule can
    compare, and a model does. Without an answer (`answer=""`) the prompts are open: something else has to score them.

    `language` is the one that is to be thought in: `en`, `zh`, ..., or `auto`, Chinese for questions in Chinese and else
    English. `domain` is under which name curation counts.
    """

    question: str = "question"
    answer: str = "answer"
    choices: str = ""
    wrong: tuple[str, ...] = ()
    after: str = ""
    prompt: str = "{question}"
    check: str = ""
    tier: str = "monty"
    gold: str = ""
    language: str = ""
    domain: str = ""

    def __call__(self, row: Row) -> Item:
        question = question_text(value(row, self.question))
        given = value(row, self.answer) if self.answer else None
        tags = {k: row[k] for k in ("level", "subject", "difficulty") if isinstance(row.get(k), str | int)}
        if self.language:
            tags["language"] = script_of(question) if self.language == "auto" else self.language
        if self.domain:
            tags["domain"] = self.domain
        if self.check:
            tags |= {"check": self.check, "tolerance": 0.0} | ({"tier": self.tier} if self.check == "code" else {})
        answer: Any
        if not self.answer:
            answer = None
        elif self.check == "code":
            answer = {"entry": None, "tests": _cases(given), "before": "", "gold": str(value(row, self.gold))}
        elif self.choices or self.wrong:
            question, answer = self._options(row, question, given)
        else:
            text = answer_text(float_text(given))
            if text is not None and self.after:
                text = text.rpartition(self.after)[2].strip() if self.after in text else None
            if not text:
                raise Fault("no answer")
            answer = text
        return Item(question, answer, self.prompt.replace("{question}", question), tags=tags)

    def _options(self, row: Row, question: str, given: Any) -> tuple[str, str]:
        """(question with its options, letter of the right one)."""
        if self.wrong:
            texts = [str(value(row, name) or "").strip() for name in self.wrong]
            right = str(given or "").strip()
            if not right or not all(texts) or right in texts:
                raise Fault("an option is missing or twice")
            options, letter = shuffled(question, right, texts)
            return lettered(question, options), letter
        found = value(row, self.choices)
        if isinstance(found, dict):
            found = found["text"] if isinstance(found.get("text"), list) else list(found.values())  # ARC, MedQA
        options = [str(o).strip() for o in found] if isinstance(found, list) else []
        if not 2 <= len(options) <= len(LETTERS):
            raise Fault("no list of options")
        return lettered(question, options), _letter(given, options)


def script_of(question: str) -> str:
    """`zh` for a question with as many words of Chinese as of English, or more; else `en`."""
    words = language.language_words(question)
    return "zh" if words.get("zh", 0) >= max(1, words.get("en", 0)) else "en"


def _cases(given: Any) -> list[dict[str, str]]:
    """Test cases from stdin to stdout: a list of objects, or text that holds one as JSON.

    Raises:
        Skip: the cases call a function.
        Fault: there are none.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise Fault("the tests cannot be read") from None
    if not isinstance(given, list) or not given or not all(isinstance(c, dict) for c in given):
        raise Fault("no list of tests")
    if any(c.get("fn_name") for c in given):
        raise Skip("its tests call a function")
    if not all(isinstance(c.get(k), str) for c in given for k in ("input", "output")):
        raise Fault("a test without input or output")
    return [{"input": c["input"], "output": c["output"]} for c in given]


def float_text(given: Any) -> Any:
    """A float as the text of the number that it is meant to be: 12.0 is 12."""
    if isinstance(given, float):
        return str(int(given)) if given.is_integer() and abs(given) < 1e15 else repr(given)
    return given


def _letter(given: Any, options: list[str]) -> str:
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(options):
        return LETTERS[given]
    text = str(given).strip()
    if text in options:
        return LETTERS[options.index(text)]
    bare = text.strip("().: ").upper()
    if len(bare) == 1 and bare in LETTERS[: len(options)]:
        return bare
    if text.isdecimal() and int(text) < len(options):
        return LETTERS[int(text)]
    raise Fault("the answer is none of the options")


# the task


class Hub(Listed):
    """Problems of a data set on the Hub, or of a local copy of it.

    Args:
        source: a `Source`, or its id or path; `owner/name@revision` names the revision.
        fields: the mapping, or a function of a row that returns an `Item` and raises `Fault` for a row to leave out.
        hold: the split of all rows in place of a hash of each one's content; a benchmark is all `test`.
        data: a local copy to read in place of the Hub.
        check: judges an answer in place of equal `meaning`.

    Raises:
        TaskError: the data cannot be had or read, a column is missing, or most rows are faulty.
    """

    def __init__(
        self,
        source: Source | str,
        fields: Reader | None = None,
        *,
        name: str | None = None,
        hold: Split | None = None,
        data: str | Path | None = None,
        check: Check | None = None,
        vote_key: Callable[[str], str | None] | None = None,
    ):
        if isinstance(source, str):
            source = Source(*hub.named(source))
        self.source, self.reader = source, fields or Fields()
        asked = self.reader if isinstance(self.reader, Fields) else Fields()
        self.open, self.judged = not asked.answer, asked.check == "judge"
        table = read(source, data)
        self.origin = table.origin
        self.left_out: dict[str, int] = {}
        lines = self._lines(table, hold)
        super().__init__(name or source.id, str(data or source.id), lines, check, vote_key)
        mapped = repr(self.reader) if isinstance(self.reader, Fields) else judged_by(self.reader)
        self.version = f"{table.version} {hash64(mapped, hold):016x}{judged_by(check)}"

    def _lines(self, table: Table, hold: Split | None) -> list[Line]:
        """The rows that are problems, each content once; the others are counted."""
        faults: Counter[str] = Counter()
        found: dict[str, Line] = {}
        clash: set[str] = set()
        skipped = 0
        for n, row in enumerate(table.rows):
            try:
                item = self.reader(row)
            except KeyError as error:
                raise TaskError(self._missing(str(error.args[0]), row, n)) from None
            except Fault as fault:
                faults[str(fault)] += 1
                skipped += isinstance(fault, Skip)
                continue
            key = content(item.question)
            line = Line(
                n, item.id or f"row-{n}", key, hold or split_of(key), item.prompt or item.question, item.answer,
                {"row": n, **item.tags},
            )  # fmt: skip
            same = found.setdefault(key, line)
            if same is not line:
                faults["the same question again"] += 1
                if not _equal(same.answer, line.answer):
                    clash.add(key)
        for key in clash:
            del found[key]
            faults["one question with two answers"] += 1
        self.left_out = dict(faults)
        bad = sum(n for why, n in faults.items() if why != "the same question again") - skipped
        if bad > (len(table.rows) - skipped) / 2 or not found:
            why, n = faults.most_common(1)[0]
            raise TaskError(
                f"{self.source.id}: {n} of {len(table.rows)} rows are no problem: {why}\n"
                f"Check which columns are meant; there are: {', '.join(table.rows[0])}."
            )
        return list(found.values())

    def _missing(self, name: str, row: Row, n: int) -> str:
        near = difflib.get_close_matches(name, map(str, row), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{self.source.id}: row {n} has no column {name!r}{hint}\nIt has: {', '.join(map(str, row))}."


def _equal(a: Any, b: Any) -> bool:
    return meaning(a) == meaning(b) if isinstance(a, str) and isinstance(b, str) else bool(a == b)


KEYS = (
    "question", "answer", "choices", "wrong", "after", "prompt", "check", "tier", "gold", "language", "domain", "files",
    "split", "hold",
)  # fmt: skip


def place(name: str, known: tuple[str, ...]) -> tuple[Source, dict[str, str]]:
    """The source and the other keys of `hub:owner/name@revision?key=value&...`; nothing is read.

    Raises:
        TaskError: a key is unknown.
    """
    path, _, query = name.removeprefix(hub.PREFIX).partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise TaskError(
                f"{name}: unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}")
            )  # fmt: skip
    files, split = tuple(filter(None, given.pop("files", "").split(","))), given.pop("split", "")
    return Source(*hub.named(path), files, split), given


ROW_KEYS = ("messages", "prompt", "response", "domain", "files", "split")


def rows_of(name: str) -> tuple[Source, dict[str, str]]:
    """What `hub:owner/name?messages=messages` names, rows to learn from (`stages.public`); nothing is read.

    Raises:
        TaskError: a key is unknown, or neither messages nor prompt and response are given.
    """
    source, given = place(name, ROW_KEYS)
    if ("messages" in given) == ("prompt" in given and "response" in given):
        raise TaskError(f"{name}: say which column holds messages=..., or which hold prompt=...&response=...")
    return source, given


def parsed(name: str) -> tuple[Source, Fields, Split | None]:
    """What `hub:owner/name@revision?question=problem&answer=answer` names, for settings and the command line; nothing is
    read.

    Raises:
        TaskError: a key or a value is unknown, or they do not go together.
    """
    source, given = place(name, KEYS)
    check, hold = given.get("check", "text"), given.pop("hold", None)
    if check not in (*CHECKS, "code", "judge"):
        raise TaskError(f"{name}: check={check}: choose {', '.join(CHECKS)}, code or judge, or leave it out")
    if hold is not None and hold not in SPLITS:
        raise TaskError(f"{name}: hold={hold}: choose train, val or test, or leave it out")
    if (check == "code") != ("gold" in given) or ("tier" in given and check != "code"):
        raise TaskError(f"{name}: check=code goes with gold=COLUMN (a right program), and if you like tier=TIER")
    wrong = tuple(filter(None, given.pop("wrong", "").split(",")))
    return source, Fields(**given, wrong=wrong), hold


def named(name: str) -> Hub:
    """The task of that name. It is read once, and again where a local copy has changed.

    Raises:
        TaskError: see `parsed` and `Hub`.
    """
    local = Path(parsed(name)[0].id)
    files = [local, *sorted(local.rglob("*"))] if local.is_dir() else [local] if local.exists() else []
    return _loaded(name, tuple((str(f), (s := f.stat()).st_mtime_ns, s.st_size) for f in files))


@lru_cache(maxsize=16)
def _loaded(name: str, stamp: tuple[Any, ...]) -> Hub:  # noqa: ARG001
    source, fields, hold = parsed(name)
    return Hub(source, fields, name=name, hold=hold)
