"""Is R1 real? One seed of the whole recipe, then the arms beside it, all on the same test problems.

    ...-t1          models asked at temperature 1, on what rules check
    r1-plain        the last RL stage without its penalty for repetition
    gamed           the last RL stage, nearly all of it on the helpful model, for too long: reward hacking
    student-zero    RL of the student's base, with R1-Zero's settings and the compute of its fine-tuning: distillation's rival
    dev2-free       RL stage 1 without the language reward: what the reward costs
    sft-own         the base fine-tuned on its own right answers, with the tokens that R1-Zero sampled

`prove/r1.py` runs the seeds and writes the page from their digests.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from incentive import ledger
from incentive.ahead import Planned
from incentive.config import RL, Collect, Eval
from incentive.config import Run as Settings
from incentive.keys import Artifact
from incentive.recipes import r1
from incentive.recipes.base import Recipe, Show
from incentive.recipes.zero import base_of
from incentive.records import hash64
from incentive.run import Run
from incentive.stage import Stage
from incentive.tasks import find

LONG = 100  # updates of the run that goes on too long
WARM = ("base", "zero", "dev1", "dev2", "r1")  # models that are asked at temperature 1, too
LOOKED = 768  # held-out problems that its monitor looks at


def r1_findings() -> dict[str, Any]:
    """r1-mini on one seed, measured on 500 problems of each task, with the arms that its findings are compared with:
    no language reward, SFT on own right answers, the helpful reward for too long, RL of the student."""
    data = r1.r1_mini()
    data["eval"] |= {"problems": 500, "samples": 1}
    return data


def stages(cfg: Settings) -> list[Planned]:
    """Every stage in the order in which `pipeline` runs it."""
    assert cfg.rl is not None
    assert cfg.r1 is not None
    found = r1.stages(cfg)

    def measured(name: str, start: str = "") -> list[Planned]:
        return [Planned(f"eval-{name}", cfg.eval, start or name)] if cfg.eval else []

    if cfg.eval:
        found += [Planned(f"eval-{name}-t1", warm(cfg.eval), name) for name in WARM]
    before = cfg.r1.reasoning.max_steps
    last = next(p for p in found if p.name == "r1")
    found += [replace(last, name="r1-plain", graded=unguarded(last.graded)), *measured("r1-plain")]
    found += [Planned("gamed", too_long(cfg), "r1-reasoning", ("helpful",), before)]
    found += [*measured("gamed"), *measured("gamed-last", "gamed")]
    if cfg.student:
        found += measured("student-base", "student base")
        found += [Planned("student-zero", as_long(cfg.rl), "student base"), *measured("student-zero")]
    found += [Planned("dev2-free", cfg.r1.dev2, "dev1"), *measured("dev2-free")]
    found += [
        Planned("own", own(cfg, 0), "base"),
        Planned("sft-own", cfg.r1.dev1, "base", ("own",)),
        *measured("sft-own"),
    ]
    return found


def warm(section: Eval) -> Eval:
    """At temperature 1, as RL samples: what temperature 0.6 hides of a model's habits."""
    sampling = section.sampling.model_copy(update={"temperature": 1.0, "top_p": 1.0})
    tasks = tuple(n for n in section.tasks if n in r1.REASONING)
    return section.model_copy(update={"sampling": sampling, "tasks": tasks})


def own(cfg: Settings, tokens: int) -> Collect:
    """The base's own answers until `tokens` are sampled (0: no limit): to more problems than R1-Zero saw, since they are
    shorter."""
    assert cfg.rl is not None
    every = 3 * cfg.rl.max_steps * cfg.rl.problems_per_step
    return Collect(
        tasks=cfg.rl.tasks, problems=every, samples=cfg.rl.num_generations, tokens=tokens, sampling=cfg.rl.sampling
    )


def as_long(section: RL) -> RL:
    """R1-Zero's RL with so many updates that a student's base spends on it the FLOPs of its fine-tuning."""
    return section.model_copy(update={"max_steps": round(1.6 * section.max_steps)})


def too_long(cfg: Settings) -> RL:
    """The last RL stage, LONG updates of it, with more looks."""
    assert cfg.r1 is not None
    more = {"max_steps": cfg.r1.reasoning.max_steps + LONG, "eval_steps": 10, "eval_problems": LOOKED}
    return cfg.r1.general.model_copy(update=more)


