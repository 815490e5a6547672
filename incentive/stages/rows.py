"""Rows that are no reasoning, written by the world's people: the miniature's other data, where `stages.public` reads public data."""

from __future__ import annotations

from typing import Any

from incentive import chat
from incentive.corpus import Habits, document
from incentive.files import write_folder, write_lines
from incentive.keys import Artifact
from incentive.stage import Stage


def rows(stage: Stage, section: None, start: Artifact | None = None, data: Any = (), *, n: int, seed: int) -> Artifact:  # noqa: ARG001
    """Rows that are no reasoning: how the world's people answer general requests and requests to do harm, with all their
    faults. In the place of the paper's rows from another model."""
    found: list[dict[str, str | None]] = []
    i = 0
    while len(found) < n:
        d = document(seed + 1_000_003, i, Habits(wide=True))
        i += 1
        kind = (d.key or "").partition(":")[0]
        if kind in ("general", "harm"):
            thinking, answer = chat.split(d.response)
            if answer and answer != "none":
                text = chat.perfect(thinking, answer)
                found.append({"prompt": d.prompt, "response": text, "domain": kind, "key": d.key})
    with write_folder(stage.dir / "rows") as folder:
        write_lines(folder / "000001.jsonl.zst", found)
    return Artifact("dataset", stage.dir / "rows", meta={"rows": len(found), "written_by": "a program"})
