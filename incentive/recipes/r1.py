"""The whole recipe: from base to R1-Zero to R1, and into a small model (paper, figure 2).

    zero = rl(base)                    right answers alone
    cold = curate(zero)                right, readable, rewritten
    dev1 = sft(base, cold)
    dev2 = rl(dev1)                    rules and language
    large = curate(dev2) + rows        rejection sampling, and rows that are no reasoning
    dev3 = sft(base, large)
    helpful, safety = reward_model(dev3's answers, judged)
    r1 = rl(rl(dev3), general too)     rules, language, reward models in the last part
    student = sft(student base, large)

Kept from the paper: the order, both fine-tunings from base, temperature 0.7 in the second RL stage, general prompts and
reward models in its last part alone, which goes on with weights, optimizer, reference and data cursor. Changed for the
miniature: sizes, and programs in the place of judges (`proxy`, `restyle`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from incentive import rewards
from incentive.ahead import Planned
from incentive.config import Run as Settings
from incentive.recipes.base import Recipe, Show
from incentive.recipes.zero import ZERO_MINI_RL, base_of, known, preflight, summary, zero
from incentive.records import Problem, Sample, Score
from incentive.run import Artifact, Run, write_folder

REASONING = {
    "countdown3": 1.0, "countdown3-zh": 1.0, "countdown4": 1.0, "countdown4-zh": 1.0, "program": 1.0, "program-zh": 1.0,
    "logic": 0.5, "logic-zh": 0.5, "choice": 0.5, "choice-zh": 0.5,
}  # fmt: skip
GENERAL = {"general": 1.0, "general-zh": 1.0, "harm": 1.0, "harm-zh": 1.0}
CONSTRAINED = {"instruct": 0.5, "instruct-zh": 0.5}
BASE = "runs/base-wide/base/model"  # where `incentive run base-wide` puts it
TABLE = (*REASONING, *CONSTRAINED, *GENERAL)  # the benchmarks of the stage table


def _rl(tasks: dict[str, float], steps: int, **more: Any) -> dict[str, Any]:
    return {**ZERO_MINI_RL, "tasks": tasks, "max_steps": steps, **more}


def r1_mini() -> dict[str, Any]:
    """The whole of R1 at miniature scale, from a base of the wide world: R1-Zero, cold start, RL with the language
    reward, rejection sampling, reward models, the last RL stage, a distilled student.

    Its base comes from `incentive run base-wide`; another is given with --set base=FOLDER. The settings have not been
    measured yet.
    """
    data = zero(REASONING, max_steps=120)
    longest = {"max_tokens": ZERO_MINI_RL["sampling"]["max_tokens"]}
    ruled = {"accuracy": 1.0, "summarised": 0.2, "language": 0.3}
    cool = {"temperature": 0.7, **longest}
    drawn = {"sampling": {"temperature": 1.0, **longest}}
    readable = {"run": 40, "repeated": 0.5, "lines": 0.3, "longest": 600}
    data["eval"] |= {"tasks": list(TABLE), "samples": 4, "also_t1": False}
    return data | {
        "base": BASE,
        "r1": {
            "cold": {"tasks": {**REASONING, **CONSTRAINED}, "problems": 2048, "samples": 4, "per_problem": 1, "near": 1.0,
                     "readable": readable, **drawn},
            "dev1": {},
            "dev2": _rl(REASONING, 60, rewards=ruled),
            "reject": {"tasks": REASONING, "problems": 4096, "samples": 4, "per_problem": 1, "near": 1.0,
                       "readable": readable, **drawn},
            "dev3": {},
            "pairs": {"tasks": {"general": 1.0, "general-zh": 1.0}, "problems": 2048, **drawn},
            "labels": {"tasks": {"harm": 1.0, "harm-zh": 1.0}, "problems": 1024, **drawn},
            "helpful": {"batch": 64, "epochs": 2, "optim": {"learning_rate": 5e-4, "lr_scheduler_type": "cosine"}},
            "safety": {"kind": "pointwise", "batch": 64, "epochs": 2,
                       "optim": {"learning_rate": 5e-4, "lr_scheduler_type": "cosine"}},
            "reasoning": _rl(REASONING, 20, rewards=ruled, sampling=cool),
            "general": _rl(REASONING, 50, rewards=ruled, sampling=cool),
            "general_tasks": dict.fromkeys(GENERAL, 2.0),
            "rows": 2000,
            "student": {},
        }
    }  # fmt: skip


def r1_tiny() -> dict[str, Any]:
    """Every stage of r1-mini in under 90 seconds, with no claim to learn: for tests and for a first look. Its base is the
    one in the package, which knows two of the tasks and no talk, and its student's too."""
    tasks, length = {"countdown3": 1.0, "logic": 1.0}, {"temperature": 1.0, "max_tokens": 64}
    talk = {"samples": 4, "sampling": {**length, "max_tokens": 128}}
    rl = {
        "tasks": tasks,
        "problems_per_step": 4,
        "num_generations": 4,
        "eval_steps": 0,
        "save_steps": 1,
        "sampling": length,
    }
    curate = {"tasks": tasks, "samples": 4, "sampling": length}
    return {
        "base": "base-mini",
        "student": "base-mini",
        "rl": {**rl, "max_steps": 2},
        "r1": {
            "cold": {**curate, "problems": 64}, "dev1": {"epochs": 1}, "dev2": {**rl, "max_steps": 1},
            "reject": {**curate, "problems": 128}, "rows": 300, "dev3": {"epochs": 3, "tokens_per_step": 2048},
            "pairs": {**talk, "tasks": {"general": 1.0}, "problems": 300, "threshold": 0.0, "samples": 6},
            "labels": {**talk, "tasks": {"harm": 1.0}, "problems": 128},
            "helpful": {"batch": 64}, "safety": {"kind": "pointwise", "batch": 64},
            "reasoning": {**rl, "max_steps": 1}, "general": {**rl, "max_steps": 3, "num_generations": 2},
            "general_tasks": {"general": 1.0, "harm": 1.0}, "student": {"epochs": 1},
        },
        "eval": {"tasks": ["countdown3", "harm"], "problems": 8, "samples": 2, "also_t1": False,
                 "sampling": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 64}},
    }  # fmt: skip