def unguarded(weights: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The rewards of each task without the penalty for repetition, which stands in the way of gaming."""
    return {task: {k: v for k, v in own.items() if k != "repetition"} for task, own in weights.items()}


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:
    """The recipe, then the arms; every model on every task."""
    from incentive.stages.sft import collect, sft

    cfg = run.config
    assert cfg.rl is not None
    assert cfg.r1 is not None
    line = r1.artifacts(run, show, recipe)
    table, made, base = r1.table(line), line.made, line.made["base"]

    def told(name: str, model: Artifact) -> None:
        if cfg.eval:
            table[name] = line.evaluate(name, model)

    if cfg.eval:
        for name in WARM:
            table[f"{name}-t1"] = line.evaluate(f"{name}-t1", made[name], warm(cfg.eval))

    plain = unguarded(r1.open_weights(cfg.r1, r1.by_models(cfg.r1)))
    judged = made["helpful"], made["safety"]
    how = r1.ending(line, cfg.r1, plain)
    told("r1-plain", line.reinforce("r1-plain", cfg.r1.general, made["dev3"], by=judged, **how))

    talk = [n for n in cfg.r1.pairs.tasks if n not in cfg.r1.labels.tasks]
    asks = {**{n: v / 8 for n, v in cfg.r1.general.tasks.items()}, **dict.fromkeys(talk, 1.0)}
    section, mixed = too_long(cfg), r1.mixed(recipe, asks)
    by_model = unguarded(r1.open_weights(cfg.r1, talk))
    grades = r1.ruled(recipe, mixed, section.rewards).grades
    grades |= r1.general_grades(*judged, by_model, section.learner.device)
    grade = r1.Routed(grades, f"{section.rewards} {by_model} {made['helpful'].key}")
    how = {"task": mixed, "grade": grade, "continue_from": made["r1-reasoning"], "watch": r1.watch(asks)}
    gamed = line.reinforce("gamed", section, made["dev3"], by=judged, **how)
    told("gamed", gamed)
    last = run.dir / f"gamed/checkpoints/step-{section.max_steps:06d}"
    told("gamed-last", line.met.made("gamed-last", Artifact("weights", last, f"{gamed.key}-last", (gamed.key,))))

    if cfg.student:
        told("student-base", base_of(cfg.student))
        told("student-zero", line.reinforce("student-zero", as_long(cfg.rl), base_of(cfg.student)))

    free = {k: v for k, v in cfg.r1.dev2.rewards.items() if k != "language"}
    told("dev2-free", line.reinforce("dev2-free", cfg.r1.dev2.model_copy(update={"rewards": free}), made["dev1"]))

    asked = own(cfg, sampled(run.dir / "zero"))
    rows = line.stage("own", collect, asked, start=base, task=r1.mixed(recipe, asked.tasks))
    told("sft-own", line.stage("sft-own", sft, cfg.r1.dev1, start=base, data=(rows,)))
    return r1.summed(line, table) | {"hacking": gamed.meta}


def sampled(stage: Path) -> int:
    """Tokens that an RL stage sampled."""
    return round(ledger.fold(stage / "metrics.jsonl", 1, 1, 0.0).tokens_sampled)


def digest(folder: Path) -> dict[str, Any]:
    """What a seed adds to the findings: for each evaluated model and task the results, a hash of the problems and, for
    each problem in order, the right answers and, where the task has a rubric, what the answers are worth."""
    from incentive.stages.rl import truth_of

    out: dict[str, Any] = {"environment": json.loads((folder / "environment.json").read_text(encoding="utf-8"))}
    metrics = (p for p in sorted(folder.glob("*/metrics.jsonl")) if ".old-" not in p.parent.name)
    out["seconds"] = {p.parent.name: round(ledger.fold(p, 1, 1, 0.0).seconds, 1) for p in metrics}
    if (folder / "gamed/looks.jsonl").exists():
        looks = map(json.loads, (folder / "gamed/looks.jsonl").read_text(encoding="utf-8").splitlines())
        meta = json.loads((folder / "gamed/done.json").read_text(encoding="utf-8"))["meta"]
        seen = [{**x, "truths": {k: sum(v) / len(v) for k, v in x["truths"].items()}} for x in looks]
        out["gamed"] = {"meta": meta, "looks": seen}
    out["models"] = {}
    for path in sorted(folder.glob("eval-*/results.json")):
        stage = path.parent
        if ".old-" in stage.name:
            continue
        found = out["models"][stage.name.removeprefix("eval-")] = {}
        for n, (task, results) in enumerate(json.loads(path.read_text(encoding="utf-8")).items(), 1):
            groups = Stage(stage).read_rollouts(n)
            one: dict[str, Any] = {"results": results, "problems": f"{hash64(*(g.problem.key for g in groups)):016x}"}
            one["right"] = [sum(bool(s.parts.get("accuracy")) for s in g.scores) for g in groups]
            if hasattr(rubric := find(task), "worth"):
                one["worth"] = [round(truth_of(rubric, g), 4) for g in groups]
            found[task] = one
    return out
