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
reward models in its last part alone, which goes on with weights, optimizer, reference and data cursor. Changed: requests
that may do harm get a little of the helpful reward too (`general_grades`); and for the miniature the sizes, a penalty for
repetition in answers that the helpful model scores, and programs in the place of judges (`proxy`, `restyle`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from incentive import helpers, rewards
from incentive.ahead import Planned
from incentive.config import RL, SFT, Curate, Eval, Pipeline, Prefer, Rows
from incentive.config import Run as Settings
from incentive.hacking import Watch
from incentive.keys import Artifact
from incentive.recipes.base import Recipe, Show
from incentive.recipes.zero import ZERO_MINI_RL, base_of, contamination, evaluated, known, preflight, summary, zero
from incentive.records import Problem, Sample, Score
from incentive.run import Run

REASONING = {
    "countdown3": 1.0, "countdown3-zh": 1.0, "countdown4": 1.0, "countdown4-zh": 1.0, "program": 1.0, "program-zh": 1.0,
    "logic": 0.5, "logic-zh": 0.5, "choice": 0.5, "choice-zh": 0.5,
}  # fmt: skip
GENERAL = ("general", "general-zh", "harm", "harm-zh")
CONSTRAINED = {"instruct": 1.0, "instruct-zh": 1.0}
FAR = ("hub:", "reasoning-gym/")  # a data set may have no test split, and puzzles of one are slow to make
MODELS = ("base", "zero", "dev1", "dev2", "dev3", "r1", "student")  # the columns of the stage table
TABLE = (*REASONING, *CONSTRAINED, *GENERAL)  # the benchmarks of the stage table


def _rl(tasks: dict[str, float], steps: int, **more: Any) -> dict[str, Any]:
    return {**ZERO_MINI_RL, "tasks": tasks, "max_steps": steps, **more}


def r1_mini() -> dict[str, Any]:
    """The whole of R1 at miniature scale, from a base of the wide world: R1-Zero, cold start, RL with the language
    reward, rejection sampling, reward models, the last RL stage, a distilled student.

    Its base and its student's are in the package (`incentive run base-wide` and `base-student` make them); others are given
    with --set base=FOLDER and --set student=FOLDER.
    """
    data = zero(REASONING, max_steps=80)
    longest = {"max_tokens": ZERO_MINI_RL["sampling"]["max_tokens"]}
    ruled = {"accuracy": 1.0, "summarised": 0.2, "language": 0.3}
    cool = {"temperature": 0.7, **longest}
    drawn = {"sampling": {"temperature": 1.0, **longest}}
    # fine-tuning anew from the base forgets most of long searches, of which few answers are right; RL learns most there
    weights = {"countdown4": 1.5, "logic": 1.5}
    recalled = {n: weights.get(n.removesuffix("-zh"), 1.0) for n in REASONING}
    hard = {n: (weights | {"program": 0.5, "choice": 0.5}).get(n.removesuffix("-zh"), 1.0) for n in REASONING}
    tuned = {
        "epochs": 4,
        "tokens_per_step": 4096,
        "optim": {"learning_rate": 1.2e-3, "lr_scheduler_type": "cosine", "warmup_steps": 5},
    }
    readable = {"run": 40, "repeated": 0.5, "lines": 0.3, "longest": 600}
    data["eval"] |= {"tasks": list(TABLE), "problems": 100, "samples": 4, "also_t1": False}
    return data | {
        "base": "base-wide",
        "student": "base-student",
        "r1": {
            "cold": {"tasks": {**recalled, **CONSTRAINED}, "problems": 4096, "samples": 4, "per_problem": 2, "near": 1.0,
                     "readable": readable, **drawn},
            "dev1": tuned,
            "dev2": _rl(hard, 60, rewards=ruled),
            "reject": {"tasks": {**recalled, **CONSTRAINED}, "problems": 4096, "samples": 4, "per_problem": 2, "near": 1.0,
                       "readable": readable, **drawn},
            "dev3": tuned,
            "pairs": {"tasks": {"general": 1.0, "general-zh": 1.0, "harm": 0.3, "harm-zh": 0.3}, "problems": 4096, "samples": 4, **drawn},
            "labels": {"tasks": {"harm": 1.0, "harm-zh": 1.0}, "problems": 2048, **drawn},
            "helpful": {"batch": 64, "epochs": 2, "optim": {"learning_rate": 5e-4, "lr_scheduler_type": "cosine"}},
            "safety": {"kind": "pointwise", "batch": 64, "epochs": 2,
                       "optim": {"learning_rate": 5e-4, "lr_scheduler_type": "cosine"}},
            "reasoning": _rl(hard, 30, rewards=ruled, sampling=cool),
            "general": _rl(hard, 75, rewards=ruled, sampling=cool, eval_steps=5, eval_problems=224),
            "general_tasks": {"general": 3.5, "general-zh": 3.5, "harm": 2.0, "harm-zh": 2.0},
            "helpful_rewards": {"helpful": 1.0, "format": 0.2, "language": 0.3, "repetition": 2.0},
            "rows": 2000,
            "student": tuned | {"epochs": 6},
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
    last = "zero-longer" if longer else "zero"
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
        Planned("cold-start", r1.cold, last),
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
        Planned("r1", r1.general, "r1-reasoning", ("helpful", "safety"), r1.reasoning.max_steps, both,
                graded=open_weights(r1, by_models(r1))),
        *([Planned("student", r1.student, "student base", ("rejection-sampling",))] if cfg.student else []),
        *(Planned(f"eval-{name}", cfg.eval, last if name == "zero" else name) for name in models if cfg.eval),
    ]  # fmt: skip


class Routed:
    """One grade for reasoning and general prompts: each task is graded by its own rewards, as the paper's equations 8 to
    10 add them up: a prompt is either the one or the other."""

    def __init__(self, grades: dict[str, rewards.Grade], version: str):
        self.grades, self.version = grades, version

    def __call__(self, problem: Problem, samples: list[Sample]) -> list[Score]:
        return self.grades[problem.tags["task"]](problem, samples)


EARLY = {  # asked in R1-Zero's template; the arms of `r1_findings` that compare with it too
    "base", "zero", "zero-longer", "cold-start", "own", "sft-own", "student-base", "student-zero",
}  # fmt: skip


def template_of(cfg: Settings, stage: str) -> str:
    """The template of a stage, or of the model that an evaluation names."""
    assert cfg.r1 is not None
    return cfg.template if stage.removesuffix("-t1") in EARLY else cfg.r1.template or cfg.template


def mixed(recipe: Recipe, shares: dict[str, float]) -> Any:
    from incentive.stages.evaluate import mixture

    found: Any = mixture(shares, {n: known(recipe.tasks, n) for n in shares})
    found.version = str(shares)  # other problems are another stage
    return found


def ruled(recipe: Recipe, task: Any, weights: dict[str, float]) -> Routed:
    grade = rewards.each({**rewards.shipped(task.check, task.checks), **recipe.rewards}, weights)
    return Routed(dict.fromkeys(task.tasks, grade), str(weights))


def watch(tasks: Iterable[str], checked: Iterable[str] = ()) -> Watch:
    """The ground truths that no reward model sees, of those tasks: the world's rubric, and what rules check.

    Args:
        checked: those that a rule checks, all one truth where none of the tasks is the world's.
    """
    names = tuple(tasks)
    kinds = {"the rubric": "general", "maths": "countdown", "code": "program"}
    truths = {what: tuple(n for n in names if n.startswith(kind)) for what, kind in kinds.items()}
    found = {what: of for what, of in truths.items() if of}
    return Watch("helpful", found or {"what rules check": tuple(checked)})


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:
    """Every stage in its order; then the stage table."""
    line = artifacts(run, show, recipe)
    return summed(line, table(line))


class Line:
    """One run of the recipe: its artifacts by their stages' names, and what each has met of the evaluation sets."""

    def __init__(self, run: Run, show: Show, recipe: Recipe, base: Artifact):
        self.run, self.show, self.recipe = run, show, recipe
        self.made: dict[str, Artifact] = {"base": base}
        self.reinforced: dict[str, RL] = {}  # the sections of the RL stages
        self.steps = 0  # updates of all of them
        e, r1 = run.config.eval, run.config.r1
        assert r1 is not None
        self.helpers = helpers.of(run.config, run.dir)
        drawn = (*r1.cold.tasks, *r1.reject.tasks)
        own = [n for n in drawn if not n.startswith(FAR)]
        names = dict.fromkeys((*(e.tasks if e else ()), *own))
        self.tasks = {name: known(recipe.tasks, name) for name in (e.tasks if e else ())}
        self.met = contamination(run, base, {name: known(recipe.tasks, name) for name in names})

    def stage(
        self, name: str, fn: Callable[..., Artifact], section: Any, by: tuple[Artifact, ...] = (), **kw: Any
    ) -> Artifact:
        """A stage that fine-tunes or makes data, after a look at what it is about to learn from. `by` grades its answers.

        What curation holds out counts in no key: other evaluations are no other training, and the look says if they should be.
        """
        unkeyed: dict[str, Any] = {
            "show": self.show,
            **({"held": self.met.held} if isinstance(section, Curate | Rows) else {}),
            **({"spent": self.helpers.spent} if isinstance(section, Curate | Prefer) else {}),
            **({"workers": self.helpers.workers} if isinstance(section, Prefer) else {}),
        }
        self.show({"phase": "begin", "stage": name})
        if isinstance(section, SFT):
            self.met.rows(name, kw["data"])
        elif isinstance(section, Prefer):  # a reward model's prompts
            self.met.drawn(name, kw["task"], self.run.config.seed, section.problems)
        made = self.run.stage(name, partial(fn, **unkeyed), section, template=template_of(self.run.config, name), **kw)
        self.made[name] = self.met.made(name, made, by)
        return self.made[name]

    def reinforce(self, name: str, section: RL, start: Artifact, by: tuple[Artifact, ...] = (), **kw: Any) -> Artifact:
        """An RL stage. By default its problems are the section's tasks, graded by the section's rewards."""
        from incentive.contamination import drawn_by
        from incentive.stages.rl import rl

        task = kw.pop("task", None) or mixed(self.recipe, section.tasks)
        grade = kw.pop("grade", None) or ruled(self.recipe, task, section.rewards)
        self.show(
            {"phase": "begin", "stage": name, "metrics": self.run.dir / name / "metrics.jsonl", "section": section}
        )
        self.met.drawn(name, task, self.run.config.seed, drawn_by(section))
        template = template_of(self.run.config, name)
        how: dict[str, Any] = {"start": start, "task": task, "grade": grade, "template": template, **kw}
        made = self.run.stage(name, partial(rl, show=self.show), section, **how)
        before = kw["continue_from"].meta["steps"] if "continue_from" in kw else 0  # its steps are counted on
        self.reinforced[name] = section
        self.steps += made.meta["steps"] - before
        self.made[name] = self.met.made(name, made, by)
        return self.made[name]

    def evaluate(self, name: str, model: Artifact, section: Eval | None = None) -> dict[str, Any]:
        """The results of stage `eval-NAME`."""
        asked = section or self.run.config.eval
        tasks = {n: self.tasks[n] for n in asked.tasks} if asked else {}
        template = template_of(self.run.config, name)
        return evaluated(self.run, self.show, self.met, f"eval-{name}", model, tasks, asked, template)


def table(line: Line) -> dict[str, dict[str, Any]]:
    """The stage table: each of the recipe's models on each task; empty where nothing is evaluated."""
    if line.run.config.eval is None:
        return {}
    return {name: line.evaluate(name, line.made[name]) for name in MODELS if name in line.made}


def summed(line: Line, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The summary with the stage table, once every stage has run: its cost is that of all of them."""
    found: dict[str, Any] = {"steps": line.steps}
    if models:
        found |= {"before": models["base"], "after": models["zero"]}
    return summary(line.run, line.made["base"].path, found, line.reinforced) | {"table": models}


def open_weights(r1: Pipeline, tasks: Iterable[str]) -> dict[str, dict[str, float]]:
    """The weights of the rewards of tasks that reward models score."""
    of = {n: r1.safe_rewards if n in r1.labels.tasks else r1.helpful_rewards for n in tasks}
    return {n: {str(reward): w for reward, w in weights.items()} for n, weights in of.items()}


def by_models(r1: Pipeline) -> list[str]:
    """The tasks that reward models score in the last stage."""
    return [n for n in r1.general_tasks if n not in r1.general.tasks]


def general_grades(
    helpful: Artifact, safety: Artifact, weights: Mapping[str, dict[str, float]], device: str = "cpu"
) -> dict[str, rewards.Grade]:
    """What grades prompts that no rule checks, by task.

    The paper gives a general prompt one model, helpful or safe. A safety model alone takes declining for as good as helping,
    and what it teaches of harmful requests spreads to their look-alikes: R1 then declines them. So `safe_rewards` holds a
    little of the helpful reward too. Form and language are the rules' that the paper adds to every prompt.

    Args:
        weights: of each task's rewards.
    """
    from incentive.model_reward import later

    parts: dict[str, rewards.Reward] = {"helpful": later(helpful.path, device), "safe": later(safety.path, device)}
    parts |= {"format": rewards.format_, "language": rewards.spoken, "repetition": rewards.repetition}
    return {task: rewards.each(parts, own) for task, own in weights.items()}


def ending(line: Line, r1: Pipeline, by_model: Mapping[str, dict[str, float]]) -> dict[str, Any]:
    """What the last RL stage is given: prompts of both kinds, their grades, where it goes on, and what tells the truth.

    Args:
        by_model: weights of the rewards of each task that reward models score.
    """
    helpful, safety = line.made["helpful"], line.made["safety"]
    both = mixed(line.recipe, {**r1.general.tasks, **r1.general_tasks})
    grades = ruled(line.recipe, both, r1.general.rewards).grades
    grades |= general_grades(helpful, safety, by_model, r1.general.learner.device)
    told = Routed(grades, f"{r1.general.rewards} {by_model} {helpful.key} {safety.key}")
    watched = watch(both.tasks, r1.general.tasks)
    return {"grade": told, "task": both, "continue_from": line.made["r1-reasoning"], "watch": watched}


def artifacts(run: Run, show: Show, recipe: Recipe) -> Line:
    """From the base to R1 and the student."""
    from incentive.stages.curate import curate
    from incentive.stages.prefer import labels, pairs
    from incentive.stages.public import public
    from incentive.stages.reward_model import reward_model
    from incentive.stages.rows import rows
    from incentive.stages.sft import sft

    cfg, r1 = run.config, run.config.r1
    assert r1 is not None
    assert cfg.rl is not None
    base = base_of(cfg.base)
    line = Line(run, show, recipe, base)
    task = mixed(recipe, cfg.rl.tasks)
    preflight(run, show, base, task, ruled(recipe, task, cfg.rl.rewards), line.tasks)
    stage, reinforce, by = line.stage, line.reinforce, line.helpers
    zero_ = reinforce("zero", cfg.rl, base)
    if r1.longer:
        zero_ = line.made["zero"] = reinforce("zero-longer", r1.longer, base, continue_from=zero_)
    drawn = mixed(recipe, r1.cold.tasks)
    cold = stage("cold-start", curate, r1.cold, start=zero_, task=drawn, rewrite=by.rewrite)
    dev1 = stage("dev1", sft, r1.dev1, start=base, data=[cold])
    dev2 = reinforce("dev2", r1.dev2, dev1)
    if r1.public:
        more = stage("rows", public, r1.public, start=base)
    else:
        show({"phase": "begin", "stage": "rows"})
        more = run.stage("rows", rows, None, n=r1.rows, seed=cfg.seed)
    drawn = mixed(recipe, r1.reject.tasks)
    judged: dict[str, Any] = {"judges": judges} if (judges := by.judges(drawn.tasks)) else {}
    large = stage("rejection-sampling", curate, r1.reject, start=dev2, task=drawn, data=[more],
                  form=rewards.summarised, **judged)  # fmt: skip
    dev3 = stage("dev3", sft, r1.dev3, start=base, data=[large])
    compared = stage("pairs", pairs, r1.pairs, start=dev3, task=mixed(recipe, r1.pairs.tasks), judge=by.compare)
    labelled = stage("labels", labels, r1.labels, start=dev3, task=mixed(recipe, r1.labels.tasks), label=by.label)
    helpful = stage("helpful", reward_model, r1.helpful, start=dev3, data=[compared])
    safety = stage("safety", reward_model, r1.safety, start=dev3, data=[labelled])
    reinforce("r1-reasoning", r1.reasoning, dev3)
    reinforce("r1", r1.general, dev3, by=(helpful, safety), **ending(line, r1, open_weights(r1, by_models(r1))))
    by.close()
    if cfg.student:
        student = base_of(cfg.student)
        line.met.base(student, "student's corpus")
        stage("student", sft, r1.student, start=student, data=[large])
    return line
