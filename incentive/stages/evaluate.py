"""Evaluation: unbiased pass@k, majority vote, intervals, signs of emergence; every answer is stored.

Kept from the paper (D.1): temperature 0.6 and top-p 0.95 as the headline, pass@1 as the mean over k samples, k stated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from incentive import chat, engine, language, measure, rewards
from incentive.config import Eval, Sampling
from incentive.engine.base import Engine
from incentive.files import RunError, write_json
from incentive.keys import Artifact
from incentive.model.checkpoint import Policy, load_policy, resolve
from incentive.records import Group, Problem, Request, Sample, hash64, to_json
from incentive.stage import Stage
from incentive.tasks import Mixture, checks, distinct
from incentive.tasks.base import Task, tool_of

PROBLEMS = 0  # seed of the problems that are evaluated on: the same for every run, so that runs can be paired


def requests(
    problems: Iterable[Problem],
    n: int,
    sampling: Sampling,
    seed: int,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | Mixture | None = None,
) -> list[Request]:
    """One request a problem, with its task's tool; a sample's seed is a hash of (seed, problem id, index)."""
    return [
        Request(
            p.id, np.asarray(tokenizer.encode(chat.render(template, p.prompt, tokenizer), add_special_tokens=False), dtype=np.int64),
            tuple(hash64("sample", seed, p.id, i) for i in range(n)), sampling.max_tokens, sampling.temperature,
            sampling.top_p, sampling.top_k, None if task is None else tool_of(task, p),
        )
        for p in problems
    ]  # fmt: skip


def fit(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, problems: Iterable[Problem], sampling: Sampling, template: str, key: str
) -> None:  # fmt: skip
    """Every prompt leaves room for its longest answer.

    Raises:
        RunError: one does not; `key` names the setting to lower.
    """
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    texts = [chat.render(template, p.prompt, tokenizer) for p in problems]
    longest = max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    if context is not None and longest + sampling.max_tokens > context:
        room = context - longest
        fix = f"Set {key} = {room} or less." if room > 0 else "Leave that problem out."
        raise RunError(
            f"a prompt has {longest} tokens, and {longest + sampling.max_tokens} with its answer; the model's context is "
            f"{context}\n{fix}"
        )


def gather(
    samples: Iterable[Sample],
    problems: list[Problem],
    grade: rewards.Grade,
    n: int,
    each: Callable[[Sample], None] = lambda _: None,
) -> list[Group]:
    """Graded groups, problems in the order given and samples by index.

    Args:
        n: samples of each problem; a group is graded when it has them, while others are still being sampled.
    """
    found: dict[str, list[Sample]] = {p.id: [] for p in problems}
    by_id, graded = {p.id: p for p in problems}, {}
    for sample in samples:
        group = found[sample.problem_id]
        group.append(sample)
        each(sample)
        if len(group) == n:
            group.sort(key=lambda s: int(s.id.rsplit("/", 1)[1]))
            graded[sample.problem_id] = grade(by_id[sample.problem_id], group)
    return [Group(p, found[p.id], graded[p.id]) for p in problems]


def thinking_of(text: str) -> str:
    return chat.split(text)[0]


def emergence(groups: list[Group]) -> measure.Emergence:
    pairs = [(g.problem, s) for g in groups for s in g.samples]
    return measure.emergence(
        [thinking_of(s.text) for _, s in pairs],
        [len(s.ids) for _, s in pairs],
        [p.tags.get("target") for p, _ in pairs],
    )


def spoken_of(groups: list[Group]) -> language.Consistency | None:
    """How the thoughts keep to their prompts' languages; None where no prompt names one."""
    spoken = [g for g in groups if "language" in g.problem.tags]
    return language.consistency([(thinking_of(s.text), g.problem.tags["language"]) for g in spoken for s in g.samples])


