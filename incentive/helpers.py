"""Who rewrites, compares, labels and judges in the pipeline: programs in the miniature, at scale a model behind an endpoint.

One setting decides, `r1.judge`. With it a cold-start answer is rewritten by the model, pairs are compared and answers
labelled by it, and it says whether an answer agrees with the reference where no rule can (tasks with `check=judge`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incentive.config import ConfigError, Run

CACHE = "judge.jsonl"  # in the run directory: what the model has said, so that a killed run asks nothing twice


@dataclass(frozen=True)
class Helpers:
    """`rewrite`, `compare` and `label` are for the stages `curate`, `pairs` and `labels`; `agrees` is None without a
    model. `spent` is what calls cost since it was last asked, and `workers` how many may wait beside each other."""

    rewrite: Callable[..., str | None]
    compare: Callable[..., float | None]
    label: Callable[..., bool | None]
    agrees: Callable[..., bool | None] | None = None
    spent: Callable[[], dict[str, float]] = dict
    workers: int = 1
    close: Callable[[], None] = field(default=lambda: None)

    def judges(self, tasks: dict[str, Any]) -> dict[str, Callable[..., bool | None]]:
        """The judge of each task that no rule checks, by its name.

        Raises:
            ConfigError: there is such a task and no model to judge it.
        """
        judged = [name for name, task in tasks.items() if getattr(task, "judged", False)]
        if judged and self.agrees is None:
            raise ConfigError(f"{judged[0]}: check=judge needs a model\nGive r1.judge.url and r1.judge.model.")
        return {name: self.agrees for name in judged if self.agrees is not None}


def of(config: Run, directory: Path) -> Helpers:
    """The helpers that the settings name.

    Raises:
        ConfigError: the endpoint's key is not set, or httpx is missing.
    """
    assert config.r1 is not None
    endpoint = config.r1.judge
    if endpoint is None:
        from incentive import proxy
        from incentive.restyle import restyle

        return Helpers(restyle, proxy.Helpful(config.seed), proxy.safe)
    from incentive import judge
    from incentive.endpoint import Client
    from incentive.rewrite import rewriter
    from incentive.safety.review import labeller

    client = Client(endpoint, directory / CACHE)
    return Helpers(
        rewriter(client), judge.pairwise(client), labeller(client), judge.agrees(client), client.row,
        endpoint.concurrency, client.close,
    )  # fmt: skip
