"""Rejection sampling and supervised fine-tuning: learning from a policy's own right answers.

Kept from the paper (B.3.3): several samples a prompt, only right ones kept, SFT from base. It serves here as the control
beside RL; the pipeline's curation builds on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from incentive import engine, rewards
from incentive.algo import loss as losses
from incentive.algo import weights
from incentive.config import SFT, Collect
from incentive.learner import Learner
from incentive.model.checkpoint import load_policy, resolve, save_policy
from incentive.records import Example, Group, hash64
from incentive.run import Artifact, RunError, Stage, write_folder
from incentive.stages.evaluate import fit, gather, requests
from incentive.tasks import Mixture

Show = Callable[[dict[str, Any]], None]


def collect(
    stage: Stage,
    section: Collect,
    start: Artifact | None = None,
    data: Collection[Any] = (),  # noqa: ARG001
    *,
    task: Mixture,
    template: str = "mini",
    first: int = 0,
    show: Show = lambda _: None,
) -> Artifact:
    """Sample train problems and keep the answers that are right and well-formed; the artifact is a folder of rollouts.

    `first` is the first problem's index, so that rounds see different problems.

    Raises:
        RunError: no answer was right.
    """
    assert start is not None
    policy, tokenizer = load_policy(start.path)
    player = engine.local(policy, tokenizer, resolve(start.path), section.engine, share=True)
    grade = rewards.each(rewards.shipped(task.check), {"accuracy": 1.0, "format": 1.0})
    stage.resume()
    kept = sampled = prompt = 0
    began = time.monotonic()
    for at in range(0, section.problems, 64):
        problems = [task.problem(stage.seed, "train", first + i) for i in range(at, min(at + 64, section.problems))]
        problems = list({p.id: p for p in problems}.values())
        fit(policy, tokenizer, problems, section.sampling, template, "collect.sampling.max_tokens")
        asked = requests(problems, section.samples, section.sampling, stage.seed, template, tokenizer)
        groups = gather(player.sample(asked), problems, grade, section.samples)
        sampled += sum(len(s.ids) for g in groups for s in g.samples)
        prompt += sum(len(g.samples[0].prompt_ids) for g in groups)
        right = [_right(g) for g in groups]
        kept += sum(len(g.samples) for g in right)
        stage.rollouts(at // 64 + 1, [g for g in right if g.samples])
        show({"phase": stage.dir.name, "done": min(at + 64, section.problems), "total": section.problems, "kept": kept})
        if stage.stopping:
            raise stage.stopped(at // 64 + 1)
        if section.tokens and sampled >= section.tokens:
            break
    row = {"step": 1, "kept": kept, "tokens/sampled": sampled, "tokens/prompt": prompt}
    stage.record(row | {"time/sample": time.monotonic() - began})
    if not kept:
        raise RunError(
            f"none of {section.problems * section.samples} answers was right, so there is nothing to learn from"
        )
    return Artifact("dataset", stage.dir / "rollouts", meta={"kept": kept, "tokens": sampled})


def _right(group: Group) -> Group:
    pairs = [(s, c) for s, c in zip(group.samples, group.scores, strict=True) if c.total == 2.0]
    return Group(group.problem, [s for s, _ in pairs], [c for _, c in pairs])


def examples_of(dataset: Path) -> list[Example]:
    """Every answer of a folder of rollouts as a row whose loss looks at the answer alone."""
    folder, rows = Stage(dataset.parent), []
    for file in sorted(dataset.glob("*.jsonl.zst")):
        for group in folder.read_rollouts(int(file.name.split(".")[0])):
            for s in group.samples:
                ids = np.concatenate([s.prompt_ids, s.ids])
                rows.append(Example(ids=ids, mask=np.arange(len(ids)) >= len(s.prompt_ids)))
    return rows


def sft(
    stage: Stage,
    section: SFT,
    start: Artifact | None = None,
    data: Collection[Artifact] = (),
    *,
    show: Show = lambda _: None,
) -> Artifact:
    """Fine-tune `start` on the datasets; ends with `model/`."""
    assert start is not None
    policy, tokenizer = load_policy(start.path, section.learner.dtype, section.learner.device)
    rows = [e for d in data for e in examples_of(d.path)]
    steps: list[list[int]] = []
    for epoch in range(section.epochs):
        order = list(range(len(rows)))
        Random(hash64("sft", stage.seed, epoch)).shuffle(order)
        filled = section.tokens_per_step
        for i in order:
            if filled + len(rows[i].ids) > section.tokens_per_step:
                steps.append([])
                filled = 0
            steps[-1].append(i)
            filled += len(rows[i].ids)
    learner = Learner(policy, section.optim, section.learner, len(steps))
    found = stage.resume()
    if found:
        learner.load(found[1] / "training.safetensors", found[0])
    saved = time.monotonic()
    for step in range(learner.steps, len(steps)):
        began = time.monotonic()
        batch = weights.token_mean([rows[i] for i in steps[step]])
        stats = learner.step(batch, losses.nll)
        trained = sum(len(e.ids) for e in batch)
        stage.record({"step": step + 1, **stats, "tokens/trained": trained, "time/step": time.monotonic() - began})
        show({"phase": stage.dir.name, "done": step + 1, "total": len(steps), **stats})
        if stage.stopping or time.monotonic() - saved > 60:
            with stage.checkpoint(step + 1) as folder:
                learner.save(folder / "training.safetensors")
            stage.prune_checkpoints(1)
            saved = time.monotonic()
            if stage.stopping:
                raise stage.stopped(step + 1)
    with write_folder(stage.dir / "model") as folder:
        save_policy(folder, learner.policy, tokenizer)
    return Artifact("weights", stage.dir / "model", meta={"rows": len(rows), "steps": len(steps)})
