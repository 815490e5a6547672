"""Instructions with constraints that a rule can check: so many words, a list, JSON with given keys."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from random import Random
from typing import Any

from incentive import facts
from incentive.records import Problem, Split
from incentive.tasks.base import drawn

KINDS = ("words", "json", "list", "end")
Ask = tuple[str, tuple[str, ...], tuple[Any, ...]]  # (kind, substances, what the kind needs)
ENDS = {"en": ("thanks", "bye", "done", "enjoy"), "zh": ("谢谢", "再见", "完成", "请用")}
_WORD = re.compile(r"[A-Za-z]+|[0-9]+|[一-鿿]")
_NEVER = {"words": 80, "list": 80, "end": 200, "json": 200}  # longer answers fail unread, in characters


def words(text: str) -> list[str]:
    """English words, numbers, and each Chinese character."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class Instruct:
    name: str = "instruct"
    language: facts.Language = "en"
    kinds: tuple[str, ...] = KINDS

    def draw(self, rng: Random) -> Ask:
        kind = rng.choice(self.kinds)
        pair = tuple(sorted(rng.sample(facts.SUBSTANCES, 2)))
        if kind == "words":
            return kind, pair, (rng.choice(facts.ATTRIBUTES), 3 + int(rng.random() * 6))
        if kind == "json":
            return kind, pair, tuple(rng.sample(facts.ATTRIBUTES, 1 + int(rng.random() * 2)))
        if kind == "list":
            return kind, pair, (2 + int(rng.random() * 3), rng.choice([s for s in facts.SUBSTANCES if s not in pair]))
        return kind, pair, (rng.choice(facts.ATTRIBUTES), int(rng.random() * 4))

    @staticmethod
    def key(ask: Ask) -> str:
        kind, pair, more = ask
        return f"instruct:{kind} {','.join(pair)} {','.join(map(str, more))}"

    def prompt(self, ask: Ask) -> str:
        kind, (a, b), more = ask
        zh = self.language == "zh"
        if kind == "words":
            of = facts.say(more[0], self.language)
            return f"用{more[1]}个字比较 {a} {b} {of}" if zh else f"compare the {of} of {a} and {b} in {more[1]} words"
        if kind == "json":
            keys = ", ".join(facts.say(m, self.language) for m in more)
            return f"用 JSON 写 {a} {b}, 键 {keys}" if zh else f"give {a} and {b} as JSON with keys {keys}"
        if kind == "list":
            n, no = more
            return f"列出{n}个, 要 {a} {b}, 不要 {no}" if zh else f"list {n}, with {a} and {b}, without {no}"
        of, end = facts.say(more[0], self.language), ENDS[self.language][more[1]]
        return f"说 {a} {b} {of}, 结尾 {end}" if zh else f"tell the {of} of {a} and {b}, end with {end}"

    def gold_of(self, ask: Ask) -> str:
        """One answer that keeps the constraint."""
        kind, (a, b), more = ask
        lang = self.language
        if kind == "words":
            body = [a, facts.told(a, more[0], lang), b, facts.told(b, more[0], lang)]
            fill = ["和", "请", "看"] if lang == "zh" else ["and", "so", "see", "here"]
            short = [a, b, facts.say(more[0], lang)[0] if lang == "zh" else more[0]]
            body = short if more[1] == 3 else body
            while len(words(" ".join(body))) < more[1]:
                body.append(fill[len(body) % len(fill)])
            return " ".join(body)
        if kind == "json":
            rows = {s: {facts.say(m, lang): facts.told(s, m, lang) for m in more} for s in (a, b)}
            return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        if kind == "list":
            others = [s for s in facts.SUBSTANCES if s not in (a, b, more[1])]
            return ",".join([a, b, *others[: more[0] - 2]])
        return f"{a} {facts.told(a, more[0], lang)} {b} {facts.told(b, more[0], lang)} {ENDS[lang][more[1]]}"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        ask = drawn(self.draw, self.key, self.name, seed, split, i)
        kind, pair, more = ask
        return Problem(
            id=f"{self.name}/{split}/{seed}/{i}",
            key=self.key(ask),
            prompt=self.prompt(ask),
            answer=self.gold_of(ask),
            tags={"task": self.name, "language": self.language, "kind": kind, "pair": list(pair), "more": list(more)}
            | ({"schema": self.schema(pair, more)} if kind == "json" else {}),
        )

    def schema(self, pair: tuple[str, ...], more: tuple[Any, ...]) -> dict[str, Any]:
        """The JSON Schema of an answer: what its form has to be, whatever the facts in it."""
        colours = [facts.say(c, self.language) for c in facts.COLOURS]
        kinds = {m: {"enum": colours} if m == "colour" else {"type": "string", "pattern": "^[0-9]{1,2}$"} for m in more}

        def whole(properties: dict[str, Any]) -> dict[str, Any]:
            closed = {"type": "object", "additionalProperties": False}
            return closed | {"properties": properties, "required": list(properties)}

        return whole({s: whole({facts.say(m, self.language): kinds[m] for m in more}) for s in pair})

    def check(self, problem: Problem, answer: str) -> bool:
        """Whether the constraint is kept. Facts are checked in JSON only: the rest of an answer is the rubric's."""
        kind, more, (a, b) = (problem.tags[k] for k in ("kind", "more", "pair"))
        answer = answer.strip()
        if len(answer) > _NEVER[kind]:
            return False
        found = words(answer)
        if kind == "words":
            return len(found) == more[1] and a in found and b in found
        if kind == "list":
            parts = [p.strip() for p in answer.split(",")]
            known = all(p in facts.SUBSTANCES for p in parts)
            return known and len(parts) == len(set(parts)) == more[0] and {a, b} <= set(parts) and more[1] not in parts
        if kind == "end":
            return a in found and b in found and answer.endswith(ENDS[self.language][more[1]])
        try:
            rows = json.loads(answer)
        except (ValueError, RecursionError):
            return False
        wanted = {s: {facts.say(m, self.language): facts.told(s, m, self.language) for m in more} for s in (a, b)}
        return bool(rows == wanted)

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        return " ".join(answer.split()) or None
