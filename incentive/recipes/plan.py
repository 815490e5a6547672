"""What a run will do, in words, before it starts: every stage with its answers, tokens, memory and cost at most.

No torch, nothing is measured, and nothing is fetched: where the base is not here, what follows from its size is left out.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from incentive import ledger, memory
from incentive.ahead import Planned
from incentive.config import RL, SFT, Curate, Draw, Eval, Prefer, Pretrain, RewardModel, Run, Sampling
from incentive.recipes.base import Recipe
from incentive.recipes.stages import check_names, check_until, planned

ASSETS = Path(__file__).parent.parent / "assets"
PROMPT = 64  # tokens of a prompt, for memory and for rows: an assumption
PACE = 170e9  # FLOP/s of a core, for time and money: what RL of base-mini did in bfloat16 (docs/performance.md)
Base = tuple[Path, dict[str, Any]]  # a model's folder and the fields of its config


@dataclass(frozen=True)
class Cost:
    """What a stage takes at most."""

    answers: int = 0
    tokens: int = 0  # sampled
    memory: int = 0
    flops: float | None = 0.0  # None: the model is not here


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"


def base_of(name: str) -> Base | None:
    """The folder of a base and the fields of its config; None where there is no such."""
    for folder in (Path(name), ASSETS / name):
        if (folder / "config.json").is_file():
            try:
                return folder, json.loads((folder / "config.json").read_text(encoding="utf-8"))
            except ValueError:
                return None
    return None


def plan(recipe: Recipe, settings: Run, until: str | None = None) -> list[str]:
    """Lines of plain text.

    Args:
        until: the last stage that is told.

    Raises:
        ConfigError, TaskError: a task, a reward or a stage that is named does not exist.
    """
    check_names(recipe, settings)
    lines = [*recipe.doc.splitlines(), ""] if recipe.doc else []
    lines.append(f"seed {settings.seed}, {settings.threads} threads, ${settings.price_per_core_hour:g} a core-hour")
    bases = {"base": settings.base, **({"student base": settings.student} if settings.student else {})}
    found = {role: base_of(name) for role, name in bases.items()}
    if not settings.pretrain:
        lines += [_base(role, bases[role], base) for role, base in found.items()]
    listed = planned(recipe, settings)
    every = listed or [Planned(n, s) for n, s in (("zero", settings.rl), ("before", settings.eval)) if s]
    if until:
        check_until(recipe, listed, until)
    names = [p.name for p in every]
    told = every[: names.index(until) + 1] if until else every
    stages = {p.name: p for p in every}
    costs = []
    for p in (p for p in told if not isinstance(p.section, Eval)):
        role = "student base" if p.start == "student base" else "base"
        words, cost = _stage(p, stages, found[role], settings.threads)
        lines += words
        costs.append(cost)
    words, cost = _evals([p for p in told if isinstance(p.section, Eval)], found["base"], settings.threads)
    lines += words
    costs.append(cost)
    if until and len(told) < len(every):
        lines.append(f"it stops after {until}, stage {len(told)} of {len(every)}")
    return lines + (_total(costs, settings) if len(told) > 1 and not settings.pretrain else [])


def _base(role: str, name: str, base: Base | None) -> str:
    if base is not None:
        return f"{role} {base[0]}"
    key = "base" if role == "base" else "student"
    if name.startswith("hub:"):
        return f"{role} {name}: from the Hub, when the run starts; memory and cost are not told"
    return (
        f"{role} {name}: not found here, so memory and cost are not told; give the folder of a Hugging Face checkpoint "
        f"with --set {key}=FOLDER"
    )


def _stage(p: Planned, stages: dict[str, Planned], base: Base | None, threads: int) -> tuple[list[str], Cost]:
    """A stage in words, and what it takes at most."""
    s = p.section
    if isinstance(s, Pretrain):
        return _pretrain(s), Cost()
    if isinstance(s, RL):
        sampled = p.answers * s.sampling.max_tokens
        scorings = int(s.beta > 0) + int(s.steps_per_generation > 1)
        probed = _probes(p, s)
        words, cost = _sized(s, base, threads, sampled + probed * s.sampling.max_tokens, sampled, scorings)
        return _rl(p, s, sampled) + words, replace(cost, answers=p.answers + probed)
    if isinstance(s, Draw):
        # a budget of tokens is looked at after every 64 problems
        budget = s.tokens + 64 * s.samples * s.sampling.max_tokens if s.tokens else sys.maxsize
        sampled = min(p.answers * s.sampling.max_tokens, budget)
        words, cost = _sized(s, base, threads, sampled, 0)
        users = [u for u in stages.values() if p.name in u.data]
        return _draw(p, s, sampled, users) + words, replace(cost, answers=p.answers)
    if isinstance(s, SFT | RewardModel):
        rows, longest = _rows(p, stages)
        trained = s.epochs * rows * (PROMPT + longest)
        words, cost = _sized(s, base, threads, 0, trained, longest=longest)
        return _learn(p, s, rows, longest) + words, cost
    return [f"stage {p.name}: {p.about}"], Cost()


def _sized(
    s: Any, base: Base | None, threads: int, sampled: int, trained: int, scorings: int = 0, longest: int = 0
) -> tuple[list[str], Cost]:
    """What follows from the size of the model: a line, and the cost."""
    size = ledger.count_parameters(base[0]) if base else None
    if base is None or size is None:
        return [], Cost(tokens=sampled, flops=None)
    flops = ledger.flops(size, 0, sampled, trained, scorings)
    try:
        held = _held(s, base[1], size, threads if 4 * size <= memory.SMALL else 1, longest)
    except (KeyError, TypeError, ValueError):
        return [f"  {size:,} parameters; at most {flops:.1e} FLOPs"], Cost(tokens=sampled, flops=flops)
    told = ", ".join(f"{name} {_bytes(n)}" for name, n in held.items())
    line = f"  {size:,} parameters; memory about {_bytes(sum(held.values()))}: {told}"
    return [line, f"  at most {flops:.1e} FLOPs"], Cost(tokens=sampled, memory=sum(held.values()), flops=flops)


def _held(s: Any, shape: dict[str, Any], size: int, lanes: int, longest: int) -> dict[str, int]:
    """Bytes by part: those of an RL stage of the same size that this one has."""
    if isinstance(s, RL):
        return memory.parts(s, shape, size, PROMPT, lanes)
    if isinstance(s, Draw | Eval):
        asked = 64 if isinstance(s, Draw) else s.problems
        like = RL(
            sampling=s.sampling, engine=s.engine, problems_per_step=asked, num_generations=max(2, s.samples), beta=0
        )
        kept: tuple[str, ...] = ("runtime", "weights", "answers", "cache")
    else:
        like = RL(sampling=Sampling(max_tokens=max(1, longest)), learner=s.learner, beta=0)
        kept = ("runtime", "weights", "gradients", "Adam", "activations", "logits")
    return {name: n for name, n in memory.parts(like, shape, size, PROMPT, lanes).items() if name in kept}


def _rows(p: Planned, stages: dict[str, Planned]) -> tuple[int, int]:
    """(rows that a stage learns from at most, tokens of the longest answer among them)."""
    rows, longest = 0, 0
    for one in (stages[name] for name in p.data):
        s = one.section
        if isinstance(s, Draw):
            each = s.per_problem or s.samples if isinstance(s, Curate) else s.samples
            pairwise = isinstance(p.section, RewardModel) and p.section.kind == "pairwise"
            rows += s.problems * (2 * (each // 2) if pairwise else each)
            longest = max(longest, s.sampling.max_tokens)
        more = _rows(one, stages) if isinstance(s, Curate) else (one.rows, 0)  # rows that are added as they are
        rows, longest = rows + more[0], max(longest, more[1])
    return rows, longest


def _pretrain(p: Pretrain) -> list[str]:
    m = p.model
    attention = m.hidden_size * m.hidden_size * 2 * (1 + m.num_key_value_heads / m.num_attention_heads)
    size = m.vocab_size * m.hidden_size + m.num_hidden_layers * (attention + 3 * m.hidden_size * m.intermediate_size)
    return [
        f"stage base: a model of about {size / 1e6:.2f} M parameters reads {p.documents:,} made-up documents once,",
        f"  {p.tokens_per_step:,} tokens a step; a checkpoint at least every {p.save_seconds:g} s",
    ]


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{v / sum(shares.values()):.0%} {_short(k)}" for k, v in shares.items())


def _short(task: str) -> str:
    """A task's name without the columns of its data set; they stand in the settings."""
    return task.partition("?")[0]


