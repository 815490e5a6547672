"""Rows of public data sets as something to learn from: a teacher's traces, answers to requests that are no reasoning.

Every row is brought into the one form of this package: a thought, then the answer between its tags. A response with a
thought and a last box has that box as its answer and the text before it as its summary; one without a box is all answer;
one without a thought has an empty one, as R1's answers to small talk. Rows that are too long, repeated, or share content
with an evaluation are left out and counted (paper B.3.3, D.1). Data sets are read a part at a time.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

from incentive import chat, curation
from incentive.config import Rows
from incentive.curation import Held, Text
from incentive.files import RunError, write_atomic, write_folder, write_json, write_lines
from incentive.keys import Artifact
from incentive.model.checkpoint import load_tokenizer
from incentive.stage import Stage
from incentive.stages.curate import ROWS_A_FILE, Row, markdown, summary
from incentive.tasks.hub import rows_of, value
from incentive.tasks.jsonl import TaskError
from incentive.tasks.rows import stream
from incentive.verify.benchmarks import last_box

PART = 1000  # rows that are compared with the evaluations at a time


def formed(text: str) -> str | None:
    """A response in this package's form; None where its tags are out of order."""
    if any(text.count(tag) > 1 for tag in chat.TAGS):
        return None
    head, closed, tail = text.partition(chat.END_THINK)
    if not closed:
        thinking, tail = "", text
    elif chat.ANSWER in head or chat.THINK in tail:
        return None
    else:
        thinking = head.replace(chat.THINK, "").strip("\n")
    if chat.ANSWER in tail or chat.END_ANSWER in tail:
        return text if chat.split(text)[1] and closed else None
    if not tail.strip() or (chat.THINK in text and not closed):
        return None
    box = last_box(tail)
    return chat.perfect(thinking, box, tail.strip() + "\n") if closed and box else chat.perfect(thinking, tail.strip())


def read(row: Row, given: dict[str, str]) -> tuple[Any, str] | None:
    """(prompt, response) of a row: its last answer, and all that was said before; None where there is none.

    Raises:
        KeyError: it has no such column.
    """
    if "messages" not in given:
        prompt, response = value(row, given["prompt"]), value(row, given["response"])
        return (prompt, response) if all(isinstance(x, str) and x.strip() for x in (prompt, response)) else None
    turns = value(row, given["messages"])
    if not isinstance(turns, list) or not all(isinstance(m, dict) for m in turns):
        return None
    kinds = {"human": "user", "gpt": "assistant"}  # the other schema of the Hub: from, value
    said = [
        {"role": kinds.get(r := str(m.get("role") or m.get("from")), r), "content": m.get("content") or m.get("value")}
        for m in turns
    ]
    if len(said) < 2 or said[-1]["role"] != "assistant" or not all(isinstance(m["content"], str) for m in said):
        return None
    before = said[:-1]
    if not any(m["role"] == "user" and m["content"].strip() for m in before):
        return None
    alone = len(before) == 1
    return (before[0]["content"] if alone else before), said[-1]["content"]