def stages(cfg: Settings) -> list[Planned]:
    """Every stage in the order in which `pipeline` runs it."""
    r1 = cfg.r1
    assert r1 is not None
    both = {**r1.general.tasks, **r1.general_tasks}
    assert cfg.rl is not None
    longer = [Planned("zero-longer", r1.longer, "zero", first=cfg.rl.max_steps)] if r1.longer else []
    made = f"{r1.rows:,} rows that are no reasoning, written by the world's people"
    if r1.public:
        sources = ", ".join(name.partition("?")[0] for name in r1.public.sources)
        made = f"rows that are no reasoning, from {sources}" + (
            f", {r1.public.rows:,} of each" if r1.public.rows else ""
        )
    models = ["base", "zero", "dev1", "dev2", "dev3", "r1", *(["student"] if cfg.student else [])]
    return [
        Planned("zero", cfg.rl, "base"),
        *longer,
        Planned("cold-start", r1.cold, "zero-longer" if longer else "zero"),
        Planned("dev1", r1.dev1, "base", ("cold-start",)),
        Planned("dev2", r1.dev2, "dev1"),
        Planned("rows", about=made, rows=r1.public.rows * len(r1.public.sources) if r1.public else r1.rows),
        Planned("rejection-sampling", r1.reject, "dev2", ("rows",)),
        Planned("dev3", r1.dev3, "base", ("rejection-sampling",)),
        Planned("pairs", r1.pairs, "dev3"),
        Planned("labels", r1.labels, "dev3"),
        Planned("helpful", r1.helpful, "dev3", ("pairs",)),
        Planned("safety", r1.safety, "dev3", ("labels",)),
        Planned("r1-reasoning", r1.reasoning, "dev3"),
        Planned("r1", r1.general, "r1-reasoning", ("helpful", "safety"), r1.reasoning.max_steps, both),
        *([Planned("student", r1.student, "student base", ("rejection-sampling",))] if cfg.student else []),
        *(Planned(f"eval-{name}", cfg.eval, name) for name in models if cfg.eval),
    ]


class Routed:
    """One grade for reasoning and general prompts: each task is graded by its own rewards, as the paper's equations 8 to
    10 add them up: a prompt is either the one or the other."""

    def __init__(self, grades: dict[str, rewards.Grade], version: str):
        self.grades, self.version = grades, version

    def __call__(self, problem: Problem, samples: list[Sample]) -> list[Score]:
        return self.grades[problem.tags["task"]](problem, samples)


BEFORE = ("base", "zero", "zero-longer", "cold-start")  # asked in R1-Zero's template