def _probes(p: Planned, s: RL) -> int:
    """Answers of all probes on val: before the first update, every `eval_steps`, after the last; two a problem."""
    n = (
        s.max_steps // s.eval_steps - p.first // s.eval_steps + (not p.first) + bool(s.max_steps % s.eval_steps)
        if s.eval_steps
        else 0
    )
    return 2 * s.eval_problems * n


def _sum(weights: dict[str, float]) -> str:
    return " + ".join(f"{w:g} x {n}" for n, w in weights.items())


def _rl(p: Planned, s: RL, most: int) -> list[str]:
    a_step = s.problems_per_step * s.num_generations
    rollout = a_step * s.steps_per_generation
    renewed = f", reference renewed every {s.ref_sync_steps} steps" if s.ref_sync_steps else ""
    rewards = _sum(s.rewards)
    for weights in dict.fromkeys(map(_sum, p.graded.values())):
        rewards += f"; for {', '.join(_short(n) for n, own in p.graded.items() if _sum(own) == weights)} {weights}"
    probe = f"probe of {s.eval_problems} val problems every {s.eval_steps} steps" if s.eval_steps else "no val probe"
    probe += f", {_probes(p, s):,} answers more" if s.eval_steps else ""
    start = f" (goes on from {p.start} after {p.first:,})" if p.first else f" from {p.start}" if p.start else ""
    lines = [
        f"stage {p.name}: {p.steps:,} updates{start} on {_shares(p.tasks or s.tasks)}",
        f"  a step learns from {s.problems_per_step} problems x {s.num_generations} answers = {a_step:,} answers",
    ]
    if s.steps_per_generation > 1:
        lines.append(f"  one rollout of {rollout:,} answers feeds {s.steps_per_generation} updates, one pass each")
    lines += [
        f"  in all {p.answers:,} answers to {s.problems_per_step * p.steps:,} problems at T {s.sampling.temperature:g}, "
        f"{most:,} tokens at most ({s.sampling.max_tokens:,} an answer)",
        f"  rewards {rewards}, advantage {s.advantage}, loss {s.loss_type}",
        f"  clip {s.epsilon:g}" + (f" / {s.epsilon_high:g}" if s.epsilon_high is not None else "")
        + (f", KL {s.beta:g}{renewed}" if s.beta else ", no KL term, no reference"),
        f"  learning rate {s.optim.learning_rate:g} ({s.optim.lr_scheduler_type}); {probe}; "
        f"checkpoint every {s.save_steps}",
    ]  # fmt: skip
    if s.max_steps % s.steps_per_generation:
        lines.append(
            f"  note: {s.max_steps} is no multiple of {s.steps_per_generation}: the last rollout goes on past it"
        )
    return lines


