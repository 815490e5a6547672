"""Language mixing: in which languages a model thinks, beside the prompt's (docs/language.md has the rule).

Remedy: the reward `language`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from incentive import chat, language, measure
from incentive.limits import graded
from incentive.records import Group, to_json

PRESENT = 0.05  # of the words: from here on a language is one of a thought's


def mixing(groups: Sequence[Group]) -> dict[str, Any] | None:
    """How one task's thoughts keep to the prompts' language; None where its problems name none.

    `mixed` is the share of thoughts with words in which two or more languages have 5% of the words each.
    """
    spoken = [(g.problem.tags["language"], g) for g in groups if "language" in g.problem.tags]
    if not spoken:
        return None
    thoughts = [(chat.split(s.text)[0], target) for target, g in spoken for s in g.samples]
    found = language.consistency(thoughts)
    words: dict[str, int] = {}
    mixed, worded = 0, 0
    for thinking, _ in thoughts:
        counts = language.language_words(thinking)
        total = sum(counts.values())
        worded += total > 0
        mixed += sum(n >= PRESENT * total for n in counts.values()) > 1 if total else 0
        for name, n in counts.items():
            words[name] = words.get(name, 0) + n
    shares = []
    for target, g in spoken:
        told = [language.language_share(chat.split(s.text)[0], target) for s in g.samples]
        if known := [x for x in told if x is not None]:
            shares.append(float(np.mean(known)))
    right = graded.shares([g for _, g in spoken])
    return {
        "target": spoken[0][0],
        "words": dict(sorted(words.items(), key=lambda item: -item[1])),
        "mixed": mixed / worded if worded else None,
        "ci95": list(measure.share_interval(shares)) if shares else None,
        "right": float(np.mean(right)),
        **to_json(found),
    }
