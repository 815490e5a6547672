"""What a recipe is, and the recipe of the base model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from incentive import ledger
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
    """The base model from nothing: made-up documents, a tokenizer, next-token prediction; about an hour on two cores.

    Its documents hold every habit of a solver, good and bad, unmarked. Nothing of the val and test splits is in them.
    """
    return {"pretrain": {}}


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:  # noqa: ARG001
    """One stage, `base`; the model lies in DIR/base/model."""
    from incentive.recipes.zero import parameters
    from incentive.stages.pretrain import pretrain

    show({"phase": "begin", "stage": "base"})
    made = run.stage("base", partial(pretrain, show=show), run.config.pretrain)
    size = parameters(made.path)
    cost = ledger.fold(
        run.dir / "base/metrics.jsonl", size, run.config.threads, run.config.price_per_core_hour, scorings=0
    )
    out = {"model": str(made.path), "parameters": size, "train_seconds": cost.seconds, "steps": cost.steps}
    return out | {"tokens": cost.tokens_trained, "cost": cost.money, "core_hours": cost.core_hours, "flops": cost.flops}
