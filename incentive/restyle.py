"""The miniature's rewriter, by rules, in the place of the model that rewrites at scale (paper B.3.2, 4.1 steps 4 to 6).

A right answer of R1-Zero becomes a first-person thought, which says what is wanted and tells its tries as "I try", and a
summary for the reader between the thinking and the answer. Nothing is added to what was computed, and nothing is left out.
"""

from __future__ import annotations

from incentive import chat
from incentive.records import Problem

WORDS = {
    "en": {"want": "I want {}", "try": "I try ", "so": "so {}, it is"},
    "zh": {"want": "我要 {}", "try": "我试 ", "so": "所以 {}, 答案是"},
}


def restyle(problem: Problem, response: str) -> str | None:
    """The response rewritten; None where there is no thought to rewrite, or it is no answer."""
    thinking, answer = chat.split(response)
    if answer is None or not thinking:
        return None
    words = WORDS[problem.tags["language"]]
    lines = [f"{words['try']}{line.strip()}" for line in thinking.split("\n") if line.strip()]
    if "target" in problem.tags:
        lines.insert(0, words["want"].format(problem.tags["target"]))
    found = thinking.split("\n")[-1].partition("?")[0].strip()  # the work of the last try, without its check
    told = words["so"].format(found)
    return chat.perfect("\n".join(lines), answer, f"{told} ")
