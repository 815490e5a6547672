"""What a base model can do, skill by skill, on problems that its corpus does not contain.

A base that cannot verify learns shortcuts from RL; so the skills are measured one by one before any RL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from incentive import chat, engine, measure
from incentive.config import Engine, Sampling
from incentive.files import write_json
from incentive.keys import Artifact
from incentive.model.checkpoint import load_policy, resolve
from incentive.records import Group
from incentive.stage import Stage
from incentive.stages.evaluate import PROBLEMS, ask, results, thinking_of
from incentive.tasks import SHIPPED, distinct
from incentive.tasks.countdown import Countdown
from incentive.tasks.expression import canonical, parse

TASKS = ("countdown3", "countdown4", "arithmetic", "logic")
FIRST_WORLD = "Its world is Countdown, short arithmetic and a logic puzzle, with numbers to 99."
WIDE_WORLD = (
    "Its world is Countdown, short arithmetic, a logic puzzle, functions of one number, facts on forty made-up substances and\n"
    "talk about them, in English and Chinese, with numbers to 99."
)
WIDE = (*TASKS, "countdown3-zh", "program", "program-zh", "choice", "choice-zh", "instruct", "general", "harm")


def _share(flags: list[bool]) -> dict[str, Any]:
    low, high = measure.wilson(sum(flags), len(flags)) if flags else (None, None)
    return {"value": sum(flags) / len(flags) if flags else None, "ci95": [low, high], "n": len(flags)}


def _chain(steps: str) -> str | None:
    """The canonical expression of the steps `3+7=10,10*2=20`, if each starts from the last result."""
    text = last = ""
    for step in steps.split(","):
        left, _, result = step.partition("=")
        if not text:
            text = left
        elif left.startswith(last):
            text = f"({text}){left[len(last) :]}"
        else:
            return None
        last = result
    tree = parse(text)
    return None if tree is None else canonical(tree)


def _numbers(steps: str) -> list[int]:
    """The numbers that a chain takes from outside: both of its first step, then the second of each."""
    out: list[int] = []
    for n, step in enumerate(steps.split(",")):
        operands = [
            int(x) for x in step.partition("=")[0].replace("+", " ").replace("*", " ").replace("-", " ").split()
        ]
        out += operands if n == 0 else operands[1:]
    return out


def skills(groups: list[Group]) -> dict[str, Any]:
    """Shares with 95% intervals (Wilson), over tries and checks in the answers to Countdown problems.

    arithmetic: computations that are true. numbers: tries that use exactly the given numbers. check: precision and
    recall of "yes" against the value reached. copying: after a "yes", the answer is that try. goes on: after a "no",
    another try follows.
    """
    true, used, copied, onward = [], [], [], []
    said_right, hit_said = [], []
    for g in groups:
        target, numbers = g.problem.tags["target"], sorted(g.problem.tags["numbers"])
        for sample in g.samples:
            tries = measure.tries(thinking_of(sample.text))
            for n, t in enumerate(tries):
                for step in t.steps.split(","):
                    left, _, result = step.partition("=")
                    tree = parse(left)
                    true.append(tree is not None and not isinstance(tree, int) and _value(left) == int(result))
                used.append(sorted(_numbers(t.steps)) == numbers)
                if t.verdict == "yes":
                    said_right.append(t.value == target)
                    answer = chat.split(sample.text)[1]
                    if answer is not None:
                        tree = parse(answer)
                        copied.append(tree is not None and canonical(tree) == _chain(t.steps))
                elif t.verdict == "no":
                    onward.append(n + 1 < len(tries))
                if t.verdict is not None and t.value == target:
                    hit_said.append(t.verdict == "yes")
    return {
        "arithmetic": _share(true),
        "uses the given numbers": _share(used),
        "check: precision of yes": _share(said_right),
        "check: recall of yes": _share(hit_said),
        "copies a try it called right": _share(copied),
        "goes on after a no": _share(onward),
    }


def _value(text: str) -> int | None:
    from incentive.tasks.expression import value

    tree = parse(text)
    return None if tree is None else value(tree)


def measure_skills(
    stage: Stage,
    section: Any = None,  # noqa: ARG001  the stage protocol
    start: Artifact | None = None,
    data: Collection[Any] = (),  # noqa: ARG001
    *,
    names: tuple[str, ...] = TASKS,
    problems: int = 200,
    samples: int = 8,
    show: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Artifact:
    """Skill table of a base on val problems at temperature 1; writes skills.json."""
    assert start is not None
    policy, tokenizer = load_policy(start.path)
    player = engine.local(policy, tokenizer, resolve(start.path), Engine())
    sampling, done = Sampling(max_tokens=320), 0
    out: dict[str, Any] = {"skills": {}, "tasks": {}}
    countdown: list[Group] = []

    def count(_: Any) -> None:
        nonlocal done
        done += 1
        if done % 64 == 0:
            show({"phase": "skills", "done": done, "total": len(names) * problems * samples})

    for name in names:
        drawn = distinct(SHIPPED[name], PROBLEMS, "val", problems)
        groups = ask(player, tokenizer, SHIPPED[name], drawn, samples, sampling, stage.seed, "mini", count)
        found = results(groups, SHIPPED[name])
        keep = ("pass@1", f"pass@{samples}", "ci95", "format", "mean_tokens", "reflections_per_response")
        out["tasks"][name] = {k: found[k] for k in keep}
        if isinstance(SHIPPED[name], Countdown):
            countdown += groups
    out["skills"] = skills(countdown)
    write_json(stage.dir / "skills.json", out)
    return Artifact("eval", stage.dir / "skills.json", meta=out)


def model_card(name: str, found: dict[str, Any], about: dict[str, Any]) -> str:
    """The base's model card in Markdown: what it is, how it was made, what it can do."""
    rows = [f"| {name} | {_percent(v)} | {v['n']} |" for name, v in found["skills"].items()]
    tasks = [
        f"| {n} | {t['pass@1']:.1%} ({t['ci95'][0]:.1%} to {t['ci95'][1]:.1%}) | {t['pass@8']:.1%} | {t['format']:.0%} "
        f"| {t['mean_tokens']:.0f} | {t['reflections_per_response']:.2f} |"
        for n, t in found["tasks"].items()
    ]
    facts = "\n".join(f"- {k}: {v}" for k, v in about.items())
    return f"""---
license: apache-2.0
library_name: transformers
tags: [incentive, base-model]
---
# {name}

A base language model of the miniature world, made from nothing by `incentive`: a small Llama,
pretrained on made-up documents in which people solve problems with every habit. It can compute, check a try against the
target and start again, and mostly does not: it is the raw material for R1-Zero, not a solver.

{facts}

## Skills on unseen problems (val split, temperature 1)

| skill | share (95% interval) | n |
|---|---|---|
{chr(10).join(rows)}

| task | pass@1 | pass@8 | well-formed | mean tokens | reflections a response |
|---|---|---|---|---|---|
{chr(10).join(tasks)}

The problems of the val and test splits do not occur in its corpus: splits are a hash of a problem's content, and
`corpus_keys.npy` holds the hashes of all problems that the corpus solves.

## Limits

{WIDE_WORLD if "program" in found["tasks"] else FIRST_WORLD} It knows nothing else.
"""


def _percent(v: dict[str, Any]) -> str:
    if v["value"] is None:
        return "none seen"
    return f"{v['value']:.1%} ({v['ci95'][0]:.1%} to {v['ci95'][1]:.1%})"