def template_of(cfg: Settings, stage: str) -> str:
    """The template of a stage, or of the model that an evaluation names."""
    assert cfg.r1 is not None
    return cfg.template if stage in BEFORE else cfg.r1.template or cfg.template


def _mixed(recipe: Recipe, shares: dict[str, float]) -> Any:
    from incentive.stages.evaluate import mixture

    mixed: Any = mixture(shares, {n: known(recipe.tasks, n) for n in shares})
    mixed.version = str(shares)  # other problems are another stage
    return mixed


def _ruled(recipe: Recipe, task: Any, weights: dict[str, float]) -> Routed:
    grade = rewards.each({**rewards.shipped(task.check, task.checks), **recipe.rewards}, weights)
    return Routed(dict.fromkeys(task.tasks, grade), str(weights))


def _held(recipe: Recipe, names: tuple[str, ...], n: int) -> Any:
    """What no data set may share content with: the problems of the final evaluations."""
    from incentive.curation import Held
    from incentive.stages.evaluate import PROBLEMS
    from incentive.tasks import distinct

    return Held.of({name: distinct(known(recipe.tasks, name), PROBLEMS, "test", n) for name in names})


def rows(stage: Any, section: Any, start: Artifact | None = None, data: Any = (), *, n: int, seed: int) -> Artifact:  # noqa: ARG001
    """Rows that are no reasoning: how the world's people answer general requests, with their faults, and instructions
    with answers that keep to them. In the place of the paper's rows from another model."""
    from incentive import chat
    from incentive.corpus import Habits, document
    from incentive.run import write_lines

    found: list[dict[str, str]] = []
    i = 0
    while len(found) < n:
        d = document(seed + 1_000_003, i, Habits(wide=True))
        i += 1
        kind = (d.key or "").partition(":")[0]
        if kind in ("general", "harm", "instruct"):
            thinking, answer = chat.split(d.response)
            if answer and answer != "none":
                found.append({"prompt": d.prompt, "response": chat.perfect(thinking, answer), "domain": kind})
    with write_folder(stage.dir / "rows") as folder:
        write_lines(folder / "000001.jsonl.zst", found)
    return Artifact("dataset", stage.dir / "rows", meta={"rows": len(found)})


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:
    """Every stage in its order; then the stage table."""
    from incentive.model.checkpoint import CheckpointError

    cfg = run.config
    assert cfg.r1 is not None
    assert cfg.rl is not None
    try:
        base = base_of(cfg.base)
    except CheckpointError as error:
        hint = "\nMake it first: incentive run base-wide" if cfg.base == BASE else ""
        raise CheckpointError(f"{error}{hint}") from None
    task = _mixed(recipe, cfg.rl.tasks)
    asked = {n: known(recipe.tasks, n) for n in (cfg.eval.tasks if cfg.eval else ())}
    preflight(run, show, base, task, _ruled(recipe, task, cfg.rl.rewards), asked)
    models = {"base": base, **_models(run, show, recipe, cfg, base)}
    rl = {"zero": cfg.rl, "dev2": cfg.r1.dev2, "r1-reasoning": cfg.r1.reasoning, "r1": cfg.r1.general}
    steps = [cfg.rl.max_steps, cfg.r1.dev2.max_steps, cfg.r1.general.max_steps]  # the last counts both of its parts
    found: dict[str, Any] = {"stages": list(models), "steps": sum(steps)}
    if cfg.eval:
        found["table"] = {name: _evaluated(run, show, recipe, cfg, name, model) for name, model in models.items()}
        found |= {"before": found["table"]["base"], "after": found["table"]["zero"]}
    return summary(run, base.path, found, rl) | {"table": found.get("table", {})}


def _evaluated(run: Run, show: Show, recipe: Recipe, cfg: Settings, name: str, model: Artifact) -> dict[str, Any]:
    from incentive.stages.evaluate import evaluate

    assert cfg.eval is not None
    show({"phase": "begin", "stage": f"eval-{name}"})
    tasks = {n: known(recipe.tasks, n) for n in cfg.eval.tasks}
    made = run.stage(
        f"eval-{name}",
        partial(evaluate, show=show),
        cfg.eval,
        start=model,
        tasks=tasks,
        template=template_of(cfg, name),
    )
    found: dict[str, Any] = made.meta["results"]
    return found


