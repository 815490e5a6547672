"""Learning from rows that are all there at the start: pretraining, fine-tuning, reward models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from incentive.learner import Learner, Loss
from incentive.records import Example
from incentive.stage import Stage


def learn(
    stage: Stage,
    learner: Learner[Any],
    steps: int,
    batch: Callable[[int], list[Example]],
    loss: Loss,
    show: Callable[[dict[str, Any]], None],
    *,
    phase: str,
    seconds: float = 60,
    keep: int = 1,
) -> None:
    """Update until `steps`, from the stage's last checkpoint on; the normaliser is in the rows' weights.

    Args:
        batch: the rows of a step, from 0 on.
        seconds: a checkpoint at least so often; `keep` of them stay.

    Raises:
        Stopped: the user asked to stop; it is saved.
    """
    found = stage.resume()
    if found:
        learner.load(found[1] / "training.safetensors", found[0])
    saved = time.monotonic()
    for step in range(learner.steps, steps):
        began = time.monotonic()
        rows = batch(step)
        stats = learner.step(rows, loss)
        trained = sum(len(e.ids) for e in rows)
        row = {"step": step + 1, **stats, "tokens/trained": trained, "time/step": time.monotonic() - began}
        stage.record(row)
        show({"phase": phase, "done": step + 1, "total": steps, **row})
        if stage.stopping or time.monotonic() - saved > seconds:
            with stage.checkpoint(step + 1) as folder:
                learner.save(folder / "training.safetensors")
            stage.prune_checkpoints(keep)
            saved = time.monotonic()
            if stage.stopping:
                raise stage.stopped(step + 1)
