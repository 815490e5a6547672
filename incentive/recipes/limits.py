"""Recipes against R1's limits, each beside `incentive limits`, which measures them.

zero-brief   R1-Zero goes on, with a reward for short right answers
zero-json    JSON in the form that a schema asks for
tool-mini    a calculator: a short fine-tuning shows calls, good and bad; RL decides which of them it makes
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from incentive.ahead import Planned
from incentive.config import SFT, Optim
from incentive.config import Run as Settings
from incentive.files import write_folder
from incentive.keys import Artifact
from incentive.recipes import zero
from incentive.recipes.base import Recipe, Show
from incentive.run import Run

ZERO = "runs/zero-mini/zero/model"  # where `incentive run zero-mini` puts it
CALLS = 4000  # rows that show how people use a calculator
COLD = SFT(
    epochs=2,
    tokens_per_step=2048,
    optim=Optim(optimizer="muon", learning_rate=3e-3, lr_scheduler_type="cosine", warmup_steps=5),
)


def zero_brief() -> dict[str, Any]:
    """R1-Zero goes on with a reward for short right answers (`length`): overthinking's remedy.

    Its start is what zero-mini made; another is given with --set base=FOLDER. The control is the same without that
    reward: --set 'rl.rewards={accuracy=1.0, format=0.2}'.
    """
    data = zero.zero(
        {"countdown3": 0.5, "countdown4": 0.5},
        rewards={"accuracy": 1.0, "format": 0.2, "length": 0.6},
        max_steps=40,
        problems_per_step=24,
        ref_sync_steps=10,  # shorter thoughts are as far from the start as longer ones were from the base
    )
    return data | {"base": ZERO}


def zero_json() -> dict[str, Any]:
    """RL on answers in JSON, paid for the form that a JSON Schema asks for and for what stands in it.

    The wide world's base has seen JSON, often broken; --set base=FOLDER gives another.
    """
    data = zero.zero(
        {"instruct-json": 1.0},
        rewards={"accuracy": 1.0, "format": 0.2, "schema": 0.5},
        max_steps=50,
        problems_per_step=16,
        sampling={"temperature": 1.0, "max_tokens": 160},
        eval_problems=64,
    )
    data["eval"]["sampling"]["max_tokens"] = 160
    return data | {"base": "base-wide"}


def tool_mini() -> dict[str, Any]:
    """A calculator in the middle of an answer: sums that are too large for the miniature's head.

    A short fine-tuning shows calls, good and bad, and sums done in the head; only right answers are rewarded. What the
    calculator says is masked from the loss.
    """
    longest = {"max_tokens": 128}
    data = zero.zero(
        {"sums": 1.0}, max_steps=40, problems_per_step=16, sampling={"temperature": 1.0, **longest}, eval_problems=64
    )
    data["eval"]["sampling"] |= longest
    return data


def calls(stage: Any, section: Any, start: Artifact | None = None, data: Any = (), *, n: int, seed: int) -> Artifact:  # noqa: ARG001
    """The rows of the fine-tuning, as a data set."""
    from incentive.corpus.calls import rows
    from incentive.files import write_lines

    with write_folder(stage.dir / "rows") as folder:
        write_lines(folder / "000001.jsonl.zst", rows(n, seed))
    return Artifact("dataset", stage.dir / "rows", meta={"rows": n})


def stages(cfg: Settings) -> list[Planned]:
    learnt = [replace(p, start="cold") if p.start == "base" else p for p in zero.stages(cfg)]
    about = f"{CALLS:,} rows that show how people use a calculator, well and badly"
    return [Planned("calls", about=about, rows=CALLS), Planned("cold", COLD, "base", ("calls",)), *learnt]


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:
    """Rows, a short fine-tuning, then before, zero and after, as R1-Zero has them."""
    from incentive.stages.sft import sft

    base, mixture, grade, tasks = zero.parts(recipe, run.config)
    met = zero.contamination(run, base, tasks)
    shown = run.stage("calls", calls, None, n=CALLS, seed=run.config.seed)
    show({"phase": "begin", "stage": "cold"})
    met.rows("cold", [shown])
    how: dict[str, Any] = {"start": base, "data": [shown], "template": run.config.template}
    cold = met.made("cold", run.stage("cold", partial(sft, show=show), COLD, **how))
    return zero.reinforced(run, show, cold, mixture, grade, tasks, met)
