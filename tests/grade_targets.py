"""A judge that its answer can hang, end or fill."""

from __future__ import annotations

from typing import Any

import pool_targets


def judge(job: dict[str, Any]) -> list[Any]:
    for text in (job["gold"], job["answer"]):
        if text in ("hang", "exit", "memory"):
            pool_targets.act(text)
    return ["pass" if job["gold"] == job["answer"] else "fail", "", None]
