"""What the model wrote: typical answers at several steps side by side, the same test problem before and after, and the
samples that look most like an aha moment. None of it is picked by hand; the rule stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import median_low

from incentive import chat, measure
from incentive.records import Group, Problem, Sample, Score
from incentive.report.markup import Html, amount, details, esc, join, section, tag
from incentive.report.paper import MODELS, title
from incentive.report.read import RunFiles, StageFiles, groups

GROUPS = 64  # read from a file at most
CHARS = 1_600  # of a thought shown
_WORDS = re.compile(rf"\b({'|'.join(sorted({*measure.MINI_WORDS, *measure.PAPER_WORDS}))})\b", re.IGNORECASE | re.ASCII)


def highlight(text: str) -> Html:
    """Escaped text with its reflective words marked."""
    parts = _WORDS.split(text)  # odd places are the words
    return join(tag("mark", p) if i % 2 else esc(p) for i, p in enumerate(parts))


def thinking_of(text: str) -> str:
    return chat.split(text)[0]


def target_of(problem: Problem) -> int | None:
    target = problem.tags.get("target")
    return target if isinstance(target, int) else None


def _asked(problem: Problem) -> str:
    if isinstance(problem.prompt, str):
        return problem.prompt
    return "\n".join(str(m.get("content", "")) for m in problem.prompt)


def right(score: Score) -> bool:
    return score.parts.get("accuracy", 0.0) > 0


def card(head: str, problem: Problem, sample: Sample, score: Score, foot: str = "") -> Html:
    """One response: what was asked, the thinking, the answer, the verdict, the reward's parts."""
    thinking, answer = chat.split(sample.text)
    cut = len(thinking) > CHARS
    shown = highlight(thinking[:CHARS])
    if cut:
        shown = Html(shown + esc(f"\n… {len(thinking) - CHARS:,} more characters"))
    mark = tag("span", "✓ right", cls="yes") if right(score) else tag("span", "✗ wrong", cls="no")
    if "accuracy" not in score.parts:
        mark = tag("span", "not graded")
    parts = ", ".join(f"{name} {amount(value)}" for name, value in score.parts.items())
    ended = "" if sample.stop == "stop" else ", cut at the length cap"
    lines = [f"{len(sample.ids)} tokens{ended}", f"reward: {parts}" if parts else "", score.error or "", foot]
    return tag(
        "div",
        tag("h4", tag("b", head), mark),
        tag("div", _asked(problem)[:CHARS], cls="t asked"),
        tag("div", shown, cls="t") if thinking else tag("p", "(no thinking)", cls="note"),
        tag("div", answer[:400], cls="t answer")
        if answer is not None
        else tag("p", "(no answer in the tags)", cls="note"),
        tag("p", " · ".join(line for line in lines if line), cls="foot"),
        cls="sample",
    )


def typical(group: Group) -> int:
    """Index of the sample of median length, among those with the group's more frequent verdict."""
    verdicts = [right(s) for s in group.scores]
    usual = 2 * sum(verdicts) >= len(verdicts)
    pool = [i for i, v in enumerate(verdicts) if v == usual]
    middle = median_low([len(group.samples[i].ids) for i in pool])
    return next(i for i in pool if len(group.samples[i].ids) == middle)


def _rate(group: Group) -> float:
    return sum(map(right, group.scores)) / len(group.scores)


def _task(group: Group) -> str:
    return str(group.problem.tags.get("task", "task"))


def _pick(found: list[Group], task: str, key: str | None) -> Group | None:
    """The same problem where it is there, else the task's problem whose share of right answers is nearest the mean."""
    own = [g for g in found if _task(g) == task and g.samples]
    if not own:
        return None
    mean = sum(map(_rate, own)) / len(own)
    return next((g for g in own if g.problem.key == key), min(own, key=lambda g: abs(_rate(g) - mean)))


def _shown(head: str, group: Group) -> Html:
    i = typical(group)
    n = sum(map(right, group.scores))
    return card(head, group.problem, group.samples[i], group.scores[i], f"{n} of {len(group.samples)} answers right")