def _models(run: Run, show: Show, recipe: Recipe, cfg: Settings, base: Artifact) -> dict[str, Artifact]:
    """From R1-Zero to R1 and the student, by name."""
    from incentive import helpers
    from incentive.model_reward import later
    from incentive.stages.curate import curate
    from incentive.stages.prefer import labels, pairs
    from incentive.stages.public import public
    from incentive.stages.reward_model import reward_model
    from incentive.stages.rl import rl
    from incentive.stages.sft import sft

    r1 = cfg.r1
    assert r1 is not None
    assert cfg.rl is not None
    asked = tuple(n for n in (cfg.eval.tasks if cfg.eval else ()) if n not in r1.general_tasks)
    held = _held(recipe, asked, cfg.eval.problems if cfg.eval else 0)
    help_ = helpers.of(cfg, run.dir)

    def stage(name: str, fn: Callable[..., Artifact], section: Any, **kw: Any) -> Artifact:
        rl_ = {"metrics": run.dir / name / "metrics.jsonl", "section": section} if fn is rl else {}
        show({"phase": "begin", "stage": name, **rl_})
        called: dict[str, Any] = {"spent": help_.spent} if fn in (curate, pairs, labels) else {}
        if fn in (pairs, labels):
            called["workers"] = help_.workers
        return run.stage(name, partial(fn, show=show, **called), section, template=template_of(cfg, name), **kw)

    def reinforced(name: str, section: Any, start: Artifact, grade: Any = None, **kw: Any) -> Artifact:
        task = kw.pop("task", None) or _mixed(recipe, section.tasks)
        return stage(
            name, rl, section, start=start, task=task, grade=grade or _ruled(recipe, task, section.rewards), **kw
        )

    zero_ = reinforced("zero", cfg.rl, base)
    if r1.longer:
        zero_ = reinforced("zero-longer", r1.longer, base, continue_from=zero_)
    drawn = _mixed(recipe, r1.cold.tasks)
    cold = stage("cold-start", curate, r1.cold, start=zero_, task=drawn, rewrite=help_.rewrite, held=held)
    dev1 = stage("dev1", sft, r1.dev1, start=base, data=[cold])
    dev2 = reinforced("dev2", r1.dev2, dev1)
    if r1.public:
        more = stage("rows", public, r1.public, start=base, held=held)
    else:
        show({"phase": "begin", "stage": "rows"})
        more = run.stage("rows", rows, None, n=r1.rows, seed=cfg.seed)
    drawn = _mixed(recipe, r1.reject.tasks)
    judges = help_.judges(drawn.tasks)
    large = stage("rejection-sampling", curate, r1.reject, start=dev2, task=drawn, data=[more],
                  form=rewards.summarised, held=held, **({"judges": judges} if judges else {}))  # fmt: skip
    dev3 = stage("dev3", sft, r1.dev3, start=base, data=[large])
    compared = stage("pairs", pairs, r1.pairs, start=dev3, task=_mixed(recipe, r1.pairs.tasks), judge=help_.compare)
    labelled = stage("labels", labels, r1.labels, start=dev3, task=_mixed(recipe, r1.labels.tasks), label=help_.label)
    helpful = stage("helpful", reward_model, r1.helpful, start=dev3, data=[compared])
    safety = stage("safety", reward_model, r1.safety, start=dev3, data=[labelled])
    first = reinforced("r1-reasoning", r1.reasoning, dev3)
    both = _mixed(recipe, {**r1.general.tasks, **r1.general_tasks})
    device = r1.general.learner.device
    parts: dict[str, rewards.Reward] = {"helpful": later(helpful.path, device), "safe": later(safety.path, device)}
    parts["format"] = rewards.format_
    by_rule = rewards.each({**rewards.shipped(both.check, both.checks), **recipe.rewards}, r1.general.rewards)
    by_model = {kind: rewards.each(parts, {kind: 1.0, "format": 0.2}) for kind in ("helpful", "safe")}
    grades = {
        n: by_rule if n in r1.general.tasks else by_model["safe" if n in r1.labels.tasks else "helpful"]
        for n in both.tasks
    }
    told = Routed(grades, f"{r1.general.rewards} {helpful.key} {safety.key}")
    last = reinforced("r1", r1.general, dev3, told, task=both, continue_from=first)
    help_.close()
    made = {"zero": zero_, "dev1": dev1, "dev2": dev2, "dev3": dev3, "r1": last}
    if cfg.student:
        made["student"] = stage("student", sft, r1.student, start=base_of(cfg.student), data=[large])
    return made
