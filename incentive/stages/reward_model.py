"""Reward models: a scalar head learns which of two answers is better, or whether an answer is safe.

Kept from the paper (2.2.2): pairwise loss for the helpful model, which scores the summary alone; pointwise for the safety
model, which scores the whole response; batch 256, learning rate 6e-6, one epoch. Ours: the start is any language model
(the paper names the architecture, not the checkpoint), the head starts near zero, no weight decay, no warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from incentive import calibration, chat
from incentive.algo import loss as losses
from incentive.algo import weights
from incentive.config import RewardModel
from incentive.files import RunError, write_folder, write_json
from incentive.keys import Artifact
from incentive.learner import Learner
from incentive.model.scored import Reading, Scored, load_scored, rows_of, save_scored
from incentive.preferences import Label, Pair, read_labels, read_pairs
from incentive.records import Example, hash64, split_of
from incentive.stage import Stage
from incentive.stages.learn import learn
from incentive.tasks.jsonl import content

Show = Callable[[dict[str, Any]], None]
LEAST = 20  # held-out items; fewer say nothing


@dataclass(frozen=True, slots=True)
class Unit:
    """A pair as two rows, the chosen one first, or a labelled answer as one; with the lengths of what is scored."""

    rows: list[Example]
    lengths: tuple[int, ...]  # tokens of the answer, or its summary
    safe: bool | None = None


def units_of(
    items: list[Pair] | list[Label], reading: Reading, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[bool, Unit]]:
    """(held out, unit) of each item. A prompt is held out by a hash of its content, as every problem of `val` and `test`
    is, so that no prompt is on both sides."""
    for item in items:
        both = (item.chosen, item.rejected) if isinstance(item, Pair) else (item.response,)
        rows = rows_of(tokenizer, [reading.text(tokenizer, item.prompt, text) for text in both])
        before = len(tokenizer.encode(chat.render(reading.template, item.prompt, tokenizer), add_special_tokens=False))
        lengths = tuple(len(row.ids) - before for row in rows)
        held = split_of(content(item.prompt)) != "train"
        if isinstance(item, Pair):
            yield held, Unit([replace(row, rows=2) for row in rows], lengths)
        else:
            label = np.where(rows[0].mask, np.float32(item.safe), np.float32(0)).astype(np.float32)
            yield held, Unit([replace(rows[0], label=label)], lengths, item.safe)


def _plan(n: int, section: RewardModel, seed: int) -> list[list[int]]:
    """The units of each step: every epoch in an order of its own, the last step of an epoch with what is left."""
    steps: list[list[int]] = []
    for epoch in range(section.epochs):
        order = list(range(n))
        Random(hash64("reward-model", seed, epoch)).shuffle(order)
        steps += [order[i : i + section.batch] for i in range(0, n, section.batch)]
    return steps


def judged(learner: Learner[Scored], held: list[Unit], reading: Reading) -> tuple[dict[str, Any], Reading]:
    """What the model makes of the held-out units, and the reading with the scale of its scores."""
    rows = [row for unit in held for row in unit.rows]
    scores = [float(said[-1]) for said in learner.score(rows)]
    if len(held[0].rows) == 2:
        pairs = [(unit.lengths[0], unit.lengths[1]) for unit in held]
        scale = float(np.abs(np.subtract(scores[0::2], scores[1::2])).mean()) or 1.0
        reading = replace(reading, centre=float(np.median(scores)), scale=scale)
        return calibration.of_pairs(scores[0::2], scores[1::2], pairs), reading
    found = calibration.of_labels(scores, [bool(u.safe) for u in held], [u.lengths[0] for u in held])
    return found, reading


def _read(data: Collection[Artifact], section: RewardModel) -> list[Any]:
    items: list[Any] = []
    for artifact in data:
        items += read_pairs(artifact.path) if section.kind == "pairwise" else read_labels(artifact.path)
    return items


def reward_model(
    stage: Stage,
    section: RewardModel,
    start: Artifact | None = None,
    data: Collection[Artifact] = (),
    *,
    template: str = "mini",
    show: Show = lambda _: None,
) -> Artifact:
    """Train a reward model from `start` on folders of preference records; ends with `model/` and results.json.

    Raises:
        RunError: a line of the data is faulty, or too little is left to train on or to judge by.
    """
    assert start is not None
    scored, tokenizer = load_scored(
        start.path, section.learner.dtype, section.learner.device, hash64("head", stage.seed)
    )
    reading = Reading(section.kind, section.scores, template)
    found = list(units_of(_read(data, section), reading, tokenizer))
    fits = [(held, u) for held, u in found if max(len(row.ids) for row in u.rows) <= section.max_tokens]
    train, held = [u for h, u in fits if not h], [u for h, u in fits if h]
    if not train or len(held) < LEAST:
        raise RunError(
            f"{len(train)} {section.kind} records to train on and {len(held)} held out by prompt; at least {LEAST} are "
            f"needed\nGive more prompts (a tenth is held out), or raise max_tokens ({len(found) - len(fits)} were too long)."
        )
    steps = _plan(len(train), section, stage.seed)
    learner = Learner(scored, section.optim, section.learner, len(steps))
    loss = losses.pairwise if section.kind == "pairwise" else losses.pointwise

    def batch(step: int) -> list[Example]:
        return weights.token_mean([row for i in steps[step] for row in train[i].rows])

    learn(stage, learner, len(steps), batch, loss, show, phase=stage.dir.name)
    results, reading = judged(learner, held, reading)
    results = {"kind": section.kind, "scores": section.scores, "trained": len(train), "held_out": len(held)} | results
    results |= {
        "too_long": len(found) - len(fits),
        "steps": len(steps),
        "centre": reading.centre,
        "scale": reading.scale,
    }
    write_json(stage.dir / "results.json", results)
    with write_folder(stage.dir / "model") as folder:
        save_scored(folder, learner.policy, tokenizer, reading)
    accuracy = results["accuracy"]["share"]
    return Artifact("weights", stage.dir / "model", meta={"accuracy": accuracy, "steps": len(steps)})
