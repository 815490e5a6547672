"""R1's limits as the paper lists them, measured on a model: what `incentive limits` does.

One file a limit, each a pure function of graded groups; this one asks the model and writes `limits.json` and `limits.html`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incentive import chat
from incentive.config import ConfigError, Sampling
from incentive.files import write_atomic, write_json
from incentive.records import Group, Problem, Sample, Split

SHOTS = (1, 3)
DEFAULTS: dict[str, tuple[str, ...]] = {  # limit -> the tasks that it asks, where none is given
    "overthinking": ("countdown3", "countdown4", "arithmetic"),
    "sensitivity": ("countdown3", "arithmetic"),
    "mixing": ("countdown3", "countdown3-zh"),
    "tools": ("sums",),
    "structured": ("instruct-json",),
}
LIMITS = tuple(DEFAULTS)


@dataclass(frozen=True)
class Asked:
    """How a model is asked: every limit in the same way."""

    model: str
    problems: int
    samples: int
    seed: int
    split: Split
    how: Sampling
    template: str
    threads: int


def chosen(only: Sequence[str], tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The limits to measure and the tasks of each.

    Raises:
        ConfigError: there is no such limit.
    """
    for name in only:
        if name not in DEFAULTS:
            raise ConfigError(
                f"--only {name!r}: there is no such limit\nChoose {', '.join(LIMITS)}; repeat it for several."
            )
    return {name: tuple(tasks) or DEFAULTS[name] for name in (only or LIMITS)}