def measured(found_P: list[list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Means of what a task measures beside right and wrong, over the problems that tell it; shares with an interval."""
    out: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(k for of in found_P for one in of for k in one):
        means = [float(np.mean(values)) for of in found_P if (values := [one[name] for one in of if name in one])]
        out[name] = {"value": float(np.mean(means)), "n": len(means)}
        if max(means) <= 1:
            out[name]["ci95"] = list(measure.share_interval(means))
    return out


def results(groups: list[Group], task: Task) -> dict[str, Any]:
    """What one task's graded groups say. `pass@k` for k = 1, 2, 4, ... up to the samples a problem."""
    right = [[bool(s.parts.get("accuracy")) for s in g.scores] for g in groups]
    n = len(groups[0].samples)
    share = [sum(r) / len(r) for r in right]
    votes = [[None if (a := chat.split(s.text)[1]) is None else task.vote_key(a) for s in g.samples] for g in groups]
    texts = [(g, s) for g in groups for s in g.samples]
    low, high = measure.share_interval(share)
    out: dict[str, Any] = {"problems": len(groups), "samples": n}
    ks = sorted({k for k in (2**e for e in range(20)) if k <= n} | {n})
    out |= {f"pass@{k}": measure.mean_pass_at_k([(n, sum(r)) for r in right], k) for k in ks}
    out |= {f"maj@{n}": measure.mean_maj_at_k(votes, right, n), "ci95": [low, high]}
    out["format"] = float(np.mean([s.parts["format"] for g in groups for s in g.scores]))
    out |= to_json(emergence(groups))
    checks = measure.check_quality(
        [(measure.tries(thinking_of(s.text)), g.problem.tags["target"]) for g, s in texts if "target" in g.problem.tags]
    )
    out["check"] = to_json(checks)
    if spoken := spoken_of(groups):
        out["language"] = to_json(spoken)
    if hasattr(task, "measures"):
        out["measures"] = measured([[task.measures(g.problem, s.text) for s in g.samples] for g in groups])
    out["stop"] = {kind: sum(s.stop == kind for _, s in texts) / len(texts) for kind in ("stop", "length")}
    out["ungraded"] = sum(s.total is None for g in groups for s in g.scores)
    return out


def ask(
    player: Engine, tokenizer: PreTrainedTokenizerBase, task: Task, problems: list[Problem], n: int, sampling: Sampling, seed: int,
    template: str, each: Callable[[Sample], None] = lambda _: None, *, tools: bool = True,
) -> list[Group]:  # fmt: skip
    """Sample and grade `n` answers to each problem, accuracy and format; without tools a call stays unanswered."""
    grade = rewards.each(rewards.shipped(task.check, partial(checks, task)), {"accuracy": 1.0, "format": 1.0})
    asked = requests(problems, n, sampling, seed, template, tokenizer, task if tools else None)
    return gather(player.sample(asked), problems, grade, n, each)


def evaluate(
    stage: Stage,
    section: Eval,
    start: Artifact | None = None,
    data: Collection[Any] = (),  # noqa: ARG001
    *,
    tasks: dict[str, Task],
    template: str = "mini",
    contaminated: dict[str, Any] | None = None,
    show: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Artifact:
    """Evaluate a checkpoint on every task of the section; writes results.json and rollouts/.

    Args:
        contaminated: by task how many of its problems the model has met in training, to stand beside its score.
    """
    assert start is not None
    policy, tokenizer = load_policy(start.path, device=section.device)
    player = engine.local(policy, tokenizer, resolve(start.path), section.engine, share=True)
    ways = {"": section.sampling}
    if section.also_t1:
        ways["t1"] = section.sampling.model_copy(update={"temperature": 1.0, "top_p": 1.0})
    out: dict[str, Any] = {}
    asked = {name: distinct(tasks[name], PROBLEMS, section.split, section.problems) for name in section.tasks}
    every = [p for problems in asked.values() for p in problems]
    fit(policy, tokenizer, every, section.sampling, template, "eval.sampling.max_tokens")
    stage.resume()
    total = len(section.tasks) * len(ways) * section.problems * section.samples
    done = 0

    def count(_: Sample) -> None:
        nonlocal done
        done += 1
        if done % 16 == 0 or done == total:
            show({"phase": stage.dir.name, "done": done, "total": total})
        if stage.stopping:  # its answers come again on resume: each depends on its seed alone
            raise stage.stopped(0)

    for number, name in enumerate(section.tasks):
        problems = asked[name]
        for way, (label, sampling) in enumerate(ways.items()):
            began = time.monotonic()
            groups = ask(
                player, tokenizer, tasks[name], problems, section.samples, sampling, stage.seed, template, count
            )
            step = number * len(ways) + way + 1
            stage.rollouts(step, groups)
            found = results(groups, tasks[name]) | {"temperature": sampling.temperature, "top_p": sampling.top_p}
            if label:
                out[name][label] = found
            else:
                out[name] = found | ({"contaminated": contaminated[name]} if contaminated else {})
            tokens = sum(len(s.ids) for g in groups for s in g.samples)
            prompt = sum(len(g.samples[0].prompt_ids) for g in groups)
            stage.record(
                {
                    "step": step,
                    "task": name,
                    "tokens/sampled": tokens,
                    "tokens/prompt": prompt,
                    "time/evaluate": time.monotonic() - began,
                }
            )
    write_json(stage.dir / "results.json", out)
    return Artifact("eval", stage.dir / "results.json", meta={"results": out})


def mixture(names: dict[str, float], tasks: dict[str, Task]) -> Mixture:
    return Mixture({n: tasks[n] for n in names}, names)
