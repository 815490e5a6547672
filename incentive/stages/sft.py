"""Rejection sampling and supervised fine-tuning: learning from a policy's own right answers.

Kept from the paper (B.3.3): several samples a prompt, only right ones kept, SFT from base. It serves here as the control
beside RL; the pipeline's curation builds on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from incentive import chat, engine, rewards
from incentive.algo import loss as losses
from incentive.algo import weights
from incentive.config import SFT, Collect, Draw
from incentive.files import RunError, read_lines, write_folder
from incentive.keys import Artifact
from incentive.learner import Learner
from incentive.model.checkpoint import Policy, load_policy, resolve, save_policy
from incentive.records import Example, Group, group_from_json, hash64
from incentive.stage import Stage
from incentive.stages.evaluate import fit, gather, requests
from incentive.stages.learn import learn
from incentive.tasks import Mixture

Show = Callable[[dict[str, Any]], None]


class Sampler:
    """A policy that answers train problems, 64 at a time: what collecting and curating have in common.

    Args:
        key: the setting that names the longest answer, for errors.

    Raises:
        RunError: a prompt leaves no room for its longest answer.
    """

    def __init__(self, start: Artifact, section: Draw, task: Mixture, template: str, key: str):
        self.policy, self.tokenizer = load_policy(start.path, device=section.device)
        self.player = engine.local(self.policy, self.tokenizer, resolve(start.path), section.engine, share=True)
        self.section, self.task, self.template, self.key = section, task, template, key

    def batches(self, seed: int, grade: rewards.Grade, first: int = 0, done: int = 0) -> Iterator[list[Group]]:
        """Graded groups of the problems from index `first` on; the `done` batches of an earlier start are left out."""
        s = self.section
        for at in range(64 * done, s.problems, 64):
            problems = [self.task.problem(seed, "train", first + i) for i in range(at, min(at + 64, s.problems))]
            problems = list({p.id: p for p in problems}.values())
            fit(self.policy, self.tokenizer, problems, s.sampling, self.template, self.key)
            asked = requests(problems, s.samples, s.sampling, seed, self.template, self.tokenizer, self.task)
            yield gather(self.player.sample(asked), problems, grade, s.samples)


def tokens_of(groups: list[Group]) -> tuple[int, int]:
    """Sampled and prompt tokens that went through the engine."""
    return sum(len(s.ids) for g in groups for s in g.samples), sum(len(g.samples[0].prompt_ids) for g in groups)


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
    sampler = Sampler(start, section, task, template, "collect.sampling.max_tokens")
    grade = rewards.each(rewards.shipped(task.check, task.checks), {"accuracy": 1.0, "format": 1.0})
    stage.resume()
    kept = sampled = prompt = 0
    began = time.monotonic()
    for n, groups in enumerate(sampler.batches(stage.seed, grade, first), 1):
        more = tokens_of(groups)
        sampled, prompt = sampled + more[0], prompt + more[1]
        right = [_right(g) for g in groups]
        kept += sum(len(g.samples) for g in right)
        stage.rollouts(n, [g for g in right if g.samples])
        show({"phase": stage.dir.name, "done": min(64 * n, section.problems), "total": section.problems, "kept": kept})
        if stage.stopping:
            raise stage.stopped(n)
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


def examples_of(dataset: Path, tokenizer: PreTrainedTokenizerBase, template: str = "mini") -> list[Example]:
    """Every answer of a folder of rollouts, or row of a curated one, as a row whose loss looks at the answer alone."""
    rows = []
    for file in sorted(dataset.glob("*.jsonl.zst")):
        for line in read_lines(file):
            if "response" in line:
                rows.append(_curated(line, tokenizer, template))
                continue
            for s in group_from_json(line).samples:
                ids = np.concatenate([s.prompt_ids, s.ids])
                rows.append(Example(ids=ids, mask=np.arange(len(ids)) >= len(s.prompt_ids)))
    return rows


def _curated(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, template: str) -> Example:
    """A text row in the learner's own tokens, with its stop token. `turns` are pieces of the response where a tool has
    spoken, every second one the tool's: the loss does not look at those."""
    asked = tokenizer.encode(chat.render(template, row["prompt"], tokenizer), add_special_tokens=False)
    ids, mask = list(asked), [False] * len(asked)
    for n, piece in enumerate(row.get("turns") or [row["response"]]):
        said = tokenizer.encode(piece, add_special_tokens=False)
        ids += said
        mask += [n % 2 == 0] * len(said)
    return Example(ids=np.asarray([*ids, tokenizer.eos_token_id], dtype=np.int64), mask=np.asarray([*mask, True]))


def _fits(rows: list[Example], policy: Policy) -> None:
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    over = [len(e.ids) for e in rows if context is not None and len(e.ids) > context]
    if over:
        raise RunError(
            f"{len(over)} of {len(rows)} rows are longer than the model's context of {context} tokens (one has {max(over)})\n"
            "Curate with a lower sampling.max_tokens, or start from a model with a longer context."
        )


def sft(
    stage: Stage,
    section: SFT,
    start: Artifact | None = None,
    data: Collection[Artifact] = (),
    *,
    template: str = "mini",
    show: Show = lambda _: None,
) -> Artifact:
    """Fine-tune `start` on the datasets, folders of rollouts or of curated rows; ends with `model/`.

    Raises:
        RunError: a row is longer than the model's context, or there is none.
    """
    assert start is not None
    policy, tokenizer = load_policy(start.path, section.learner.dtype, section.learner.device)
    rows = [e for d in data for e in examples_of(d.path, tokenizer, template)]
    if not rows:
        raise RunError(f"no row to learn from in {', '.join(str(d.path) for d in data) or 'no dataset'}")
    _fits(rows, policy)
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

    def batch(step: int) -> list[Example]:
        return weights.token_mean([rows[i] for i in steps[step]])

    learn(stage, learner, len(steps), batch, losses.nll, show, phase=stage.dir.name)
    with write_folder(stage.dir / "model") as folder:
        save_policy(folder, learner.policy, tokenizer)
    return Artifact("weights", stage.dir / "model", meta={"rows": len(rows), "steps": len(steps)})
