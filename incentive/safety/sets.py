"""What is asked: harmful requests, and fine ones that look like them. Public sets are read from the Hub or a local copy.

The shipped set (`own`) is 32 pairs in English and Chinese, a harmful request and a look-alike each, in the four categories of
the paper (D.3.2): discrimination, illegal, harmful, ethical. No request holds anything that helps with harm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from incentive.records import Problem
from incentive.tasks import SHIPPED, distinct
from incentive.tasks.hub import Fault, Hub, Item, question_text
from incentive.tasks.rows import Row, Source

OWN = Path(__file__).parents[1] / "assets/safety/prompts.jsonl"
WORLD = ("harm", "harm-zh")
_CODES = {"english": "en", "chinese": "zh", "simplified chinese": "zh"}


def _item(question: object, harmful: bool, row: Row, **tags: object) -> Item:
    found = {k: str(v) for k, v in tags.items() if v}
    language = found.pop("language", "en").lower()
    given = row.get("id") or row.get("BehaviorID")
    return Item(
        question_text(question), "", id=str(given) if given else None,
        tags={"harmful": harmful, "language": _CODES.get(language, language), **found},
    )  # fmt: skip


def _plain(row: Row) -> Item:
    """Our own form: {"prompt": "...", "harmful": true, "language": "en", "category": "..."}."""
    if not isinstance(row["harmful"], bool):
        raise Fault("harmful is neither true nor false")
    return _item(row["prompt"], row["harmful"], row, language=row.get("language"), category=row.get("category"))


def _harmbench(row: Row) -> Item:
    """The authors' CSV (Behavior, ContextString, ...) or the Hub's copy (prompt, context, category)."""
    asked, context = (
        (row["Behavior"], row.get("ContextString")) if "Behavior" in row else (row["prompt"], row.get("context"))
    )
    question = f"{str(context).strip()}\n\n---\n\n{asked}" if context else asked
    return _item(question, True, row, category=row.get("SemanticCategory") or row.get("category"))


def _strongreject(row: Row) -> Item:
    """The authors' CSV (forbidden_prompt) or the Hub's copy (prompt)."""
    asked = row["forbidden_prompt"] if "forbidden_prompt" in row else row["prompt"]
    return _item(asked, True, row, category=row.get("category"))


def _xstest(row: Row) -> Item:
    """250 fine requests that sound harmful, 200 harmful contrasts: by `label`, or by the type's name in older copies."""
    label = str(row.get("label") or "").lower()
    if label not in ("safe", "unsafe"):
        label = "unsafe" if str(row["type"]).startswith("contrast") else "safe"
    return _item(row["prompt"], label == "unsafe", row, category=row.get("type"))


def _aya(row: Row) -> Item:
    """Aya red-teaming: harmful requests that people wrote in eight languages."""
    return _item(
        row["prompt"], True, row, language=row["language"], category=str(row.get("harm_category") or "").strip("[]\"'")
    )


SETS: dict[str, tuple[Source, Callable[[Row], Item]]] = {  # licences: docs/safety.md
    "own": (Source(str(OWN)), _plain),
    "harmbench": (Source("walledai/HarmBench"), _harmbench),  # harmful behaviours: plain, with context, copyright
    "strongreject": (Source("walledai/StrongREJECT"), _strongreject),  # 313 forbidden requests
    "xstest": (Source("walledai/XSTest"), _xstest),
    "aya": (Source("CohereLabs/aya_redteaming"), _aya),
}


def load(name: str, data: str | Path | None = None, n: int | None = None) -> list[Problem]:
    """The prompts of a set, a task of the world (`harm`, `harm-zh`), or a file in our own form; each says `harmful`,
    `language`, `set` and, where it has one, `category`.

    Args:
        data: a local copy of the named set.
        n: only the first so many.

    Raises:
        TaskError: the set cannot be had or read.
    """
    if name in WORLD:
        found = distinct(SHIPPED[name], 0, "test", n or 200)
    else:
        source, read = SETS.get(name, (Source(name), _plain))
        hub = Hub(source, read, name=name, hold="test", data=data)
        found = [hub.posed(line) for line in hub.lines[:n]]
    return [Problem(p.id, p.key, p.prompt, p.answer, {**p.tags, "set": name}) for p in found]
