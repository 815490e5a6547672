"""The base tries the run's own problems before it starts: does it end, does it score, do engine and learner agree, will it
fit, how long will it take. The last part of the preflight."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import PreTrainedTokenizerBase

from incentive import engine, memory, rewards
from incentive.config import RL, Run
from incentive.doctor import Finding
from incentive.learner import deals, outputs
from incentive.model.checkpoint import Policy
from incentive.records import Group, Sample
from incentive.rewards import Grade, RewardError
from incentive.stages.evaluate import gather, requests
from incentive.stages.rl import UNGRADED_LIMIT, examples_of, informative
from incentive.tasks import Mixture
from incentive.threads import lanes

PROBES, PROBE_SAMPLES = 16, 8  # problems that the base tries, and samples of each at most


class Stop(Exception):
    """A finding that makes the checks after it pointless."""

    def __init__(self, what: str, advice: str = ""):
        super().__init__(what)
        self.finding = Finding("stop", what, advice)


def rollouts(rl: RL) -> int:
    return math.ceil(rl.max_steps / rl.steps_per_generation)


def draws(rl: RL) -> int:
    """Problems that the run draws (without the redraws of dynamic sampling)."""
    return rollouts(rl) * rl.problems_per_step * rl.steps_per_generation


def trial(
    config: Run, start: Path, policy: Policy, tokenizer: PreTrainedTokenizerBase, task: Mixture, grade: Grade
) -> Iterator[Finding]:
    """A small rollout at the run's own sampling: does it end, does it score, do engine and learner agree, how fast."""
    rl = config.rl
    assert rl is not None
    problems = [
        replace(p, id=f"{i}:{p.id}") for i, p in enumerate(task.problem(config.seed, "train", i) for i in range(PROBES))
    ]
    n = min(rl.num_generations, PROBE_SAMPLES)
    player = engine.local(policy, tokenizer, start, rl.engine)
    asked = requests(problems, n, rl.sampling, config.seed, config.template, tokenizer, task)
    list(player.sample([replace(r, max_tokens=2) for r in asked[:2]]))  # compiles and warms up
    began = time.monotonic()
    samples = list(player.sample(asked))
    seconds = time.monotonic() - began
    player.close()
    try:
        groups = gather(samples, problems, grade, n)
    except RewardError as error:
        raise Stop(str(error)) from error
    yield from _endings(rl, samples)
    yield from _signal(rl, task, groups)
    faults = [s.error for g in groups for s in g.scores if s.total is None]
    if len(faults) > UNGRADED_LIMIT * len(samples):
        raise Stop(f"{len(faults)} of {len(samples)} answers could not be graded: {faults[0]}", "mend the reward")
    gap, per_token = _agreement(rl, policy, groups)
    if gap > 0.1:
        what = f"engine and learner disagree by {gap:.2f} in a token's log-probability"
        yield Finding(
            "stop" if gap > 0.5 else "warn",
            what,
            "set rl.learner.dtype = 'float32'; if it stays, the engine is at fault",
        )
    else:
        yield Finding("ok", f"engine and learner agree to {gap:.4f} in a token's log-probability")
    yield from arithmetic(rl)
    yield _memory(rl, policy, max(len(s.prompt_ids) for s in samples))
    yield _time(rl, samples, seconds, per_token)


def _time(rl: RL, samples: list[Sample], seconds: float, per_token: float) -> Finding:
    """How long the run will take, if its answers stay as long as these: they took `seconds` to sample, and a token
    `per_token` to learn."""
    written = sum(len(s.ids) for s in samples)
    mean = written / len(samples)
    answers = draws(rl) * rl.num_generations
    prompt = float(np.mean([len(s.prompt_ids) for s in samples]))
    passes = 1 + (rl.steps_per_generation > 1) / 3 + (rl.beta > 0) / 3  # a scoring pass is about a third of an update
    hours = (answers * mean * seconds / written + answers * (mean + prompt) * per_token * passes) / 3600
    told = (
        f"{hours:.1f} hours"
        if hours >= 1
        else f"{60 * hours:.0f} minutes"
        if hours > 1 / 30
        else f"{3600 * hours:.0f} seconds"
    )
    return Finding(
        "ok",
        f"about {told} at today's {mean:.0f} tokens an answer ({written / seconds:,.0f} tokens/s sampled, "
        f"{1 / per_token:,.0f} tokens/s learnt); longer answers take longer",
    )


def _endings(rl: RL, samples: list[Sample]) -> Iterator[Finding]:
    cut = float(np.mean([s.stop == "length" for s in samples]))
    length = float(np.mean([len(s.ids) for s in samples]))
    cap = rl.sampling.max_tokens
    if cut == 1:
        raise Stop(
            f"none of {len(samples)} answers ended by itself within {cap} tokens, so none could have the required form",
            f"raise rl.sampling.max_tokens to {4 * cap}; if still none ends, the base does not know its stop token: "
            "fine-tune it first",
        )
    what = f"{cut:.0%} of {len(samples)} answers are cut at {cap} tokens (mean length {length:.0f})"
    if cut > 0.5:
        yield Finding(
            "warn",
            f"{what}: most of the training would be about cut answers",
            f"raise rl.sampling.max_tokens to {2 * cap}",
        )
    elif cut > 0.1:
        yield Finding("warn", what, f"raise rl.sampling.max_tokens to {2 * cap} if that stays so in the first steps")
    else:
        yield Finding("ok", what)


