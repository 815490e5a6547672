"""R1-Zero: reinforcement learning on a base model with nothing but checked answers.

Kept from the paper: GRPO (eq. 1-3) with k3 KL in the loss, hard reference refresh, large rollouts cut into minibatches
of one pass each, the template, accuracy and format rewards. Changed: sizes, and for the miniature the settings that we
measured to work (see `recipes`). Deleted: nothing that the paper states.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from incentive import chat, engine
from incentive.algo import loss as losses
from incentive.algo.advantage import ADVANTAGES, assign, equal
from incentive.algo.weights import WEIGHTS
from incentive.config import RL, Sampling
from incentive.files import RunError, write_atomic, write_folder, write_json
from incentive.hacking import Fall, Monitor, Watch
from incentive.keys import Artifact
from incentive.learner import Learner
from incentive.model.checkpoint import frozen, load_policy, resolve, save_policy
from incentive.records import Example, Group, Problem, Sample, Score, hash64, to_json
from incentive.rewards import Grade
from incentive.stage import Stage
from incentive.stages.evaluate import PROBLEMS, ask, emergence, gather, requests, spoken_of
from incentive.tasks import Mixture, distinct

Show = Callable[[dict[str, Any]], None]
UNGRADED_LIMIT = 0.01  # of a rollout; above it the grader is down, not the model wrong


def truth_of(task: Any, group: Group) -> float:
    """What a problem's answers are truly worth, 0 to 1: by the task's own rubric where it has one, else by its check."""
    if not hasattr(task, "worth"):
        return float(np.mean([s.parts.get("accuracy", 0.0) for s in group.scores]))
    return float(np.mean([task.worth(group.problem, chat.split(s.text)[1] or "") for s in group.samples]))


def examples_of(groups: list[Group], advantage: Callable[[np.ndarray], np.ndarray]) -> list[Example]:
    """Rows of the update, in the order of the groups; samples that could not be graded are left out."""
    rows = []
    for g in groups:
        for sample, a in zip(g.samples, assign([s.total for s in g.scores], advantage), strict=True):
            if a is None:
                continue
            before = len(sample.prompt_ids)
            ids = np.concatenate([sample.prompt_ids, sample.ids])
            mask = np.concatenate([np.zeros(before, dtype=bool), sample.mask])
            logp = np.concatenate([np.zeros(before, dtype=np.float32), sample.sampler_logp])
            stream = np.where(mask, np.float32(a), np.float32(0)).astype(np.float32)
            rows.append(
                Example(ids=ids, mask=mask, advantage=stream, sampler_logp=logp, temperature=sample.temperature)
            )
    return rows


def informative(group: Group) -> bool:
    """Whether the group carries a gradient: at least two graded samples whose rewards differ."""
    totals = [s.total for s in group.scores if s.total is not None]
    return len(totals) > 1 and not equal(np.asarray(totals))


def describe(groups: list[Group], names: Collection[str]) -> dict[str, float | None]:
    """A rollout in numbers, under the names that TRL's users know."""
    samples = [s for g in groups for s in g.samples]
    scores = [s for g in groups for s in g.scores]
    names = dict.fromkeys([*names, *(name for s in scores for name in s.parts)])  # other prompts have other rewards
    totals = [s.total for s in scores if s.total is not None]
    lengths = np.array([len(s.ids) for s in samples])
    row: dict[str, float | None] = {"reward": float(np.mean(totals)), "reward_std": float(np.std(totals))}
    for name in names:
        if values := [s.parts[name] for s in scores if name in s.parts]:
            row[f"rewards/{name}/mean"] = float(np.mean(values))
    for task in dict.fromkeys(g.problem.tags["task"] for g in groups):
        found = [
            s.parts["accuracy"]
            for g in groups
            if g.problem.tags["task"] == task
            for s in g.scores
            if "accuracy" in s.parts
        ]
        if found:
            row[f"rewards/accuracy/{task}"] = float(np.mean(found))
    row["completions/mean_length"] = float(lengths.mean())
    row["completions/max_length"] = float(lengths.max())
    row["completions/clipped_ratio"] = float(np.mean([s.stop == "length" for s in samples]))
    row["frac_reward_zero_std"] = float(np.mean([not informative(g) for g in groups]))
    row["frac_solved_groups"] = float(np.mean([all(s.parts.get("accuracy") == 1 for s in g.scores) for g in groups]))
    row["frac_unsolved_groups"] = float(np.mean([all(s.parts.get("accuracy") == 0 for s in g.scores) for g in groups]))
    row["ungraded"] = float(sum(s.total is None for s in scores))
    seen = emergence(groups)
    row["emergence/reflections_per_response"] = seen.reflections_per_response
    row["emergence/reflections_per_1k_tokens"] = seen.reflections_per_1k_tokens
    row["emergence/paper_words_per_response"] = seen.paper_reflections_per_response
    row["emergence/wait_per_response"] = seen.wait_per_response
    row["emergence/tries_per_response"] = seen.tries_per_response
    row["emergence/recoveries"] = seen.recoveries
    if spoken := spoken_of(groups):
        row["emergence/consistent"] = spoken.consistent
        row["emergence/language_share"] = spoken.share
    row["tokens/sampled"] = float(lengths.sum())
    row["tokens/prompt"] = float(sum(len(g.samples[0].prompt_ids) for g in groups))
    return row


