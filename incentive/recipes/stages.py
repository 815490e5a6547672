"""The stages of a recipe by name: which there are and in what order, to stop after one, to do one anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from incentive.ahead import Planned, rows_of
from incentive.config import RL, ConfigError, Draw, Eval
from incentive.config import Run as Settings
from incentive.files import RunError, write_json
from incentive.recipes import base, limits, r1, r1_findings, scale, zero
from incentive.recipes.base import Pipeline, Recipe, near
from incentive.run import Run

STAGES: dict[Pipeline, Callable[[Settings], list[Planned]]] = {
    zero.pipeline: zero.stages,
    zero.rejection: zero.rounds,
    base.pipeline: base.stages,
    limits.pipeline: limits.stages,
    r1.pipeline: r1.stages,
    r1_findings.pipeline: r1_findings.stages,
    scale.distill: scale.stages,
}


def planned(recipe: Recipe, settings: Settings) -> list[Planned]:
    """The stages of a run in their order; none where the pipeline is a user's own, or runs other runs."""
    return STAGES[recipe.pipeline](settings) if recipe.pipeline in STAGES else []


def check_names(recipe: Recipe, settings: Settings) -> None:
    """Every task and reward that the settings name exists; no torch, and nothing is fetched or made.

    Raises:
        ConfigError, TaskError: one does not.
    """
    named = [Planned("", section) for section in (settings.rl, settings.collect, settings.eval) if section]
    for stage in planned(recipe, settings) or named:
        section = stage.section
        if not isinstance(section, RL | Draw | Eval):
            continue
        for name in stage.tasks or section.tasks:
            _look(recipe.tasks, name)
        if isinstance(section, RL):
            zero.check_rewards(recipe, section.rewards)
            for name in section.tasks:
                _ruled(recipe.tasks, name)
    for rows in (settings.rows, settings.r1.public if settings.r1 else None):
        for name in rows.sources if rows else ():
            from incentive.tasks import hub

            hub.rows_of(name)


def _look(own: dict[str, Any], name: str) -> None:
    """A task of that name exists. Of a data set, and of reasoning-gym, only the name is read."""
    if name in own or not name.startswith(("hub:", "reasoning-gym/")):
        zero.known(own, name)
    elif name.startswith("hub:"):
        from incentive.tasks import hub

        hub.parsed(name)


def _ruled(own: dict[str, Any], name: str) -> None:
    """A rule checks the answers of a data set's task: only such prompts are reinforced by their accuracy."""
    if name in own or not name.startswith("hub:"):
        return
    from incentive.tasks import hub

    fields = hub.parsed(name)[1]
    if not fields.answer or fields.check == "judge":
        why = "check=judge" if fields.answer else "no answer"
        raise ConfigError(
            f"{name[:80]}: {why}: no rule can check it\nUse it in r1.reject.tasks (judge) or r1.general_tasks."
        )


def check_until(recipe: Recipe, stages: list[Planned], until: str) -> None:
    """There is a stage of this name.

    Raises:
        ConfigError: there is none, or nobody can say before it runs.
    """
    names = [p.name for p in stages]
    if not names:
        raise ConfigError(f"--until {until}: the stages of {recipe.name} are not known before it runs\nLeave it out.")
    if until not in names:
        raise ConfigError(
            f"--until {until}: no such stage in {recipe.name}{near(until, names)}\nStages: {_list(names)}."
        )


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none yet"


def set_aside(run: Run, names: list[str], stages: list[Planned]) -> None:
    """Put stages and all that follow from them aside under a name that the memo does not look for.

    Raises:
        RunError: there is no such stage, on the disk or in the pipeline.
    """
    known: dict[str, tuple[str, str]] = {}  # stage -> (its artifact's key, its own description)
    for file in run.dir.glob("*/stage.json"):
        if ".old-" not in file.parent.name:
            done = file.parent / "done.json"
            key = json.loads(done.read_text(encoding="utf-8"))["artifact"] if done.exists() else ""
            known[file.parent.name] = (key, file.read_text(encoding="utf-8"))
    every = [p.name for p in stages] + sorted(known.keys() - {p.name for p in stages})
    for name in names:
        if name not in every:
            raise RunError(f"--rerun {name}: no such stage in {run.dir}{near(name, every)}\nStages: {_list(every)}.")
        if name not in known:
            run.say(f"{name}: has not run yet")
    chosen = set(names) & known.keys()
    while more := {
        n for n, (_, of) in known.items() if n not in chosen and any(known[c][0] and known[c][0] in of for c in chosen)
    }:
        chosen |= more
    if chosen:
        (run.dir / "done.json").unlink(missing_ok=True)  # first: a run that is stopped from here on is not done
    for name in (n for n in every if n in chosen):
        n = 1
        while (aside := run.dir / f"{name}.old-rerun{n}").exists():
            n += 1
        (run.dir / name).rename(aside)
        run.say(f"{name}: runs anew, what was made is kept in {aside}")


def stop(run: Run, stages: list[Planned]) -> dict[str, Any]:
    """The stage that the run was to go up to is done: write summary.json. A run that is done whole keeps its own."""
    if (run.dir / "done.json").exists():
        found: dict[str, Any] = json.loads((run.dir / "summary.json").read_text(encoding="utf-8"))
        return found
    found = _so_far(run, stages)
    write_json(run.dir / "summary.json", found)
    return found


def told(run: Run, stages: list[Planned]) -> list[str]:
    """Where a run stands that was to go up to a stage."""
    if run.until is None:
        return []
    n = run.stages.index(run.until) + 1
    if (run.dir / "done.json").exists():
        return [f"  {run.until} is done, and so is the whole run"]
    return [f"  stopped after {run.until}, stage {n} of {len(stages)}, as asked; go on with: {run.command}"]


def _so_far(run: Run, stages: list[Planned]) -> dict[str, Any]:
    """What is done, measured and paid."""
    assert run.until is not None
    cfg, at = run.config, run.stages.index(run.until) + 1
    done = stages[:at]
    folder = run.dir / "base/model" if cfg.pretrain else zero.base_of(cfg.base).path
    results = {
        p.name: json.loads((run.dir / p.name / "results.json").read_text(encoding="utf-8"))
        for p in done
        if isinstance(p.section, Eval)
    }
    rl = {p.name: p.section for p in done if isinstance(p.section, RL)}
    found: dict[str, Any] = {when: results[when] for when in ("before", "after") if when in results}
    out = zero.summary(run, folder, {**found, "steps": sum(p.steps for p in done)}, rl)
    probes = {name: [r for r in rows_of(run.dir / name / "metrics.jsonl") if "val/accuracy" in r] for name in rl}
    out["val"] = {name: rows[-1]["val/accuracy"] for name, rows in probes.items() if rows}
    out["table"] = {n.removeprefix("eval-"): r for n, r in results.items() if n.startswith("eval-")}
    return out | {"until": run.until, "done": [p.name for p in done], "ahead": list(run.stages[at:])}
