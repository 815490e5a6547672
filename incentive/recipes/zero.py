"""R1-Zero recipes: evaluate the base, reinforce it, evaluate again.

    before = evaluate(base) -> zero = rl(base) -> after = evaluate(zero) -> summary, report

Kept from the paper: accuracy and format rewards, groups of samples, 32 problems a step, temperature 1, KL in the loss.
Changed for the miniature, each because it was measured: `ZERO_MINI_RL`. The paper's own settings are `scale.paper`.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incentive import ledger
from incentive.ahead import Planned
from incentive.config import ConfigError, Eval
from incentive.config import Run as Settings
from incentive.files import write_json
from incentive.keys import Artifact, folder_key
from incentive.recipes.base import Recipe, Show, near
from incentive.run import Run

if TYPE_CHECKING:
    from incentive.contamination import Contamination
    from incentive.tasks.base import Task

ZERO_MINI_RL: dict[str, Any] = {  # each measured in development, on other seeds and on val
    "max_steps": 120,
    "problems_per_step": 32,
    "num_generations": 8,
    # divided by the group's std, a rare format miss among wrong answers weighs as much as a right answer among wrong
    # ones, and thoughts stay short: 21% right after 58 steps; so the mean alone is taken off, and format weighs less
    "advantage": "dr_grpo",
    "rewards": {"accuracy": 1.0, "format": 0.2},
    "loss_type": "token_mean",
    "beta": 0.03,  # without it the arithmetic wears away: 98% true before, 26% after 55 steps
    # the paper's hard refresh: thoughts that go on longer are far from the base, and the KL would hold them back: without
    # it 86% on three numbers of val, with it 91%
    "ref_sync_steps": 30,
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "sampling": {"temperature": 1.0, "max_tokens": 320},
    "optim": {"learning_rate": 1.5e-4, "lr_scheduler_type": "linear"},
    "eval_steps": 10,
    "eval_problems": 128,
    "save_steps": 20,
}


def zero(tasks: dict[str, float], **rl: Any) -> dict[str, Any]:
    """The settings of a run on tasks (name -> share): those of `zero-mini`, with `rl` on top."""
    longest = {"max_tokens": ZERO_MINI_RL["sampling"]["max_tokens"]}
    return {
        "rl": {**ZERO_MINI_RL, "tasks": dict(tasks), **rl},
        "eval": {"tasks": list(tasks), "sampling": {"temperature": 0.6, "top_p": 0.95, **longest}},
    }


def zero_mini() -> dict[str, Any]:
    """R1-Zero in minutes on two cores: Countdown with three and with four numbers, from the base in the package.

    The base can check a try and start again, and mostly does not. Only right answers are rewarded; whether reasoning
    grows is measured on test problems before and after.
    """
    return zero({"countdown3": 0.5, "countdown4": 0.5})


def zero_arithmetic() -> dict[str, Any]:
    """R1-Zero on multi-step arithmetic, with the settings of zero-mini."""
    return zero({"arithmetic": 1.0})


def zero_logic() -> dict[str, Any]:
    """R1-Zero on knights and knaves, with the settings of zero-mini."""
    return zero({"logic": 1.0})


def zero_tiny() -> dict[str, Any]:
    """The same code path in under 90 seconds, with no claim to learn: for tests and for a first look."""
    data = zero(
        {"countdown3": 0.5, "countdown4": 0.5},
        max_steps=6,
        problems_per_step=8,
        num_generations=8,
        sampling={"temperature": 1.0, "max_tokens": 96},
        eval_steps=3,
        eval_problems=8,
        save_steps=2,
    )
    data["eval"] |= {"problems": 16, "samples": 4, "also_t1": False}
    data["eval"]["sampling"] = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 96}
    return data


# what a run needs, looked up by name


def known(own: dict[str, Any], name: str) -> Any:
    """The task of a name: the recipe's own, a shipped one, or the problems of a `.jsonl` file.

    Raises:
        TaskError: there is none.
    """
    from incentive.tasks import TaskError, find

    if name in own:
        return _Tagged(name, own[name])
    try:
        return find(name)
    except TaskError:
        if guess := near(name, own):
            raise TaskError(f"unknown task {name!r}{guess}") from None
        raise


def base_of(name: str) -> Artifact:
    """The base model as an artifact: a folder, or a name in the package.

    Raises:
        CheckpointError: it is missing or not a checkpoint of safetensors.
    """
    from incentive.model.checkpoint import read_weights, resolve

    path = resolve(name)
    if not any(path.glob("*.safetensors")):
        read_weights(path)  # says what is there instead
    return Artifact("weights", path, key=folder_key(path))


def grade_of(recipe: Recipe, mixture: Any, weights: dict[str, float]) -> Any:
    from incentive import rewards

    check_rewards(recipe, weights)
    return rewards.each({**rewards.shipped(mixture.check, mixture.checks), **recipe.rewards}, weights)


def check_rewards(recipe: Recipe, weights: dict[str, float]) -> None:
    from incentive import rewards

    found = {**rewards.shipped(lambda *_: False), **recipe.rewards}
    for name in weights:
        if name not in found:
            raise ConfigError(f"unknown reward {name!r}{near(name, found)}\nRewards: {', '.join(found)}.")


class _Tagged:
    """A user's task. Its problems say which task they belong to: a mixture asks. An error in it names it and the line,
    but for its check, whose faults are counted."""

    def __init__(self, name: str, task: Task):
        self.name, self.task = name, task
        self.check, self.tool = task.check, getattr(task, "tool", None)
        self.version = f"{type(task).__qualname__} {getattr(task, 'version', '')}".strip()  # counts in a stage's key

    def _ask(self, what: str, *args: Any) -> Any:
        from incentive.tasks import TaskError

        try:
            return getattr(self.task, what)(*args)
        except TaskError:
            raise
        except Exception as error:  # the user's code, so any kind
            frames = traceback.extract_tb(error.__traceback__)[1:]
            theirs = [f for f in frames if f.filename == frames[0].filename]
            at = f"{Path(theirs[-1].filename).name}:{theirs[-1].lineno}: " if theirs else ""
            shown = ", ".join(repr(getattr(a, "id", a))[:60] for a in args)
            raise TaskError(
                f"{at}{what}({shown}) of task {self.name!r} raised {type(error).__name__}: {error}\n"
                "Mend it, then go on with --resume."
            ) from error

    def problem(self, seed: int, split: Any, i: int) -> Any:
        from dataclasses import replace

        from incentive.records import Problem
        from incentive.tasks import TaskError

        found = self._ask("problem", seed, split, i)
        if not isinstance(found, Problem):
            raise TaskError(f"task {self.name!r}: problem() returned {type(found).__name__}, not a Problem")
        return replace(found, tags={**found.tags, "task": self.name})

    def gold(self, problem: Any) -> Any:
        return self._ask("gold", problem)

    def vote_key(self, answer: str) -> Any:
        return self._ask("vote_key", answer)


def parts(recipe: Recipe, settings: Any) -> tuple[Artifact, Any, Any, dict[str, Any]]:
    """Base, mixture, grade and the tasks to evaluate on.

    Raises:
        ConfigError, CheckpointError, ValueError: the user's to mend; nothing is written yet.
    """
    from incentive.stages.evaluate import mixture

    shares = settings.rl.tasks if settings.rl else {}
    names = [*shares, *(settings.eval.tasks if settings.eval else ())]
    tasks = {n: known(recipe.tasks, n) for n in dict.fromkeys(names)}
    mixed: Any = mixture(shares, tasks) if shares else None
    if mixed and (versions := [v for n in shares if (v := getattr(tasks[n], "version", ""))]):
        mixed.version = " ".join(versions)  # changed problems are another stage
    grade = grade_of(recipe, mixed, settings.rl.rewards) if mixed else None
    return base_of(settings.base), mixed, grade, {n: tasks[n] for n in (settings.eval.tasks if settings.eval else ())}


def stages(cfg: Settings) -> list[Planned]:
    learnt = [Planned("zero", cfg.rl, "base")] if cfg.rl else []
    before = [Planned("before", cfg.eval, "base")] if cfg.eval else []
    return [*before, *learnt, *([Planned("after", cfg.eval, "zero")] if cfg.eval and cfg.rl else [])]


def contamination(run: Run, base: Artifact, tasks: dict[str, Any]) -> Contamination:
    """The problems that the run's evaluations will ask, to hold beside all that it learns from."""
    from incentive.contamination import Contamination
    from incentive.stages.evaluate import PROBLEMS
    from incentive.tasks import distinct

    split, n = (run.config.eval.split, run.config.eval.problems) if run.config.eval else ("test", 200)
    asked = {name: distinct(task, PROBLEMS, split, n) for name, task in tasks.items()}
    met = Contamination(run.dir / "contamination.json", asked, run.say)
    met.base(base)
    return met


