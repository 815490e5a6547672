"""Problems from a Hugging Face data set, or from a local copy of the same schema.

    Hub("openai/gsm8k@740312a...", Fields(question="question", answer="answer"))
    Hub("my-copy/", Fields(question="problem", choices="options", answer="label"))

A data set is named by its Hub id and a revision; what was read is recorded by commit and by the hash of each file. A
local copy is a file or a folder of parquet, jsonl, json or csv files. A problem's content is its question (and its
options), so the same question in a JSONL file and in a data set is found, and its split is a hash of that content.

Public data has faulty rows. They are left out and counted by reason; where most rows are faulty the mapping is wrong,
and that is an error. The only file that imports huggingface_hub and pyarrow, and both late (extra `hub`).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qsl

from incentive.records import SPLITS, Split, hash64, split_of
from incentive.tasks.jsonl import (
    CHECKS,
    Check,
    Line,
    Listed,
    TaskError,
    answer_text,
    as_object,
    content,
    judged_by,
    meaning,
)

FORMATS = (".parquet", ".jsonl", ".json", ".csv")
Row = dict[str, Any]
LETTERS = string.ascii_uppercase


# where rows come from


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: on the Hub (`owner/name`, a revision), or a local file or folder.

    `files` are glob patterns of what to read (by default every parquet, jsonl, json and csv file); `split` keeps those
    whose name says so, as `train` does for `data/train-00000-of-00001.parquet`.
    """

    id: str
    revision: str = "main"
    files: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order of the files, and what they were read from."""

    rows: list[Row]
    origin: dict[str, Any] = field(default_factory=dict)  # {"dataset", "revision", "files": {name: sha256}}

    @property
    def version(self) -> str:
        """A hash of what was read, wherever it lay."""
        return hashlib.sha256(json.dumps(sorted(self.origin["files"].values())).encode()).hexdigest()[:16]


def read(source: Source, data: str | Path | None = None) -> Table:
    """All rows of a data set.

    Args:
        data: a local copy to read in place of the Hub.

    Raises:
        TaskError: it cannot be had or read; the message says what to do.
    """
    local = Path(data) if data is not None else Path(source.id)
    if data is not None and not local.exists():
        raise TaskError(f"{data}: no such file or folder\nGive a local copy of {source.id}: {', '.join(FORMATS)}.")
    given = local.exists()
    root, commit = (local, None) if given else _snapshot(source)
    paths = [root] if root.is_file() else _chosen(root, source, strict=data is None)
    rows: list[Row] = []
    for path in paths:
        rows += _rows(path)
    if not rows:
        raise TaskError(f"{root}: the files hold no rows")
    names = {p.name if p == root else p.relative_to(root).as_posix(): _sha256(p) for p in paths}
    return Table(rows, {"dataset": source.id, "revision": commit or "local copy", "files": names})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chosen(root: Path, source: Source, strict: bool) -> list[Path]:
    """The data files of a folder, in order of their names. A local copy may name its files as it likes: where the
    patterns or the split match none, all are read."""
    names = {p: p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.suffix in FORMATS}
    about = ("dataset_infos.json", "dataset_info.json", "state.json")
    found = [p for p, name in names.items() if p.name not in about and not f"/{name}".count("/.")]
    wanted = [p for p in found if not source.files or any(fnmatch(names[p], f) for f in source.files)]
    if source.split:
        word = re.compile(rf"(?:^|[^a-z]){re.escape(source.split)}(?![a-z])")
        wanted = [p for p in wanted if word.search(names[p])]
    if not wanted and not strict:
        wanted = found
    if not wanted:
        what = " ".join(source.files) or f"{source.split or 'data'} file"
        have = ", ".join(names[p] for p in found[:6]) or "none of " + ", ".join(FORMATS)
        raise TaskError(f"{source.id}: no {what} in {root.name}\nThere is: {have}.")
    return wanted


def _snapshot(source: Source) -> tuple[Path, str]:
    """The folder of a data set in the local cache, fetched where it is not there yet, and its commit.

    Raises:
        TaskError: it is no id, the Hub knows none of that name, it is gated, or the Hub cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source.id):
        raise TaskError(f"{source.id}: no such file or folder, and no data set's id (owner/name)")
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import snapshot_download
    except ImportError:
        raise TaskError(
            "reading from the Hub needs huggingface_hub\nInstall it: pip install 'incentive[hub]'"
        ) from None
    at = f"data set {source.id} at {source.revision[:12]}"
    instead = "or give a local copy of the same schema (parquet, jsonl, json or csv)"
    patterns = list(source.files) or [f"*{suffix}" for suffix in FORMATS]
    try:
        folder = snapshot_download(source.id, repo_type="dataset", revision=source.revision, allow_patterns=patterns)
    except hub.GatedRepoError:
        page = f"https://huggingface.co/datasets/{source.id}"
        raise TaskError(
            f"{at}: its owner asks for an agreement\nAccept it at {page} and run `hf auth login`, {instead}."
        ) from None
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        raise TaskError(f"{at}: the Hub has none, or it is private\nCheck id and revision, {instead}.") from None
    except hub.LocalEntryNotFoundError:
        raise TaskError(
            f"{at}: not in the local cache, and the Hub cannot be reached\nRun this once with a connection, {instead}."
        ) from None
    except Exception as error:  # the client raises the kinds of its HTTP library; all mean the same to a user
        why = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise TaskError(f"{at}: {why}\nTry again, {instead}.") from None
    return Path(folder), Path(folder).name


