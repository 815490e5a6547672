"""The work that both sides of a comparison do, and the commands that do it: ours, TRL's, and who else samples."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.limits import Rollout
from bench.measure import OUT, ROOT, PeerError, Run, python_of, spawn
from incentive import chat
from incentive.recipes.zero import ZERO_MINI_RL
from incentive.records import to_json
from incentive.stage import Stage
from incentive.tasks import SHIPPED, Mixture

TASKS = {"countdown3": 0.5, "countdown4": 0.5}
RIGHT = ZERO_MINI_RL["rewards"]
COIN = {"coin": 1.0}  # random weights are never right; a coin's reward gives every group a gradient
RATES = {k: ZERO_MINI_RL[k] for k in ("beta", "epsilon", "epsilon_high")}
RATES["learning_rate"] = ZERO_MINI_RL["optim"]["learning_rate"]


@dataclass(frozen=True)
class Plan:
    """How much is measured, and with what."""

    quick: bool = False
    pairs: int = 5
    steps: int = 5
    rise_steps: int = 120
    works: tuple[str, ...] = ("32x8x96", "32x8x320", "64x16x96", "64x16x320")
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    micros: tuple[int, ...] = (32, 64, 256)
    threads: int = 2
    device: str = "cpu"


@dataclass(frozen=True)
class Work:
    """GRPO steps, or their sampling alone: problems x samples of at most so many tokens, from a checkpoint."""

    problems: int
    group: int
    limit: int
    model: str = "base-mini"
    rewards: dict[str, float] = field(default_factory=lambda: RIGHT, hash=False)
    rows: int = 0  # of our micro-batches at full length; 0: the product's own choice

    def __str__(self) -> str:
        return f"{self.model}, {self.problems} x {self.group}, at most {self.limit} tokens"

    @property
    def folder(self) -> Path:
        """Of the checkpoint; one of random weights is made where it is missing.

        Raises:
            PeerError: it could not be made.
        """
        if self.model == "base-mini":
            return ROOT / "incentive/assets/base-mini"
        folder = OUT / "models" / self.model
        if not folder.is_dir():
            made = side("make", "make", threads=2, model=self.model, out=folder)
            if "error" in made:
                raise PeerError(f"no checkpoint {self.model}: {made['error']}")
        return folder


def work_of(text: str, **more: Any) -> Work:
    """`32x8x96`: problems, samples of each, tokens at most.

    Raises:
        ValueError: it does not read so.
    """
    try:
        problems, group, limit = (int(x) for x in text.split("x"))
    except ValueError:
        raise ValueError(f"{text!r}: write the work as PROBLEMSxSAMPLESxTOKENS, for example 32x8x96") from None
    return Work(problems, group, limit, **more)


@dataclass(frozen=True)
class Setting:
    """How TRL is set."""

    precision: str = "float32"
    micro: int = 32
    generation: str = "generate"
    checkpointing: bool = False

    def __str__(self) -> str:
        words = [self.precision, f"micro-batch {self.micro}"]
        words += ["continuous batching"] if self.generation == "continuous" else []
        return ", ".join(words + (["checkpointing"] if self.checkpointing else []))


def prompts(work: Work, steps: int, seed: int) -> Path:
    """A file of the problems of some steps, those that our trainer draws with this seed: text, ids and problem."""
    mixture = Mixture({name: SHIPPED[name] for name in TASKS}, TASKS)
    coder = Tokenizer.from_file(str(work.folder / "tokenizer.json"))
    lines = []
    for i in range(steps * work.problems):
        problem = mixture.problem(seed, "train", i)
        text = chat.render("mini", problem.prompt)
        ids = coder.encode(text, add_special_tokens=False).ids
        lines.append(json.dumps({"text": text, "ids": ids, "problem": to_json(problem)}))
    path = OUT / "prompts.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def longest_prompt(path: Path) -> int:
    return max(len(json.loads(line)["ids"]) for line in path.read_text().splitlines())


def options(**values: Any) -> list[str]:
    """`--name value` of each; a dict as JSON, True as the name alone, False and None not at all."""
    words = []
    for name, value in values.items():
        if value is not None and value is not False:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            words += [f"--{name}"] if value is True else [f"--{name}", text]
    return words


def guarded(call: Callable[[], Run]) -> Run:
    """A run, or why a peer or a checkpoint is missing: that is said in the table, and the rest goes on."""
    try:
        return call()
    except PeerError as error:
        return {"error": str(error)}


# --- who trains ------------------------------------------------------------------------------------------------------


def ours(work: Work, plan: Plan, steps: int, seed: int, *, watch: bool = False, phases: bool = False) -> Run:
    """The command `incentive run` on the work. With `phases` also what each phase took and the rollouts' lengths."""

    def call() -> Run:
        folder = OUT / "run"
        shutil.rmtree(folder, ignore_errors=True)
        rewards = ", ".join(f"{k} = {float(v)}" for k, v in work.rewards.items())
        sets = {
            "base": work.folder, "threads": plan.threads, "rl.max_steps": steps,
            "rl.problems_per_step": work.problems, "rl.num_generations": work.group,
            "rl.sampling.max_tokens": work.limit, "rl.rewards": f"{{ {rewards} }}", "rl.learner.device": plan.device,
        }  # fmt: skip
        if work.rows:
            longest = longest_prompt(prompts(work, steps, seed)) + work.limit
            sets["rl.learner.tokens_per_micro_batch"] = work.rows * longest
        command = [sys.executable, "-m", "incentive", "run", "bench/recipe.py", "--run", str(folder), "--plain"]
        command += ["--seed", str(seed), *(x for key, value in sets.items() for x in ("--set", f"{key}={value}"))]
        env = {"BENCH_PHASES": "1"} if phases else {}
        run = spawn(command, "ours", threads=plan.threads, watch=watch, env=env)
        if phases and "error" not in run:
            run["rollouts"] = [rollout(Stage(folder / "zero"), step + 1) for step in range(steps)]
        shutil.rmtree(folder, ignore_errors=True)
        return run

    return guarded(call)


