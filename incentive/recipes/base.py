"""What a recipe is, and the recipe of the base model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from incentive import ledger
from incentive.ahead import Planned
from incentive.config import Run as Settings
from incentive.run import Run

Show = Callable[[dict[str, Any]], None]
Pipeline = Callable[[Run, Show, "Recipe"], dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """Settings and the function that composes stages from them.

    `tasks` and `rewards` are the user's own, by name; a shipped name needs no entry.
    """

    name: str
    data: dict[str, Any]
    pipeline: Pipeline
    doc: str = ""
    tasks: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)


def near(name: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing."""
    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def base_mini() -> dict[str, Any]:
    """The base model from nothing: made-up documents, a tokenizer, next-token prediction; half an hour on one core.

    Its documents hold every habit of a solver, good and bad, unmarked. Nothing of the val and test splits is in them.
    """
    return {"pretrain": {}}


def base_wide() -> dict[str, Any]:
    """The base of the whole R1 recipe, from nothing: documents of the wide world, in English and Chinese, with programs,
    choice questions, instructions, talk and requests to do harm; half an hour to an hour on two cores."""
    return {
        "pretrain": {
            "world": "wide",
            "documents": 1_000_000,
            "retry_dose": 0.05,
            "model": {"hidden_size": 160, "intermediate_size": 448, "num_attention_heads": 5, "num_key_value_heads": 5,
                      "vocab_size": 768},
        }
    }  # fmt: skip


def base_student() -> dict[str, Any]:
    """A smaller base of the wide world, for distillation: a third of the parameters, the first part of the documents."""
    wide = base_wide()["pretrain"]
    model = {
        **wide["model"],
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
    }
    return {"pretrain": {**wide, "documents": 400_000, "model": model}}


def stages(cfg: Settings) -> list[Planned]:
    return [
        Planned("base", cfg.pretrain),
        Planned("skills", start="base", about="what the model can do, skill by skill"),
    ]


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:  # noqa: ARG001
    """Pretrain, then measure the skills; the model lies in DIR/base/model, with its card."""
    from incentive.files import write_atomic
    from incentive.stages.pretrain import pretrain
    from incentive.stages.skills import TASKS, WIDE, measure_skills, model_card

    cfg = run.config
    show({"phase": "begin", "stage": "base"})
    made = run.stage("base", partial(pretrain, show=show), cfg.pretrain)
    show({"phase": "begin", "stage": "skills"})
    assert cfg.pretrain is not None
    names = WIDE if cfg.pretrain.world == "wide" else TASKS
    skills = run.stage("skills", partial(measure_skills, names=names, show=show), None, start=made)
    size = ledger.count_parameters(made.path) or 0
    cost = ledger.fold(run.dir / "base/metrics.jsonl", size, cfg.threads, cfg.price_per_core_hour, scorings=0)
    about = {
        "parameters": f"{size:,}",
        "made by": f"`incentive run {cfg.recipe} --seed {cfg.seed}`, dose of the retry habit {cfg.pretrain.retry_dose:g}",
        "documents": f"{cfg.pretrain.documents:,}, each seen once",
        "tokens": f"{cost.tokens_trained:,.0f} in {cost.steps} steps",
        "time": f"{cost.seconds / 60:.0f} minutes on {cfg.threads} thread{'s' if cfg.threads > 1 else ''}",
    }
    write_atomic(made.path / "README.md", model_card(cfg.recipe, skills.meta, about))
    out = {
        "model": str(made.path.relative_to(run.dir)),
        "parameters": size,
        "train_seconds": cost.seconds,
        "steps": cost.steps,
    }
    out |= {"tokens": cost.tokens_trained, "cost": cost.money, "core_hours": cost.core_hours, "flops": cost.flops}
    return out | {"skills": skills.meta["skills"]}