class Trainer:
    """The loop's state: policy, reference, engine, data cursor. `run` is the loop."""

    def __init__(
        self, stage: Stage, section: RL, start: Artifact, task: Mixture, grade: Grade, template: str, show: Show,
        continue_from: Artifact | None = None, watch: Watch | None = None,
    ):  # fmt: skip
        self.stage, self.section, self.task, self.grade = stage, section, task, grade
        self.watch, self.monitor, self.falls, self.proxies = watch, Monitor(), list[Fall](), list[float]()
        self.template, self.show = template, show
        policy, self.tokenizer = load_policy(start.path, section.learner.dtype, section.learner.device)
        self.reference = frozen(policy) if section.beta else None
        self.engine = engine.local(policy, self.tokenizer, resolve(start.path), section.engine, share=True)
        self.learner = Learner(policy, section.optim, section.learner, section.max_steps)
        self.cursor, self.best = 0, -1.0
        self.loss = partial(
            losses.policy, epsilon=section.epsilon, epsilon_high=section.epsilon_high, beta=section.beta,
            level=section.importance_sampling_level,
        )  # fmt: skip
        ruled = [name for name, one in task.tasks.items() if not getattr(one, "open", False)]  # with right answers
        self.checks = {
            name: distinct(task.tasks[name], PROBLEMS, "val", max(1, section.eval_problems // len(ruled))) for name in ruled
        } if section.eval_steps else {}  # fmt: skip
        found = stage.resume()
        self.restore(found or (Stage(continue_from.path.parent).latest() if continue_from else None))
        self.looked(found[0] if found else -1)

    def restore(self, found: tuple[int, Path] | None) -> None:
        """Go on from a checkpoint: weights, optimizer, reference, data cursor, best so far."""
        if found is None:
            return
        state = json.loads((found[1] / "state.json").read_text())
        self.proxies = state.get("proxies", []) if found[1].is_relative_to(self.stage.dir) else []
        more = {"reference": self.reference} if self.reference else {}
        self.learner.load(found[1] / "training.safetensors", found[0], **more)
        self.cursor, self.best = state["cursor"], state["best"]

    # rollout

    def draw(self, n: int) -> list[Group]:
        """Sample and grade the next `n` problems. A group is graded while others are still being sampled."""
        s = self.section
        problems = []
        for _ in range(n):
            p = self.task.problem(self.stage.seed, "train", self.cursor)
            problems.append(replace(p, id=f"{self.cursor}:{p.id}"))  # a problem may come twice: groups go by id
            self.cursor += 1
        asked = requests(
            problems, s.num_generations, s.sampling, self.stage.seed, self.template, self.tokenizer, self.task
        )
        began = shown = time.monotonic()
        total, done, graded = n * s.num_generations, 0, 0.0

        def count(_: Sample) -> None:
            nonlocal done, shown
            done += 1
            if time.monotonic() - shown > 0.25:
                shown = time.monotonic()
                self.show({"phase": "sampling", "step": self.learner.steps, "done": done, "total": total})

        def grade(problem: Problem, samples: list[Sample]) -> list[Score]:
            nonlocal graded
            at = time.monotonic()
            try:
                return self.grade(problem, samples)
            finally:
                graded += time.monotonic() - at

        groups = gather(self.engine.sample(asked), problems, grade, s.num_generations, count)
        self.clock["time/sample"] += time.monotonic() - began - graded
        self.clock["time/reward"] += graded
        return groups

    @property
    def updates(self) -> int:
        """How many updates the next rollout feeds: `steps_per_generation`, or as many as are left."""
        return min(self.section.steps_per_generation, self.section.max_steps - self.learner.steps)

    def rollout(self, updates: int) -> list[Group]:
        """The groups that the next `updates` updates learn from.

        With dynamic sampling (DAPO) groups without signal are replaced by further draws, at most three times over.

        Raises:
            RunError: more than 1% of the samples could not be graded.
        """
        s = self.section
        want = s.problems_per_step * updates
        groups = self.draw(want)
        if s.dynamic_sampling:
            kept, drawn = [g for g in groups if informative(g)], want
            while len(kept) < want and drawn < 4 * want:
                more = self.draw(want - len(kept))
                drawn += len(more)
                kept += [g for g in more if informative(g)]
            groups = kept or groups
        errors = [
            (sc.error, sa.id) for g in groups for sc, sa in zip(g.scores, g.samples, strict=True) if sc.total is None
        ]
        if len(errors) > UNGRADED_LIMIT * sum(len(g.samples) for g in groups):
            raise RunError(
                f"{len(errors)} of {sum(len(g.samples) for g in groups)} samples could not be graded; the first, {errors[0][1]}: "
                f"{errors[0][0]}\nMend the reward, then go on with: {self.stage.command}"
            )
        return groups

    # update

    def prepare(self, groups: list[Group]) -> list[Example]:
        """Examples with the learner's own log-probs (needed once a rollout feeds several updates) and the reference's."""
        s, began = self.section, time.monotonic()
        rows = examples_of(groups, ADVANTAGES[s.advantage])
        if s.steps_per_generation > 1:
            rows = [replace(e, old_logp=x) for e, x in zip(rows, self.learner.score(rows), strict=True)]
        if self.reference is not None:
            rows = [replace(e, ref_logp=x) for e, x in zip(rows, self.learner.score(rows, self.reference), strict=True)]
        self.clock["time/score"] += time.monotonic() - began
        return rows

    def minibatches(self, rows: list[Example], n: int) -> Iterator[list[Example]]:
        """A random cut into `n` minibatches of one pass each (paper 1.2)."""
        order = list(range(len(rows)))
        if n > 1:
            Random(hash64("minibatches", self.stage.seed, self.learner.steps)).shuffle(order)
        for part in range(n):
            batch = WEIGHTS[self.section.loss_type]([rows[i] for i in order[part::n]], self.section.sampling.max_tokens)
            # without a KL term, a row of zero advantage adds nothing to the gradient
            yield batch if self.section.beta else [e for e in batch if np.any(e.advantage)] or batch[:1]

    # the loop

    def probe(self) -> dict[str, float]:
        """Accuracy on held-out val problems, at the paper's sampling."""
        row, began = {}, time.monotonic()
        truths: dict[str, list[float]] = {}
        self.show({"phase": "probe", "step": self.learner.steps})
        sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=self.section.sampling.max_tokens)
        for name, problems in self.checks.items():
            groups = ask(
                self.engine,
                self.tokenizer,
                self.task.tasks[name],
                problems,
                2,
                sampling,
                self.stage.seed,
                self.template,
            )
            right = [s.parts["accuracy"] for g in groups for s in g.scores if "accuracy" in s.parts]
            truths[name] = [truth_of(self.task.tasks[name], g) for g in groups]
            row[f"val/{name}/accuracy"] = float(np.mean(right))
            row[f"val/{name}/mean_length"] = float(np.mean([len(s.ids) for g in groups for s in g.samples]))
        row["val/accuracy"] = float(np.mean([v for k, v in row.items() if k.endswith("/accuracy")]))
        if self.watch is not None and self.proxies:
            row |= self.look(self.watch, truths)
        return row | {"time/evaluate": time.monotonic() - began}

    # the hacking monitor

    def look(self, watch: Watch, values: dict[str, list[float]]) -> dict[str, float]:
        """One look at the ground truths beside the reward since the last; the weights of every look are kept."""
        step = self.learner.steps
        truths = {what: [v for name in names for v in values.get(name, ())] for what, names in watch.truths.items()}
        truths = {what: of for what, of in truths.items() if of}
        seen: dict[str, Any] = {"step": step, "reward": float(np.mean(self.proxies)), "truths": truths}
        self.proxies = []
        with (self.stage.dir / "looks.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(seen) + "\n")
        with write_folder(self.weights(step)) as folder:
            save_policy(folder, self.learner.policy, self.tokenizer)
        for fall in self.monitor.see(**seen):
            self.falls.append(fall)
            self.stage.say(f"warning: {fall.finding.what}\n{fall.finding.advice}: it becomes this stage's model")
        means = {f"truth/{what}": float(np.mean(of)) for what, of in truths.items()}
        return {"hacking/reward": seen["reward"], "hacking/falls": float(len(self.falls)), **means}

    def looked(self, step: int) -> None:
        """Show the monitor again what a run that goes on at `step` saw; forget what came after.

        Raises:
            RunError: the weights of a look are gone, so that the stage could not end with them.
        """
        path = self.stage.dir / "looks.jsonl"
        if self.watch is None or not path.exists():
            return
        whole = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [seen for seen in map(json.loads, whole) if seen["step"] <= step]
        write_atomic(path, "".join(json.dumps(seen) + "\n" for seen in kept))
        for seen in kept:
            if not (folder := self.weights(seen["step"])).exists():
                raise RunError(
                    f"{folder} is gone, and the stage may have to end with it\n"
                    f"Start the stage over: add --rerun {self.stage.dir.name}"
                )
            self.falls += self.monitor.see(**seen)

    def weights(self, step: int) -> Path:
        """Those of a look. They stay, also when the stage is done: if it is extended, a later fall may lead back to them."""
        return self.stage.dir / f"looks/step-{step:06d}"

    def finish(self) -> dict[str, Any]:
        """Write `model/`: the last weights or, where a reward model was gamed, those before the fall. What was found."""
        keep = min((f.keep for f in self.falls), default=None)
        with write_folder(self.stage.dir / "model") as folder:
            if keep is None:
                save_policy(folder, self.learner.policy, self.tokenizer)
            else:
                shutil.copytree(self.weights(keep), folder, dirs_exist_ok=True)
        if self.watch is None:
            return {}
        return {"hacking": [to_json(f) | {"told": f.finding.what} for f in self.falls], "kept_step": keep}

    def run(self) -> None:
        """task -> prompt -> rollout -> reward -> advantage -> update -> checkpoint -> probe"""
        s, stage, learner = self.section, self.stage, self.learner
        self.clock = dict.fromkeys(("time/sample", "time/reward", "time/score", "time/update"), 0.0)
        self.engine.load(learner.policy.named_weights(), learner.steps)
        if learner.steps == 0 and s.eval_steps:
            self.record({"step": 0} | self.probe())
        while learner.steps < s.max_steps:
            self.clock = dict.fromkeys(self.clock, 0.0)
            began, first, updates = time.monotonic(), learner.steps + 1, self.updates
            groups = self.rollout(updates)
            told = describe(groups, s.rewards)
            if self.watch is not None and f"rewards/{self.watch.proxy}/mean" in told:
                self.proxies.append(told[f"rewards/{self.watch.proxy}/mean"] or 0.0)
            stage.rollouts(first, groups)
            self.show({"phase": "rollout", "step": first, "groups": groups})
            rows = self.prepare(groups)
            for batch in self.minibatches(rows, updates):
                at = time.monotonic()
                self.show({"phase": "update", "step": learner.steps})
                stats = learner.step(batch, self.loss, entropy=True)
                self.clock["time/update"] += time.monotonic() - at
                if self.reference is not None and s.ref_sync_steps and learner.steps % s.ref_sync_steps == 0:
                    self.reference.load_named(dict(learner.policy.named_weights()))
                tokens = float(sum(len(e.ids) for e in batch))
                row = {"step": learner.steps, **told, **stats, **self.clock, "tokens/trained": tokens}
                self.clock, told = dict.fromkeys(self.clock, 0.0), {}
                if learner.steps - first + 1 == updates:
                    self.engine.load(learner.policy.named_weights(), learner.steps)
                    if s.eval_steps and (
                        learner.steps // s.eval_steps > (first - 1) // s.eval_steps or learner.steps >= s.max_steps
                    ):
                        row |= self.probe()
                self.record(row | {"time/step": time.monotonic() - began})
                began = time.monotonic()
            due = learner.steps // s.save_steps > (first - 1) // s.save_steps
            if due or stage.stopping or learner.steps >= s.max_steps:
                self.save()
            if stage.stopping and learner.steps < s.max_steps:
                raise stage.stopped(learner.steps)

    def record(self, row: dict[str, Any]) -> None:
        """Write a row, keep the best weights by val, tell whoever watches."""
        self.stage.record(row)
        if row.get("val/accuracy", -1.0) > self.best:
            self.best = row["val/accuracy"]
            with write_folder(self.stage.dir / "best") as folder:
                save_policy(folder, self.learner.policy, self.tokenizer)
            write_json(self.stage.dir / "best.json", {"step": row["step"], "val/accuracy": self.best})
        self.show({"phase": "step", "total": self.section.max_steps, **row})

    def save(self) -> None:
        stage, s = self.stage, self.section
        with stage.checkpoint(self.learner.steps) as folder:
            save_policy(folder, self.learner.policy, self.tokenizer)
            self.learner.save(
                folder / "training.safetensors", **({"reference": self.reference} if self.reference else {})
            )
            state = {"step": self.learner.steps, "cursor": self.cursor, "best": self.best, "proxies": self.proxies}
            write_json(folder / "state.json", state)
        stage.prune_checkpoints(2)
        stage.prune_rollouts(s.keep, self.learner.steps, s.eval_steps)


def rl(
    stage: Stage,
    section: RL,
    start: Artifact | None = None,
    data: Collection[Any] = (),  # noqa: ARG001
    *,
    task: Mixture,
    grade: Grade,
    template: str = "mini",
    continue_from: Artifact | None = None,
    watch: Watch | None = None,
    show: Show = lambda _: None,
) -> Artifact:
    """Train `start` by reinforcement; ends with `model/`.

    A change of phase (a longer length cap, say) is a new stage with `continue_from`, the artifact of the one before: it
    goes on with its weights, optimizer, reference, data cursor and step count; `max_steps` counts both.

    With `watch`, the hacking monitor looks at every probe. Where the reward rises while a ground truth falls it warns, and
    the model is the one before the fall.
    """
    assert start is not None
    trainer = Trainer(stage, section, start, task, grade, template, show, continue_from, watch)
    trainer.run()
    return Artifact("weights", stage.dir / "model", meta={"steps": trainer.learner.steps, **trainer.finish()})