def rollout(stage: Stage, step: int) -> Rollout:
    """Lengths of a step's prompts and samples."""
    groups = stage.read_rollouts(step)
    samples = [s for g in groups for s in g.samples]
    distinct = [len(g.samples[0].prompt_ids) for g in groups]
    return distinct, [len(s.prompt_ids) for s in samples], [len(s.ids) for s in samples]


def trl(work: Work, plan: Plan, setting: Setting, steps: int, seed: int, *, watch: bool = False) -> Run:
    """GRPOTrainer on the same work."""

    def call() -> Run:
        words = options(
            model=work.folder, prompts=prompts(work, steps, seed), steps=steps, problems=work.problems,
            group=work.group, limit=work.limit, rewards=work.rewards, rl=RATES, seed=seed, threads=plan.threads,
            device=plan.device, **asdict(setting),
        )  # fmt: skip
        return spawn([python_of("trl"), "-P", "bench/peers/trl.py", *words], "trl", threads=plan.threads, watch=watch)

    return guarded(call)


def seconds_a_step(run: Run) -> float:
    """The mean over updates; the first warms up, and counts only where there is no other."""
    return statistics.fmean(run["seconds"][1:] or run["seconds"])


Sweep = list[tuple[Setting, Run]]


@cache
def sweep(work: Work, plan: Plan) -> Sweep:
    """TRL at each precision and micro-batch, two updates each, watched; then with its other ways.

    At the fastest setting also with continuous batching (in float32: at bfloat16 it turns the weights themselves), and
    at the leanest with gradient checkpointing. Where the plan names one precision and one micro-batch, that is taken as it is.
    """
    total = work.problems * work.group
    sizes = list(dict.fromkeys(min(m, total) for m in plan.micros if total % min(m, total) == 0)) or [total]
    if len(plan.precisions) == len(sizes) == 1 and not plan.quick:
        return [(Setting(plan.precisions[0], sizes[0]), {"seconds": [0.0], "peak_mib": 0.0})]
    tried: Sweep = []

    def attempt(setting: Setting) -> None:
        run = trl(work, plan, setting, 2, 1000, watch=True)
        tried.append((setting, run))
        said = run.get("error") or f"{seconds_a_step(run):.1f} s a step, {run['peak_mib']:,.0f} MiB"
        print(f"  TRL, {setting}: {said}", file=sys.stderr, flush=True)

    for precision in plan.precisions:
        for micro in sizes:
            attempt(Setting(precision, micro))
            if "no environment" in str(tried[0][1].get("error")):
                return tried
    if (found := best(tried)) and not plan.quick:
        attempt(replace(found, precision="float32", generation="continuous"))
    if (lean := leanest(tried)) and not plan.quick:
        attempt(replace(lean, checkpointing=True))
    return tried


def best(tried: Sweep) -> Setting | None:
    """The setting that took least time a step; None where every one failed."""
    done = [(seconds_a_step(run), n) for n, (_, run) in enumerate(tried) if "error" not in run]
    return tried[min(done)[1]][0] if done else None


def largest(tried: Sweep) -> Setting | None:
    """The fastest of those with the largest micro-batch."""
    most = max((setting.micro for setting, run in tried if "error" not in run), default=0)
    return best([(setting, run) for setting, run in tried if setting.micro == most])


def leanest(tried: Sweep) -> Setting | None:
    """The setting that took least memory."""
    done = [(run["peak_mib"], n) for n, (_, run) in enumerate(tried) if "error" not in run]
    return tried[min(done)[1]][0] if done else None


# --- who samples -----------------------------------------------------------------------------------------------------


def side(name: str, log: str, *, threads: int, watch: bool = False, **words: Any) -> Run:
    """A process of `bench/sides.py`."""
    command = [sys.executable, "-m", "bench.sides", name, *options(threads=threads, **words)]
    return spawn(command, log, threads=threads, watch=watch)


def sampler(who: str, work: Work, plan: Plan, precision: str, seed: int) -> Run:
    """Two counted rounds of sampling by `ours`, `transformers` or `vllm`."""

    def call() -> Run:
        asked: dict[str, Any] = {
            "model": work.folder, "prompts": prompts(work, 1, seed), "group": work.group, "limit": work.limit,
            "precision": precision, "seed": seed,
        }  # fmt: skip
        env: dict[str, str] = {}
        if who == "ours":
            return side("sample", "sample-ours", threads=plan.threads, **asked)
        if who == "transformers":
            words = [sys.executable, "-P", "bench/peers/generate.py", *options(threads=plan.threads, **asked)]
        else:
            python = python_of("vllm")
            words = [python, "-P", "bench/peers/vllm.py", *options(**asked)]
            cores = sorted(os.sched_getaffinity(0))[: plan.threads]
            env = {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}
            openmp = Path(python).parents[1] / "lib/libiomp5.so"  # comes with it, and it asks for it
            env |= {"LD_PRELOAD": str(openmp)} if openmp.exists() else {}
        return spawn(words, f"sample-{who}", threads=plan.threads, env=env)

    return guarded(call)


def tokens_a_second(run: Run) -> float:
    return sum(run["tokens"]) / sum(run["seconds"])


# --- the machine -----------------------------------------------------------------------------------------------------


@cache
def machine(plan: Plan) -> Run:
    """Its speed on large matrix products and copies, measured in a process of its own."""
    return side("machine", "machine", threads=plan.threads, size=2048 if plan.quick else 4096, rounds=5)