class _Sieve:
    """Takes rows of sources, leaves out what is not to be learnt from, and counts by domain why.

    Args:
        after_part: called after every `PART` rows.
    """

    def __init__(self, tokenizer: Any, template: str, max_tokens: int, held: Held, after_part: Callable[[], None]):
        self.tokenizer, self.template, self.max_tokens, self.held = tokenizer, template, max_tokens, held
        self.after_part = after_part
        self.counts: dict[str, Counter[str]] = {}
        self.origins: list[dict[str, Any]] = []
        self.seen = set[bytes]()

    def kept(self, name: str) -> Iterator[Row]:
        """The rows of a source that stay, as they are read.

        Raises:
            TaskError: the source cannot be had or read, or lacks a column.
        """
        source, given = rows_of(name)
        origin, rows = stream(source)
        self.origins.append(origin)
        domain = given.get("domain", "general")
        count = self.counts.setdefault(domain, Counter())
        while part := list(islice(rows, PART)):
            count["added"] += len(part)
            found: list[Row] = []
            for row in part:
                try:
                    made = _row(row, given, domain)
                except KeyError as error:
                    has = ", ".join(map(str, row))
                    raise TaskError(f"{source.id}: no column {error.args[0]!r}\nIt has: {has}.") from None
                why = made if isinstance(made, str) else self._unfit(made)
                if why:
                    count[why] += 1
                elif isinstance(made, dict):
                    found.append(made)
            texts = [Text(chat.text_of(r["prompt"]), r["response"], None) for r in found]
            for row, shared in zip(found, curation.contaminated(texts, self.held), strict=True):
                if shared is None:
                    yield row
                else:
                    count[f"contaminated: {shared.set}"] += 1
            self.after_part()

    def _unfit(self, row: Row) -> str:
        """Why a row in our form is dropped; empty where it is not. Counts its tokens."""
        if _repeated(row, self.seen):
            return "duplicate"
        row["tokens"] = self._tokens(row["response"]) + 1  # the stop token
        asked = self._tokens(chat.render(self.template, row["prompt"], self.tokenizer))
        return "too long" if row["tokens"] + asked > self.max_tokens else ""

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def public(
    stage: Stage,
    section: Rows,
    start: Artifact | None = None,
    data: Collection[Any] = (),  # noqa: ARG001
    *,
    template: str = "mini",
    held: Held = Held(),  # noqa: B008
    show: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Artifact:
    """Rows of the section's sources in dataset/, with results.json and results.md as `curate` writes them.

    Args:
        start: the model that will learn from them: its tokenizer counts.

    Raises:
        TaskError: a source cannot be had or read, or lacks a column.
        RunError: nothing was left.
    """
    assert start is not None
    tokenizer = load_tokenizer(start.path)
    stage.resume()
    light: list[Row] = []  # what the summary needs of each row
    began = time.monotonic()

    def after_part() -> None:
        total = max(len(light), section.rows * len(section.sources))
        show({"phase": stage.dir.name, "done": len(light), "total": total})

    sieve = _Sieve(tokenizer, template, section.max_tokens, held, after_part)
    with write_folder(stage.dir / "dataset") as folder:
        every = (row for name in section.sources for row in islice(sieve.kept(name), section.rows or None))
        for number in range(1, 10**6):
            if not (shard := list(islice(every, ROWS_A_FILE))):
                break
            write_lines(folder / f"{number:06d}.jsonl.zst", shard)
            light += [{**r, "prompt": _turns(r["prompt"]), "response": ""} for r in shard]
        if not light:
            counts = sum(sieve.counts.values(), Counter())
            dropped = ", ".join(f"{why} {n}" for why, n in counts.items() if why != "added")
            raise RunError(f"no row is left to learn from ({dropped or 'there was none'})")
    results = summary(light, sieve.counts) | {
        "held": {name: len(texts) for name, texts in held.sets.items()},
        "ngram": held.n,
    }
    write_json(stage.dir / "results.json", results | {"sources": sieve.origins})
    write_atomic(stage.dir / "results.md", markdown(results))
    stage.record({"step": 1, "kept": len(light), "time/read": time.monotonic() - began})
    return Artifact("dataset", stage.dir / "dataset", meta={"kept": len(light), "results": results})


def _turns(prompt: Any) -> Any:
    return "" if isinstance(prompt, str) else [{"role": m["role"]} for m in prompt]


def _row(row: Row, given: dict[str, str], domain: str) -> Row | str:
    """The row in our form, or why it is dropped."""
    said = read(row, given)
    if said is None:
        return "no answer"
    response = formed(said[1])
    return "tags" if response is None else {"prompt": said[0], "response": response, "domain": domain}


def _repeated(row: Row, seen: set[bytes]) -> bool:
    """Whether a row says what one in `seen` said; it is seen from now on."""
    text = curation.same(f"{chat.text_of(row['prompt'])}\n{row['response']}")
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
    if key in seen:
        return True
    seen.add(key)
    return False
