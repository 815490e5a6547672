"""What a run will do, in words, before it starts. No torch, and nothing is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil

from incentive import ledger, memory
from incentive.config import RL, Eval, Pretrain, Run
from incentive.recipes.base import Recipe
from incentive.recipes.zero import check_names

ASSETS = Path(__file__).parent.parent / "assets"
PROMPT = 64  # tokens of a prompt, for memory: an assumption


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"


def base_of(name: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder of a base and the fields of its config; None where there is no such."""
    for folder in (Path(name), ASSETS / name):
        if (folder / "config.json").is_file():
            try:
                return folder, json.loads((folder / "config.json").read_text(encoding="utf-8"))
            except ValueError:
                return None
    return None


def plan(recipe: Recipe, settings: Run) -> list[str]:
    """Lines of plain text.

    Raises:
        ConfigError, TaskError: a task or a reward that the settings name does not exist.
    """
    lines = [*recipe.doc.splitlines(), ""] if recipe.doc else []
    lines.append(f"seed {settings.seed}, {settings.threads} threads, ${settings.price_per_core_hour:g} a core-hour")
    if settings.pretrain:
        lines += _pretrain(settings.pretrain)
    base = None
    if settings.rl or settings.eval:
        base = base_of(settings.base)
        missing = f"base {settings.base}: " + (
            "from the Hub, when the run starts"
            if settings.base.startswith("hub:")
            else "not found here; give the folder of a Hugging Face checkpoint with --set base=FOLDER"
        )
        lines.append(missing if base is None else f"base {base[0]}")
    check_names(recipe, settings)
    if settings.rl:
        lines += _rl(settings.rl, base, settings.threads)
    if settings.eval:
        lines += _eval(settings.eval, settings.rl is not None)
    return lines


def _pretrain(p: Pretrain) -> list[str]:
    m = p.model
    attention = m.hidden_size * m.hidden_size * 2 * (1 + m.num_key_value_heads / m.num_attention_heads)
    size = m.vocab_size * m.hidden_size + m.num_hidden_layers * (attention + 3 * m.hidden_size * m.intermediate_size)
    return [
        f"stage base: a model of about {size / 1e6:.2f} M parameters reads {p.documents:,} made-up documents once,",
        f"  {p.tokens_per_step:,} tokens a step; a checkpoint at least every {p.save_seconds:g} s",
    ]


def _rl(s: RL, base: tuple[Path, dict[str, Any]] | None, threads: int) -> list[str]:
    a_step = s.problems_per_step * s.num_generations
    rollout, most = a_step * s.steps_per_generation, a_step * s.max_steps * s.sampling.max_tokens
    shares = sum(s.tasks.values())
    renewed = f", reference renewed every {s.ref_sync_steps} steps" if s.ref_sync_steps else ""
    rewards = " + ".join(f"{w:g} x {n}" for n, w in s.rewards.items())
    probe = f"probe of {s.eval_problems} val problems every {s.eval_steps} steps" if s.eval_steps else "no val probe"
    lines = [
        f"stage zero: {s.max_steps:,} updates on " + ", ".join(f"{v / shares:.0%} {k}" for k, v in s.tasks.items()),
        f"  a step learns from {s.problems_per_step} problems x {s.num_generations} answers = {a_step:,} answers",
    ]
    if s.steps_per_generation > 1:
        lines.append(f"  one rollout of {rollout:,} answers feeds {s.steps_per_generation} updates, one pass each")
    lines += [
        f"  in all {a_step * s.max_steps:,} answers to {s.problems_per_step * s.max_steps:,} problems, "
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
    if base:
        lines += _memory(s, *base, most, threads)
    return lines


def _memory(s: RL, folder: Path, shape: dict[str, Any], most: int, threads: int) -> list[str]:
    size = ledger.count_parameters(folder)
    if size is None:
        return []
    try:
        held = memory.parts(s, shape, size, PROMPT, threads if 4 * size <= memory.SMALL else 1)
    except (KeyError, TypeError, ValueError):
        return []
    scorings = int(s.beta > 0) + int(s.steps_per_generation > 1)
    flops = ledger.flops(size, 0, most, most, scorings)
    told = ", ".join(f"{name} {_bytes(n)}" for name, n in held.items())
    return [
        f"  {size:,} parameters; memory about {_bytes(sum(held.values()))}: {told}",
        f"  at most {flops:.1e} FLOPs; answers shorter than the cap cost less (time is known after the first steps)",
    ]


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


def _eval(e: Eval, twice: bool) -> list[str]:
    ways = 2 if e.also_t1 else 1
    answers = len(e.tasks) * ways * e.problems * e.samples
    also = " and at T 1" if e.also_t1 else ""
    return [
        ("stages before and after" if twice else "stage before")
        + f": {e.problems} {e.split} problems of {', '.join(e.tasks)},",
        f"  {e.samples} answers each at T {e.sampling.temperature:g}, top-p {e.sampling.top_p:g}{also}: "
        f"{answers:,} answers{' each time' if twice else ''}",
    ]