def _signal(rl: RL, task: Mixture, groups: list[Group]) -> Iterator[Finding]:
    """Does my base have signal on my task?"""
    judge = rewards.each(rewards.shipped(task.check, task.checks), {"accuracy": 1.0, "format": 1.0})
    parts = [[s.parts for s in judge(g.problem, g.samples)] for g in groups]
    n = len(groups[0].samples)
    right = [sum(p.get("accuracy", 0.0) for p in row) for row in parts]
    form = float(np.mean([p["format"] for row in parts for p in row]))
    solved, teach = sum(r > 0 for r in right), sum(informative(g) for g in groups)
    facts = (
        f"the base solves {solved} of {len(groups)} problems within {n} tries (pass@1 "
        f"{sum(right) / (n * len(groups)):.0%}), "
        f"{form:.0%} of its answers have the required form, {teach} of {len(groups)} groups have rewards that differ"
    )
    if sum(right) == n * len(groups):
        yield Finding("warn", f"{facts}: it can do this already", "give it harder problems")
    elif not solved:
        rest = "; only the form could be learnt" if teach else ", so nothing could be learnt"
        yield Finding(
            "warn",
            f"does the base have signal on this task? No: {facts}{rest}",
            "give it easier problems first; or a larger rl.num_generations; or fine-tune it on some solutions",
        )
    elif teach < len(groups) / 4:
        yield Finding(
            "warn",
            f"does the base have signal on this task? Little: {facts}",
            f"raise rl.num_generations to {2 * rl.num_generations}, or set rl.dynamic_sampling = true",
        )
    else:
        yield Finding("ok", f"does the base have signal on this task? Yes: {facts}")


def _agreement(rl: RL, policy: Policy, groups: list[Group]) -> tuple[float, float]:
    """(mean absolute gap between the engine's and the learner's log-probs, seconds a token of forward and backward)."""
    rows = [replace(e, weight=e.advantage) for e in examples_of(groups, lambda r: np.ones_like(r))]
    first = deals(policy, rows, min(rl.learner.tokens_per_micro_batch, 8192), 1)[0][0]
    for _ in range(2):  # the first pass compiles and warms up
        began = time.monotonic()
        batch, said = outputs(policy, [rows[i] for i in first], rl.learner.device, entropy=True)
        logp = said.logp
        assert logp is not None
        logp.sum().backward()
        seconds = time.monotonic() - began
    policy.zero_grad(set_to_none=True)
    assert logp is not None
    assert batch.sampler_logp is not None
    gap = (logp.detach() - batch.sampler_logp)[batch.mask].abs().mean()
    return float(gap), seconds / sum(len(rows[i].ids) for i in first)


def arithmetic(rl: RL) -> Iterator[Finding]:
    """The batch in words: nothing is derived behind the user's back."""
    k, answers = rl.steps_per_generation, rl.problems_per_step * rl.num_generations
    updates = rollouts(rl) * k
    sampled = f"a rollout of {answers * k:,} answers feeds {k} updates" if k > 1 else "1 update a rollout"
    yield Finding(
        "ok",
        f"{rl.problems_per_step} problems x {rl.num_generations} samples = {answers:,} answers a step, {sampled}, "
        f"{updates:,} updates = {answers * updates:,} answers, at most {answers * updates * rl.sampling.max_tokens:,} "
        "tokens",
    )
    if updates != rl.max_steps:
        yield Finding(
            "warn",
            f"a rollout feeds {k} updates, so {rl.max_steps} cannot end on one",
            f"set rl.max_steps = {updates}",
        )


def _memory(rl: RL, policy: Policy, prompt: int) -> Finding:
    """What will be held at once, part by part."""
    size = sum(p.numel() for p in policy.parameters())
    found = memory.parts(rl, policy.config.get_text_config().to_dict(), size, prompt, lanes(policy))
    total = sum(found.values())
    what = f"{size / 1e6:.1f}M parameters; memory about {_mb(total)}: " + ", ".join(
        f"{k} {_mb(v)}" for k, v in found.items()
    )
    if rl.learner.device.startswith("cuda"):
        free = torch.cuda.mem_get_info(rl.learner.device)[0]
    else:
        free = psutil.virtual_memory().available + memory.RUNTIME
    if total < 0.8 * free:
        return Finding("ok", f"{what} (of {_mb(free)} free)")
    largest = max(("cache", "activations"), key=found.__getitem__)
    fix = "rl.engine.max_num_seqs" if largest == "cache" else "rl.learner.tokens_per_micro_batch"
    return Finding("warn", f"{what}, but only {_mb(free)} are free", f"lower {fix}; the results stay the same")


def _mb(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
