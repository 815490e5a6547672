"""Our side of a training comparison, through the command that users type: `incentive run bench/recipe.py`.

The settings are zero-mini's, and the stage is the product's own. Left out is what the peer does not do either: the
preflight, evaluations before, during and after, checkpoints on the way. `bench` sets the work by `--set`.

At the end it prints one line of JSON. With BENCH_PHASES=1 it also tells where the time of `time/sample` and
`time/update` went; the product knows nothing of these clocks, they are put around its functions here.
"""

from __future__ import annotations

import json
import os
import threading
import time
from functools import partial
from importlib import import_module
from typing import Any

from incentive.recipes import zero
from incentive.recipes.base import Recipe, Show
from incentive.run import Run

KEPT = ("time/step", "time/sample", "time/reward", "time/score", "time/update", "reward", "tokens/sampled")


def recipe() -> dict[str, Any]:
    """zero-mini without probes, at a constant rate; nothing is saved before the end."""
    rate = zero.ZERO_MINI_RL["optim"]["learning_rate"]
    own = {"eval_steps": 0, "save_steps": 10**6, "optim": {"learning_rate": rate, "lr_scheduler_type": "constant"}}
    return {"rl": {**zero.ZERO_MINI_RL, "tasks": {"countdown3": 0.5, "countdown4": 0.5}, **own}}


def pipeline(run: Run, show: Show) -> dict[str, Any]:
    """The RL stage alone."""
    from incentive.stages.rl import rl

    cfg = run.config
    assert cfg.rl is not None
    base, task, grade, _ = zero.parts(Recipe("bench", {}, zero.pipeline), cfg)
    clock = phase_clocks() if os.environ.get("BENCH_PHASES") else {}
    ends: list[float] = []
    phases: list[dict[str, float]] = []

    def watch(event: dict[str, Any]) -> None:
        if event["phase"] == "step":
            ends.append(time.monotonic())
            phases.append(dict(clock))
            clock.update(dict.fromkeys(clock, 0.0))
        show(event)

    made = run.stage("zero", partial(rl, show=watch), cfg.rl, start=base, task=task, grade=grade, template=cfg.template)
    rows = [json.loads(line) for line in (run.dir / "zero/metrics.jsonl").read_text().splitlines()]
    begins = [ends[0] - rows[0]["time/step"], *ends]
    print(json.dumps({
        "seconds": [end - begin for begin, end in zip(begins, ends, strict=False)],
        "reward": [r["reward"] for r in rows], "tokens": [r["tokens/sampled"] for r in rows],
        "rows": [{k: r[k] for k in KEPT} for r in rows], "dtype": cfg.rl.learner.dtype, **gpu(cfg.rl.learner.device),
        **({"phases": phases} if clock else {}),
    }), flush=True)  # fmt: skip
    return zero.summary(run, base.path, {"steps": made.meta["steps"]})


def gpu(device: str) -> dict[str, float]:
    """What torch reserved of a GPU's memory at most."""
    import torch

    return {"gpu_mib": torch.cuda.max_memory_allocated() / 2**20} if device.startswith("cuda") else {}


def phase_clocks() -> dict[str, float]:
    """Put a clock around the functions that make up the phases; what is returned counts their seconds.

    A function that is gone, or that runs in another process, counts nothing, and its phase is then told with the next.
    """
    import torch

    names = ("incentive.engine.local", "incentive.learner", "incentive.model.decoder", "incentive.optim")
    local, learner, decoder, optim = map(import_module, names)
    main, threads = threading.current_thread(), torch.get_num_threads()

    places = [
        ("prefill", local._Worker, "_prefill"), ("decoder", decoder.SmallDecoder, "step"),
        ("decoder", decoder.LargeDecoder, "step"), ("draw", local, "draw"), ("forward", learner, "outputs"),
        ("backward", torch.Tensor, "backward"), ("optimizer", optim.AdamW, "step"),
    ]  # fmt: skip
    clock = {name: 0.0 for name, _, _ in places}

    def timed(plain: Any, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                beside = 1 if threading.current_thread() is main else threads  # so many do the same at once
                clock[name] += (time.perf_counter() - began) / beside

        return call

    for name, owner, function in places:
        if hasattr(owner, function):
            setattr(owner, function, timed(getattr(owner, function), name))
    return clock
