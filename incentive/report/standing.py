"""How the models of a pipeline stand beside each other and beside the paper's: means, differences, signs. Data, no markup.

What compares with the paper is the sign of a difference between two stages and its size, not a level: its benchmarks are
others and its model is a million times larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from incentive.report.markup import amount, real, share
from incentive.report.paper import CHAIN, KINDS, MODELS, kind_of, title
from incentive.report.read import RunFiles, fields, tested

Results = dict[str, Any]
Models = dict[str, dict[str, Results]]  # model -> task -> results


def models(run: RunFiles) -> Models:
    """Every evaluated model in the order of the pipeline; summary.json stands in for a lost results.json."""
    found = {s.name.removeprefix("eval-"): s.results for s in run.stages if s.name.startswith("eval-") and s.results}
    for name, results in fields(run.summary.get("table")).items():
        if known := tested(results):
            found.setdefault(name, known)
    order = list(MODELS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def framed(found: Models) -> Models:
    """With every stage of the paper's in its place, those that were not evaluated yet empty."""
    return {m: found.get(m, {}) for m in (*CHAIN, *(m for m in found if m not in CHAIN))}


def tasks_of(found: Models) -> list[str]:
    """Every task, kind by kind in the paper's order, English beside Chinese."""
    names = list(dict.fromkeys(t for by_task in found.values() for t in by_task))
    order = [*KINDS, None]
    return sorted(names, key=lambda t: (order.index(kind_of(t)), names.index(t)))


@dataclass(frozen=True, slots=True)
class Score:
    """A mean of pass@1 over tasks, with a 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, results: Iterable[Results | None]) -> Score | None:
        """None where one of the tasks was not evaluated. Half-widths of independent tasks add up by their squares."""
        parts = []
        for r in results:
            pair = (r or {}).get("ci95")
            if r is None or (p := real(r.get("pass@1"))) is None or not isinstance(pair, list) or len(pair) != 2:
                return None
            parts.append((p, float(pair[0]), float(pair[1])))
        if not parts:
            return None
        n = len(parts)
        mean = sum(p for p, _, _ in parts) / n
        down = math.sqrt(sum((p - low) ** 2 for p, low, _ in parts)) / n
        up = math.sqrt(sum((high - p) ** 2 for p, _, high in parts)) / n
        return cls(mean, mean - down, mean + up)

    def minus(self, other: Score) -> Score:
        """Newcombe's interval of a difference (square and add). It takes the problems as unpaired, so it is cautious:
        both models were asked the same ones."""
        d = self.value - other.value
        down = math.hypot(self.value - self.low, other.high - other.value)
        up = math.hypot(self.high - self.value, other.value - other.low)
        return Score(d, d - down, d + up)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean_of(found: Models, model: str, kind: str) -> Score | None:
    tasks = [t for t in tasks_of(found) if kind_of(t) == kind]
    return Score.of(found.get(model, {}).get(t) for t in tasks)


def points(x: float) -> str:
    """A signed difference of two shares, in points of 100."""
    text = f"{100 * x:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


# differences between neighbouring stages


@dataclass(frozen=True)
class Step:
    """One kind of benchmark from one stage to the next: ours, the paper's, and whether the signs agree."""

    kind: str
    old: str
    new: str
    ours: Score
    theirs: dict[str, float]  # benchmark -> difference in points of 100

    @property
    def their_sign(self) -> int | None:
        """None where the paper has no number, 0 where its benchmarks differ in sign."""
        signs = {(d > 0) - (d < 0) for d in self.theirs.values()}
        return None if not signs else signs.pop() if len(signs) == 1 else 0

    @property
    def verdict(self) -> str:
        theirs, ours = self.their_sign, self.ours.sign
        if theirs is None:
            return "no number in the paper"
        if theirs == 0:
            return "the paper's signs differ"
        return "as the paper" if ours == theirs else "not clear here" if ours == 0 else "against the paper"


def steps(found: Models) -> list[Step]:
    out = []
    for name, kind in KINDS.items():
        for old, new in pairwise(CHAIN):
            a, b = mean_of(found, old, name), mean_of(found, new, name)
            if a and b:
                theirs = {t.name: t.scores[new] - t.scores[old] for t in kind.theirs if {old, new} <= t.scores.keys()}
                out.append(Step(name, old, new, b.minus(a), theirs))
    return out