def measure_limits(
    asked: Asked,
    only: Sequence[str] = (),
    tasks: Sequence[str] = (),
    count: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Ask the model, limit by limit.

    Args:
        only: these limits; all where it is empty.
        tasks: in place of each limit's own.

    Raises:
        ConfigError, TaskError, CheckpointError, RewardError: the user's to mend.
    """
    from incentive import tasks as known
    from incentive.tasks.base import Task

    plan = chosen(only, tasks)
    if asked.split not in ("test", "val"):
        raise ConfigError(f"--split {asked.split!r}: choose test or val")
    found = {name: known.find(name) for names in plan.values() for name in names}
    problems = {n: known.distinct(t, asked.seed, asked.split, asked.problems) for n, t in found.items()}
    from incentive.compare import fits, open_model
    from incentive.stages.evaluate import ask

    player, tokenizer = open_model(asked.model, asked.threads)

    def put(task: Task, mine: list[Problem], label: str, tools: bool = True) -> list[Group]:
        longest = max((chat.render(asked.template, p.prompt, tokenizer) for p in mine), key=len)
        fits(player, tokenizer, longest, asked.how.max_tokens)
        done, total = 0, len(mine) * asked.samples

        def each(_: Sample) -> None:
            nonlocal done
            done += 1
            count(label, done, total)

        return ask(
            player, tokenizer, task, mine, asked.samples, asked.how, asked.seed, asked.template, each, tools=tools
        )

    plain: dict[str, list[Group]] = {}  # answers in the task's own wording serve every limit that needs them

    def groups(name: str) -> list[Group]:
        if name not in plain:
            plain[name] = put(found[name], problems[name], name)
        return plain[name]

    out: dict[str, Any] = {
        "model": asked.model, "split": asked.split, "seed": asked.seed, "template": asked.template,
        "problems": asked.problems, "samples": asked.samples, **asked.how.model_dump(), "limits": {},
    }  # fmt: skip
    for limit, names in plan.items():
        told = {n: _one(limit, found[n], n, problems[n], groups, put, tokenizer, asked) for n in names}
        out["limits"][limit] = {n: t for n, t in told.items() if t is not None}
    return out


def _one(
    limit: str, task: Any, name: str, problems: list[Problem], groups: Callable[[str], list[Group]],
    put: Callable[..., list[Group]], tokenizer: Any, asked: Asked,
) -> dict[str, Any] | None:  # fmt: skip
    """What one limit shows on one task; None where the task has nothing to show of it."""
    if limit == "overthinking":
        from incentive.limits.overthinking import overthinking

        return overthinking(groups(name), task, tokenizer)
    if limit == "sensitivity":
        from incentive.limits.sensitivity import sensitivity

        return sensitivity(task, problems, lambda mine: put(task, mine, f"{name}, wordings"), asked.seed, SHOTS)
    if limit == "mixing":
        from incentive.limits.mixing import mixing

        return mixing(groups(name))
    if limit == "structured":
        from incentive.limits.structured import structured

        return structured(groups(name))
    from incentive.limits.tools import tool_use

    tool = getattr(task, "tool", None)
    return None if tool is None else tool_use(groups(name), put(task, problems, f"{name}, alone", tools=False), tool)


def compared(found: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Overthinking against an earlier measurement, task by task, paired over problems."""
    from incentive.limits.overthinking import against

    mine, theirs = (x["limits"].get("overthinking", {}) for x in (found, other))
    pairs = {name: against(mine[name], theirs[name]) for name in mine if name in theirs}
    return {name: p for name, p in pairs.items() if p is not None}


def write(found: dict[str, Any], directory: Path) -> Path:
    """Write limits.json and limits.html into a folder; a run's report shows the plots too. Returns the page."""
    from incentive.report.limits import page

    write_json(directory / "limits.json", found)
    write_atomic(directory / "limits.html", page(found))
    if (directory / "run.json").is_file():
        from incentive.report import write_report

        write_report(directory)
    return directory / "limits.html"


def read(path: Path) -> dict[str, Any]:
    """An earlier limits.json, to compare overthinking with.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found["limits"], dict):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"--against {path}: not a limits.json\nMake one with: incentive limits MODEL --out FOLDER")


def told(found: dict[str, Any]) -> list[str]:
    """The measurement in words."""
    lines = []
    for limit, tasks in found["limits"].items():
        lines.append(limit)
        lines += [f"  {name}: {_WORDS[limit](t)}" for name, t in tasks.items()]
    if "against" in found and not found["against"]["tasks"]:
        lines.append(f"nothing against {found['against']['name']}: no task has two problems in common")
    for name, t in found.get("against", {}).get("tasks", {}).items():
        right, tokens = t["right"], t["tokens"]
        lines.append(
            f"{name} against {found['against']['name']}, {t['paired']} problems: right {100 * right['difference']:+.1f} points "
            f"({100 * right['ci95'][0]:+.1f} to {100 * right['ci95'][1]:+.1f}), tokens {tokens['difference']:+.1f} "
            f"({tokens['ci95'][0]:+.1f} to {tokens['ci95'][1]:+.1f}) from {tokens['before']:.1f}"
        )
    return lines


def _of(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "overthinking": lambda t: (
        f"{t['tokens']['mean']:.1f} tokens, {t['right']:.1%} right; the right answer appears in {t['appeared']:.1%} of the thoughts, "
        f"{t['after_share']:.1%} of their tokens come after it; {t['repeated']:.1%} of the tries repeat one"
    ),
    "sensitivity": lambda t: (
        f"{t['wordings']['own']['right']:.1%} in its own wording, {len(t['wordings'])} wordings spread over {100 * t['spread']:.1f} "
        "points" + "".join(f"; {k}-shot {w['right']:.1%}" for k, w in t["few_shot"].items())
    ),
    "mixing": lambda t: (
        f"{_of(t['share'])} of the words in {t['target']}, {_of(t['consistent'])} of the thoughts wholly; {_of(t['mixed'])} mixed"
    ),
    "tools": lambda t: (
        f"{t['right_alone']:.1%} alone, {t['right']:.1%} with its tool; {t['asks']:.1%} of the answers ask, {t['calls']:.2f} calls each"
    ),
    "structured": lambda t: f"{t['valid']:.1%} valid, {t['right']:.1%} right",
}