def _draw(p: Planned, s: Draw, most: int, users: list[Planned]) -> list[str]:
    ends = f", or {s.tokens:,} tokens if that is sooner" if s.tokens else ""
    lines = [
        f"stage {p.name}: {p.start} answers problems of {_shares(s.tasks)}",
        f"  {s.problems:,} problems x {s.samples} answers = {p.answers:,} answers at T {s.sampling.temperature:g}{ends}, "
        f"{most:,} tokens at most ({s.sampling.max_tokens:,} an answer)",
    ]
    if isinstance(s, Curate):
        kept = f"at most {s.per_problem} a problem" if s.per_problem else "all of them"
        lines.append(f"  right and readable ones are kept, {kept}" + (f"; with {', '.join(p.data)}" if p.data else ""))
    if isinstance(s, Prefer):
        compared = any(isinstance(r, RewardModel) and r.kind == "pairwise" for r in (u.section for u in users))
        judged = f"at most {s.problems * (s.samples // 2):,} pairs, each judged {s.calls} times"
        lines.append(f"  {judged if compared else 'each answer gets a label'}")
    return lines


def _learn(p: Planned, s: SFT | RewardModel, rows: int, longest: int) -> list[str]:
    epochs = f"{s.epochs} epoch" + ("s" if s.epochs > 1 else "")
    size = f"{s.tokens_per_step:,} tokens a step" if isinstance(s, SFT) else f"{s.batch} a step"
    what = "SFT" if isinstance(s, SFT) else f"{s.kind} reward model, scores the {s.scores}"
    most = f"; about {s.epochs * rows * (PROMPT + longest):,} tokens at most (an answer of {longest:,} after a prompt of {PROMPT})"
    many = f"{rows:,} rows at most" if rows else "as many rows as are found"
    return [
        f"stage {p.name}: {what}, {p.start} learns from {', '.join(p.data)}",
        f"  {many}, {epochs}, {size}" + (most if rows else ""),
        f"  learning rate {s.optim.learning_rate:g} ({s.optim.lr_scheduler_type})",
    ]