def sizes(values: Sequence[float]) -> str:
    """`−30.1 to −1.7`, or one value."""
    said = [points(v / 100) for v in sorted(values)]
    return said[0] if len(said) == 1 else f"{said[0]} to {said[-1]}"


QUESTIONS = (
    ("R1-Zero above its base at reasoning", "reasoning", "base", "zero", 1),
    ("Dev1 below R1-Zero at reasoning: what readability costs", "reasoning", "zero", "dev1", -1),
    ("Dev1 above R1-Zero at following instructions", "instruct", "zero", "dev1", 1),
    ("Dev2 above Dev1 at reasoning: what RL wins back", "reasoning", "dev1", "dev2", 1),
    ("Dev3 above Dev2 at following instructions", "instruct", "dev2", "dev3", 1),
    ("R1 above Dev3 at general requests", "general", "dev3", "r1", 1),
)


def answers(found: Models) -> list[tuple[str, str, str, str]]:
    """(what the paper saw, ours, the paper's sizes, seen here: yes, no, not clear) of its main readings."""
    out = []
    for text, kind, old, new, sign in QUESTIONS:
        a, b = mean_of(found, old, kind), mean_of(found, new, kind)
        if a is None or b is None:
            out.append((text, "not measured yet", _theirs(kind, old, new), "–"))
            continue
        d = b.minus(a)
        seen = "yes" if d.sign == sign else "not clear" if d.sign == 0 else "no, the other way"
        out.append((text, f"{points(d.value)} ({points(d.low)} to {points(d.high)})", _theirs(kind, old, new), seen))
    best = {m: s for m in CHAIN if (s := mean_of(found, m, "instruct"))}
    if "r1" in best and len(best) > 1:
        top = max(best, key=lambda m: best[m].value)
        seen = "yes" if top == "r1" else "not clear" if best[top].minus(best["r1"]).sign == 0 else "no"
        ours = f"best: {title(top)}, {share(best[top].value)}; R1 {share(best['r1'].value)}"
        out.append(("R1 best of all at following instructions", ours, "R1 83.3, next Dev3 78.1", seen))
    return out


def _theirs(kind: str, old: str, new: str) -> str:
    found = [t.scores[new] - t.scores[old] for t in KINDS[kind].theirs if {old, new} <= t.scores.keys()]
    return sizes(found) if found else "no number"


# language and length


def consistent(found: Models, model: str, language: str) -> float | None:
    """Share of consistent thoughts over the tasks of a language that the rules check, by thoughts that have a word."""
    right = told = 0.0
    for task, r in found.get(model, {}).items():
        said = r.get("language")
        mine = kind_of(task) in ("reasoning", "code", "choice") and task.endswith("-zh") == (language == "zh")
        if mine and isinstance(said, dict) and (c := real(said.get("consistent"))) is not None:
            n = (real(said.get("thoughts")) or 0.0) * (1 - (real(said.get("wordless")) or 0.0))
            right, told = right + c * n, told + n
    return right / told if told else None


def mean_tokens(found: Models, model: str, kind: str) -> float | None:
    values = [real(r.get("mean_tokens")) for t, r in found.get(model, {}).items() if kind_of(t) == kind]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


Quantity = tuple[str, Callable[[str], float | None], Callable[[Any], str]]


def quantities(found: Models) -> list[Quantity]:
    """What stands below the scores: name, its value for a model, how it is said."""
    out: list[Quantity] = [
        (f"consistent thoughts, {said}", partial(consistent, found, language=code), share)
        for code, said in (("en", "English prompts"), ("zh", "Chinese prompts"))
    ]
    out += [
        (f"mean tokens, {kind.title}", partial(mean_tokens, found, kind=name), amount) for name, kind in KINDS.items()
    ]
    return [q for q in out if any(q[1](m) is not None for m in found)]


# contamination


def contaminated(found: Models, task: str) -> str:
    """`0 of 1000` problems of a task that any model has met in training; empty where it was not checked."""
    checks = [c for by_task in found.values() if isinstance(c := by_task.get(task, {}).get("contaminated"), dict)]
    if not checks:
        return ""
    worst = max(checks, key=lambda c: c.get("met", 0))
    unknown = any(n is None for c in checks for n in (c.get("sets") or {}).values())
    return f"{worst.get('met')} of {worst.get('of')}{', corpus unknown' if unknown else ''}"


def marked(r: Results) -> str:
    c = r.get("contaminated")
    return f", {c['met']} seen" if isinstance(c, dict) and c.get("met") else ""