def evaluated(
    run: Run, show: Show, met: Contamination, stage: str, model: Artifact, tasks: dict[str, Any],
    section: Eval | None = None, template: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The results of an evaluation, with what the model has met of it beside each score.

    Args:
        section, template: by default the run's own.
    """
    from incentive.stages.evaluate import evaluate

    show({"phase": "begin", "stage": stage})
    fn = partial(evaluate, contaminated=met.beside(model), show=show)  # what was met counts in no key
    asked: dict[str, Any] = {"tasks": tasks, "template": template or run.config.template}
    results: dict[str, Any] = run.stage(stage, fn, section or run.config.eval, start=model, **asked).meta["results"]
    return results


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:
    """Before, zero, after; the summary."""
    return reinforced(run, show, *parts(recipe, run.config))


def reinforced(
    run: Run, show: Show, base: Artifact, mixture: Any, grade: Any, tasks: dict[str, Any],
    met: Contamination | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a model, reinforce it, evaluate again.

    Args:
        met: what the model has met of the evaluations, if it was made in this run; by default a look at its corpus.
    """
    from incentive.contamination import drawn_by
    from incentive.stages.rl import rl

    cfg = run.config
    if mixture is not None:
        preflight(run, show, base, mixture, grade, tasks)
    met = met or contamination(run, base, tasks)
    found: dict[str, Any] = {}
    if cfg.eval:
        found["before"] = evaluated(run, show, met, "before", base, tasks)
    if cfg.rl:
        met.drawn("zero", mixture, cfg.seed, drawn_by(cfg.rl))
        show({"phase": "begin", "stage": "zero", "metrics": run.dir / "zero/metrics.jsonl", "section": cfg.rl})
        how = {"task": mixture, "grade": grade, "template": cfg.template}
        zero_ = met.made("zero", run.stage("zero", partial(rl, show=show), cfg.rl, start=base, **how))
        found["steps"] = zero_.meta["steps"]
        if cfg.eval:
            found["after"] = evaluated(run, show, met, "after", zero_, tasks)
    return summary(run, base.path, found)


def preflight(run: Run, show: Show, base: Artifact, mixture: Any, grade: Any, tasks: dict[str, Any]) -> None:
    """Look before step 1; a resumed run that has a checkpoint has been looked at.

    Raises:
        RunError: something would make the run worthless.
    """
    from incentive.files import RunError

    if any((run.dir / "zero/checkpoints").glob("step-*")) or (run.dir / "zero/done.json").exists():
        return
    from incentive import guard

    show({"phase": "begin", "stage": "preflight"})
    found = guard.preflight(run.config, base.path, mixture, grade, tasks)
    write_json(run.dir / "preflight.json", [asdict(f) for f in found])
    show({"phase": "preflight", "findings": found})
    stops = [f for f in found if f.level == "stop"]
    if stops:
        told = [f"{f.what.removesuffix('.')}: {f.advice}" if f.advice else f.what for f in stops[:2]]
        raise RunError("\n".join(told))


# the summary


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """The part of an evaluation that the summary holds; T = 1 beside the headline."""
    n = result["samples"]
    keys = (
        "pass@1", f"pass@{n}", f"maj@{n}", "ci95", "mean_tokens", "reflections_per_response",
        "reflections_per_1k_tokens", "problems", "samples", "temperature", "top_p",
    )  # fmt: skip
    told = {k: result[k] for k in keys if k in result}
    return told | ({"t1": _told(result["t1"])} if "t1" in result else {})


RL_TOKENS = 2_500_000  # that zero-mini samples in its 120 updates (2.47 and 2.56 million in two runs)


def rejection_mini() -> dict[str, Any]:
    """A control beside R1-Zero: the base fine-tuned on its own right answers, with as many sampled tokens as RL uses.

    Each round samples from the latest model, keeps what is right and well-formed, and fine-tunes the base on all of it.
    """
    tasks = {"countdown3": 0.5, "countdown4": 0.5}
    longest = {"max_tokens": ZERO_MINI_RL["sampling"]["max_tokens"]}
    return {
        "collect": {
            "tasks": tasks,
            "problems": 12800,
            "samples": 8,
            "tokens": RL_TOKENS,
            "sampling": {"temperature": 1.0, **longest},
        },
        "sft": {},
        "eval": {"tasks": list(tasks), "sampling": {"temperature": 0.6, "top_p": 0.95, **longest}},
    }


def rounds(cfg: Settings) -> list[Planned]:
    assert cfg.collect is not None
    n = cfg.collect.rounds
    part = cfg.collect.model_copy(update={"problems": max(1, cfg.collect.problems // n)})
    made = [Planned("before", cfg.eval, "base")] if cfg.eval else []
    for i in range(1, n + 1):
        made.append(Planned(f"collect-{i}", part, f"sft-{i - 1}" if i > 1 else "base"))
        made.append(Planned(f"sft-{i}", cfg.sft, "base", tuple(f"collect-{j}" for j in range(1, i + 1))))
    return [*made, *([Planned("after", cfg.eval, f"sft-{n}")] if cfg.eval else [])]


def rejection(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:
    """Before, then rounds of collect and sft, after; the summary."""
    from incentive.stages.evaluate import mixture
    from incentive.stages.sft import collect, sft

    cfg = run.config
    assert cfg.collect is not None
    base, tasks = base_of(cfg.base), {n: known(recipe.tasks, n) for n in (cfg.eval.tasks if cfg.eval else ())}
    task = mixture(cfg.collect.tasks, {n: known(recipe.tasks, n) for n in cfg.collect.tasks})
    met = contamination(run, base, tasks)
    found: dict[str, Any] = {}
    if cfg.eval:
        found["before"] = evaluated(run, show, met, "before", base, tasks)
    model, data, n_rounds = base, [], cfg.collect.rounds
    share = {
        "problems": max(1, cfg.collect.problems // n_rounds),
        "tokens": cfg.collect.tokens // n_rounds,
        "rounds": 1,
    }
    part = cfg.collect.model_copy(update=share)
    for n in range(1, n_rounds + 1):
        show({"phase": "begin", "stage": f"collect-{n}"})
        how: dict[str, Any] = {"task": task, "template": cfg.template, "first": (n - 1) * part.problems}
        made = run.stage(f"collect-{n}", partial(collect, show=show), part, start=model, **how)
        data.append(met.made(f"collect-{n}", made))
        show({"phase": "begin", "stage": f"sft-{n}"})
        met.rows(f"sft-{n}", data)
        made = run.stage(f"sft-{n}", partial(sft, show=show), cfg.sft, start=base, data=tuple(data))
        model = met.made(f"sft-{n}", made)
    if cfg.eval:
        found["after"] = evaluated(run, show, met, "after", model, tasks)
    return summary(run, base.path, found)


def summary(run: Run, base: Path, found: dict[str, Any], rl: dict[str, Any] | None = None) -> dict[str, Any]:
    """summary.json: accuracy before and after, and what it cost (US dollars at the stated price, all stages).

    Args:
        rl: sections of the RL stages by their names; by default R1-Zero's alone.
    """
    cfg, size = run.config, ledger.count_parameters(base) or 0
    rl = rl or ({"zero": cfg.rl} if cfg.rl else {})
    scorings = {name: int(s.beta > 0) + int(s.steps_per_generation > 1) for name, s in rl.items()}
    costs = {}
    for path in sorted(run.dir.glob("*/metrics.jsonl")):
        name = path.parent.name
        if ".old-" not in name:
            passes = scorings.get(name, 0)
            costs[name] = ledger.fold(path, size, cfg.threads, cfg.price_per_core_hour, scorings=passes)
    evaluated = {name for name in costs if name in ("before", "after") or name.startswith("eval-")}
    train = sum((c for name, c in costs.items() if name not in evaluated), ledger.Costs())
    total = sum(costs.values(), ledger.Costs())
    out: dict[str, Any] = {}
    for when in ("before", "after"):
        if when in found:
            out[when] = {task: _told(result) for task, result in found[when].items()}
    out |= {"train_seconds": train.seconds, "steps": found.get("steps", 0), "tokens": train.tokens_sampled}
    out |= {"cost": total.money, "core_hours": total.core_hours, "flops": total.flops, "parameters": size}
    return out | {"evaluate_seconds": total.seconds - train.seconds, "peak_memory_mib": peak_memory() / 2**20}


def peak_memory() -> int:
    """The most memory that this process has held, in bytes (its resident set)."""
    import resource  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