# files


def _rows(path: Path) -> list[Row]:
    """The rows of one file.

    Raises:
        TaskError: it cannot be read; the message names the file and, where there are lines, the line.
    """
    try:
        if path.suffix == ".parquet":
            return _parquet(path)
        if path.suffix == ".csv":
            csv.field_size_limit(2**31 - 1)
            with path.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file))
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if path.suffix == ".jsonl":
            return [as_object(x, f"{path}:{n}") for n, x in enumerate(data.split(b"\n"), 1) if x.strip()]
        found = json.loads(data)
    except OSError as error:
        raise TaskError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{path}: not valid {path.suffix[1:].upper()}: {str(error)[:120]}") from None
    if isinstance(found, dict):  # {"data": [...]} and the like: the one list of objects in it
        found = next((v for v in found.values() if isinstance(v, list) and v and isinstance(v[0], dict)), None)
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise TaskError(f"{path}: not a list of objects")
    return found


def _parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TaskError(f"{path}: parquet needs pyarrow\nInstall it: pip install 'incentive[hub]'") from None
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{path}: not valid parquet: {str(error).splitlines()[0][:120]}") from None


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
    order of their own, so a hash of the content shuffles them. `check` names how answers are compared, as in a JSONL file.
    """

    question: str = "question"
    answer: str = "answer"
    choices: str = ""
    wrong: tuple[str, ...] = ()
    after: str = ""
    prompt: str = "{question}"
    check: str = ""

    def __call__(self, row: Row) -> Item:
        question, given = question_text(value(row, self.question)), value(row, self.answer)
        tags = {k: row[k] for k in ("level", "subject", "difficulty") if isinstance(row.get(k), str | int)}
        if self.check:
            tags |= {"check": self.check, "tolerance": 0.0}
        if self.choices or self.wrong:
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
            path, _, revision = source.partition("@")
            source = Source(path, revision or "main")
        self.source, self.reader = source, fields or Fields()
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
        near = difflib.get_close_matches(name, row, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{self.source.id}: row {n} has no column {name!r}{hint}\nIt has: {', '.join(map(str, row))}."


def _equal(a: Any, b: Any) -> bool:
    return meaning(a) == meaning(b) if isinstance(a, str) and isinstance(b, str) else bool(a == b)


def named(name: str) -> Hub:
    """The task that `hub:owner/name@revision?question=problem&answer=answer` names, for settings and the command line.

    Keys: question, answer, choices, wrong (columns, joined by commas), after, prompt, check, files, split, hold.

    Raises:
        TaskError: a key is unknown, or see `Hub`.
    """
    place, _, query = name.removeprefix("hub:").partition("?")
    given = dict(parse_qsl(query))
    known = ("question", "answer", "choices", "wrong", "after", "prompt", "check", "files", "split", "hold")
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise TaskError(
                f"{name}: unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}")
            )  # fmt: skip
    if given.get("check", "text") not in CHECKS:
        raise TaskError(f"{name}: check={given['check']}: choose {', '.join(CHECKS)}, or leave it out")
    hold = given.pop("hold", None)
    if hold is not None and hold not in SPLITS:
        raise TaskError(f"{name}: hold={hold}: choose train, val or test, or leave it out")
    files, split = tuple(filter(None, given.pop("files", "").split(","))), given.pop("split", "")
    wrong = tuple(filter(None, given.pop("wrong", "").split(",")))
    path, _, revision = place.partition("@")
    source = Source(path, revision or "main", files, split)
    return Hub(source, Fields(**given, wrong=wrong), name=name, hold=hold)