def _evals(stages: list[Planned], base: Base | None, threads: int) -> tuple[list[str], Cost]:
    """The stages that ask the same problems of every model."""
    if not stages:
        return [], Cost()
    e, n, each = stages[0].section, len(stages), stages[0].answers
    assert isinstance(e, Eval)
    names = [p.name for p in stages]
    also = " and at T 1" if e.also_t1 else ""
    lines = [
        (f"stages {', '.join(names[:-1])} and {names[-1]}" if n > 1 else f"stage {names[0]}")
        + f": {e.problems} {e.split} problems of {', '.join(map(_short, e.tasks))},",
        f"  {e.samples} answers each at T {e.sampling.temperature:g}, top-p {e.sampling.top_p:g}{also}: {each:,} answers"
        f"{' each time' if n > 1 else ''}, {each * e.sampling.max_tokens:,} tokens at most",
    ]
    words, cost = _sized(e, base, threads, n * each * e.sampling.max_tokens, 0)
    return lines + words, replace(cost, answers=n * each)


def _total(costs: list[Cost], settings: Run) -> list[str]:
    answers, tokens = sum(c.answers for c in costs), sum(c.tokens for c in costs)
    lines = [f"in all {answers:,} answers, {tokens:,} tokens at most"]
    known = [c.flops for c in costs if c.flops is not None]
    if len(known) < len(costs):
        return [*lines, "  memory and cost in all are not told: a model is not here"]
    flops, held = sum(known), max(c.memory for c in costs)
    lines.append(f"  memory about {_bytes(held)} in the largest stage; at most {flops:.1e} FLOPs")
    if settings.rl and settings.rl.learner.device == "cpu":
        spent = flops / PACE
        money = spent / 3600 * settings.price_per_core_hour
        lines.append(
            f"  about {ledger.duration(spent / settings.threads)} and ${money:,.4f} at most, where a core does "
            f"{PACE / 1e9:.0f} GFLOP/s as in docs/performance.md"
        )
    return [*lines, "  answers shorter than the cap cost less; the time that is left is told after the first steps"]


def micro_batch(s: RL, folder: Path, shape: dict[str, Any], threads: int) -> int:
    """The setting `rl.learner.tokens_per_micro_batch`, or less where it would not fit into the memory that is free."""
    size = ledger.count_parameters(folder)
    if size is None:
        return s.learner.tokens_per_micro_batch
    if s.learner.device.startswith("cuda"):
        import torch

        free = torch.cuda.mem_get_info(s.learner.device)[0] if torch.cuda.is_available() else sys.maxsize
    else:
        free = psutil.virtual_memory().available
    try:
        return memory.fitting(s, shape, size, PROMPT, threads if 4 * size <= memory.SMALL else 1, free)
    except (KeyError, TypeError, ValueError):
        return s.learner.tokens_per_micro_batch