def over_steps(stage: StageFiles) -> Html:
    """First, middle and last rollout, one row for each task."""
    files = stage.rollouts()
    steps = list(files)
    picked = list(dict.fromkeys([steps[0], steps[len(steps) // 2], steps[-1]])) if steps else []
    found = {s: list(groups(files[s], GROUPS)) for s in picked}
    tasks = sorted({_task(g) for gs in found.values() for g in gs})[:4]
    rows = []
    for task in tasks:
        cards, key = [], None
        for step, gs in found.items():
            group = _pick(gs, task, key)
            if group:
                key = key or group.problem.key
                cards.append(_shown(f"step {step:,}", group))
        rows += [tag("h3", f"{task}, stage {stage.name}"), tag("div", join(cards), cls="side")]
    if not rows:
        return Html("")
    rule = (
        "The rollouts that fed the first, the middle and the last stored update. For each task the problem whose "
        "share of right answers is nearest the step's mean, and of its answers the one of median length with the usual "
        "verdict."
    )
    return join([tag("p", rule, cls="note"), *rows])


def _first_of_task(stage: StageFiles) -> dict[str, dict[str, Group]]:
    """Task -> problem key -> group, of the first way of sampling (the headline)."""
    out: dict[str, dict[str, Group]] = {}
    for path in stage.rollouts().values():
        found = list(groups(path, 24))
        if found and _task(found[0]) not in out:
            out[_task(found[0])] = {g.problem.key: g for g in found if g.samples}
    return out


def _through(run: RunFiles) -> dict[str, StageFiles]:
    """The evaluations that are compared: before and after, or every model of a pipeline."""
    by_name = {s.name: s for s in run.stages}
    if {"before", "after"} <= by_name.keys():
        return {name: by_name[name] for name in ("before", "after")}
    return {title(m): by_name[f"eval-{m}"] for m in MODELS if f"eval-{m}" in by_name}


def before_after(run: RunFiles) -> Html:
    """The same test problem through the models: of the first 24, the one with the median gain from the first to the last."""
    compared = _through(run)
    if len(compared) < 2:
        return Html("")
    found = {name: _first_of_task(stage) for name, stage in compared.items()}
    old, *_, new = found.values()
    rows: list[str] = []
    for task in list(old)[:6]:
        both = [k for k in old[task] if k in new.get(task, {})]
        if not both:
            continue
        gains = sorted(both, key=lambda k: _rate(new[task][k]) - _rate(old[task][k]))
        key = gains[len(gains) // 2]
        cards = [_shown(name, by_task[task][key]) for name, by_task in found.items() if key in by_task.get(task, {})]
        rows += [tag("h3", task), tag("div", join(cards), cls="side")]
    if not rows:
        return Html("")
    rule = (
        "Of the first 24 test problems, the one with the median gain; of its answers the one of median length with the "
        "usual verdict."
    )
    words = "before and after" if len(compared) == 2 else "stage by stage"
    return join([tag("h3", f"The same problem, {words}"), tag("p", rule, cls="note"), *rows])


def aha(stage: StageFiles, top: int = 3) -> Html:
    """The best aha samples of up to eight rollouts, spread over the run."""
    files = stage.rollouts()
    steps = list(files)
    spread = sorted({steps[round(i * (len(steps) - 1) / 7)] for i in range(8)}) if steps else []
    found: dict[int, list[Group]] = {s: list(groups(files[s], GROUPS)) for s in spread}
    every: Iterable[Group] = (g for gs in found.values() for g in gs)
    picked = measure.aha(every, top, thinking_of, target_of)
    cards = []
    for sample in picked:
        step, group = next((s, g) for s, gs in found.items() for g in gs if any(x is sample for x in g.samples))
        i = next(i for i, x in enumerate(group.samples) if x is sample)
        words = measure.reflections(thinking_of(sample.text))
        cards.append(card(f"step {step:,}", group.problem, sample, group.scores[i], f"{words} reflective words"))
    if not cards:
        return Html("")
    rule = (
        "Found by rule, not by eye: the first try is wrong, the answer right, and the thought has more reflective "
        "words than its group's mean, repetition counted against it."
    )
    return join(
        [tag("h3", f"Aha moments, stage {stage.name}"), tag("p", rule, cls="note"), tag("div", join(cards), cls="side")]
    )


def samples(run: RunFiles) -> Html:
    trained = run.of("rl")
    shown = {stage.name: join([over_steps(stage), aha(stage)]) for stage in trained}
    parts = list(shown.values())
    if len(trained) > 1:
        parts = [details(f"Stage {title(n)}, over its steps", part) for n, part in shown.items() if part]
    parts.insert(0 if len(trained) > 1 else len(parts), before_after(run))
    if trained and not any(parts):
        parts = [
            tag(
                "p",
                "No rollouts are stored in this run, so there is nothing to show (rl.keep decides what is kept).",
                cls="note",
            )
        ]
    return section("samples", "What it wrote", *parts)
