"""The comparisons, one function each: what is run in turn, and which figures of the runs go into the table.

A function takes the plan and a `Result`, which is written to runs/bench/NAME.json after every run, so that what is
measured stays when the rest is broken off. The first line of its docstring is its help, the whole stands on the page.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench import limits
from bench.measure import OUT, Run, Side, pairs
from bench.works import (
    COIN,
    Plan,
    Setting,
    Sweep,
    Work,
    best,
    largest,
    leanest,
    machine,
    ours,
    sampler,
    seconds_a_step,
    side,
    sweep,
    tokens_a_second,
    trl,
    work_of,
)  # fmt: skip
from incentive.files import write_json
from incentive.keys import environment
from incentive.memory import sampled_in

Figure = tuple[str, str, Callable[[Run], float | None]]  # its name, which way is better, its value in a run
Choice = Callable[[Sweep], Setting | None]
Sides = dict[str, tuple[str, Side]]  # name -> how it is set, the side; ours first
STEP: Figure = ("seconds a step", "lower", seconds_a_step)
MEMORY: Figure = ("peak MiB", "lower", lambda run: run["peak_mib"])
SAMPLED: Figure = ("tokens a second", "higher", tokens_a_second)
WINDOW = 5  # updates whose rewards are averaged before they are held against the goal


class Result:
    """One comparison's figures, on disk as they come; those of the time before are kept as NAME.before.json."""

    def __init__(self, name: str, plan: Plan, about: str):
        load = psutil.getloadavg()[0]
        where = environment(plan.threads) | {"memory_gib": psutil.virtual_memory().total / 2**30, "load": load}
        self.path, self.begun = place(plan) / f"{name}.json", False
        self.data: dict[str, Any] = {
            "comparison": name, "about": about, "quick": plan.quick, "finished": False, "machine": where,
            "lines": [], "tables": [],
        }  # fmt: skip

    def pair(self, work: str, sides: Sides, n: int, figures: Sequence[Figure]) -> None:
        """Run sides in turn; a line for each figure."""
        first = len(self.data["lines"])

        def told(runs: dict[str, list[Run]]) -> None:
            lines = [
                {"work": work, "figure": name, "better": better, "sides": {
                    who: {"setting": sides[who][0], **values(done, value)} for who, done in runs.items()
                }}
                for name, better, value in figures
            ]  # fmt: skip
            self.data["lines"][first:] = lines
            self.save()

        pairs({name: run for name, (_, run) in sides.items()}, n, told)

    def table(self, title: str, rows: Sequence[dict[str, Any]]) -> None:
        """A table of rows with the same columns; a further one of the same title takes its place."""
        self.data["tables"] = [t for t in self.data["tables"] if t["title"] != title] + [{"title": title, "rows": rows}]
        self.save()

    def save(self) -> None:
        if not self.begun and self.path.exists():
            self.path.replace(self.path.with_suffix(".before.json"))
        self.begun = True
        write_json(self.path, self.data)

    def finish(self) -> None:
        self.data["finished"] = True
        self.save()


def place(plan: Plan) -> Path:
    """Where results lie: those of the quick version apart, so that they never take the place of the full ones."""
    return OUT / "quick" if plan.quick else OUT


def values(runs: Sequence[Run], value: Callable[[Run], float | None]) -> dict[str, Any]:
    """The figure of each run, and why one failed."""
    errors = [run["error"] for run in runs if "error" in run]
    found = [v for run in runs if "error" not in run and (v := value(run)) is not None]
    return {"values": found, "error": errors[0] if errors else None}


def swept(work: Work, plan: Plan, out: Result) -> Sweep:
    """TRL's settings tried on this work, as a table of the result."""
    tried = sweep(work, plan)
    if len(tried) == 1 and "error" not in tried[0][1]:
        return tried  # one that was asked for
    rows = [
        {"setting": str(setting), "seconds a step": None if "error" in run else seconds_a_step(run),
         "peak MiB": run.get("peak_mib"), "": run.get("error", "")}
        for setting, run in tried
    ]  # fmt: skip
    out.table(f"TRL's settings, one counted update each: {work}", rows)
    return tried


def theirs(
    work: Work, plan: Plan, steps: int, tried: Sweep, choose: Choice = best, watch: bool = False
) -> tuple[str, Side]:
    """TRL at the setting chosen from those tried, or the reason why none works."""
    setting = choose(tried)
    if setting is None:
        return "no setting worked", lambda _: {"error": tried[0][1]["error"]}
    return str(setting), partial(trl, work, plan, setting, steps, watch=watch)


# --- the comparisons -------------------------------------------------------------------------------------------------


def step(plan: Plan, out: Result) -> None:
    """A GRPO step on the miniature, beside TRL at its fastest setting.

    Both sides: the same checkpoint, prompts, group, limit, learning rate, KL to a reference (beta 0.03), AdamW, float32
    weights, number of updates. The clock runs from the end of one update to the end of the next; the first update warms
    up and is not counted.
    """
    for work in map(work_of, plan.works):
        other = theirs(work, plan, plan.steps, swept(work, plan, out))
        mine = partial(ours, work, plan, plan.steps)
        out.pair(str(work), {"ours": ("as `incentive run`", mine), "TRL": other}, plan.pairs, [STEP])


def rise(plan: Plan, out: Result) -> None:
    """Time to 80% of the final reward on the miniature, beside TRL at its fastest setting.

    The final reward of a pair is the mean over the last tenth of the updates and over both sides; reached is 80% of it
    when the mean of five updates is. A pair has its own seed, and so its own problems.
    """
    work = work_of(plan.works[min(1, len(plan.works) - 1)])
    finals: dict[int, list[float]] = {}
    setting, other = theirs(work, plan, plan.rise_steps, swept(work, plan, out))

    def kept(call: Side) -> Side:
        def run(seed: int) -> Run:
            found = call(seed) | {"seed": seed}
            if "error" not in found:
                finals.setdefault(seed, []).append(final(found["reward"]))
            return found

        return run

    def time_to(run: Run) -> float | None:
        return reached(run["seconds"], run["reward"], 0.8 * statistics.fmean(finals[run["seed"]]))

    mine = kept(partial(ours, work, plan, plan.rise_steps))
    figures: list[Figure] = [
        ("seconds to 80% of the final reward", "lower", time_to),
        ("seconds for all updates", "lower", lambda run: sum(run["seconds"])),
        ("final reward", "higher", lambda run: final(run["reward"])),
    ]
    name = f"{work}, {plan.rise_steps} updates"
    sides: Sides = {"ours": ("as `incentive run`", mine), "TRL": (setting, kept(other))}
    out.pair(name, sides, max(1, plan.pairs // 2), figures)


def final(reward: Sequence[float]) -> float:
    """The mean over the last tenth of the updates."""
    return statistics.fmean(reward[-max(1, len(reward) // 10) :])


def reached(seconds: Sequence[float], reward: Sequence[float], goal: float) -> float | None:
    """Seconds from the start until the mean reward of the last `WINDOW` updates is at the goal; None if it never is."""
    window = min(WINDOW, len(reward))
    for end in range(window, len(reward) + 1):
        if statistics.fmean(reward[end - window : end]) >= goal:
            return sum(seconds[:end])
    return None


def memory(plan: Plan, out: Result) -> None:
    """Peak memory of GRPO steps, beside TRL at equal micro-batches and at its leanest setting.

    Proportional set size, summed over all processes of a side, looked at every 0.1 s over three updates. At an equal
    micro-batch, that of TRL's fastest setting and the largest one tried, ours holds as many rows of full length as TRL's;
    at TRL's leanest ours is as `incentive run` sets it.
    """
    for work in map(work_of, plan.works):
        tried = swept(work, plan, out)
        sizes: dict[int, Choice] = {found.micro: choose for choose in (largest, best) if (found := choose(tried))}
        equal = [(f"equal micro-batch of {n}", replace(work, rows=n), choose) for n, choose in sorted(sizes.items())]
        for label, own, choose in (*equal, ("TRL at its leanest", work, leanest)):
            setting = f"micro-batch {own.rows} rows" if own.rows else "as `incentive run`"
            mine = partial(ours, own, plan, 3, watch=True)
            sides: Sides = {"ours": (setting, mine), "TRL": theirs(work, plan, 3, tried, choose, watch=True)}
            out.pair(f"{work}; {label}", sides, min(2, plan.pairs), [MEMORY])


def sampling(plan: Plan, out: Result) -> None:
    """Tokens a second of our engine, transformers' generate and vLLM's CPU build on the miniature.

    From prompt ids to text, temperature 1, float32 on all sides; two rounds after one that warms up (and in which vLLM
    compiles). Tokens count up to the end of each answer.
    """
    for work in map(work_of, plan.works):
        names = ("ours", "transformers", "vllm")
        sides: Sides = {who: ("float32", partial(sampler, who, work, plan, "float32")) for who in names}
        out.pair(str(work), sides, plan.pairs, [SAMPLED])


def shapes(plan: Plan, out: Result) -> None:
    """A GRPO step of a 30M Llama and of Qwen2.5-0.5B's exact shape, random weights, beside TRL's fastest setting.

    The tokenizer is the miniature's and rewards are thrown by a coin; answers run to the limit, as random weights
    hardly ever end one. Two updates a run, the second is counted. Memory is watched in the same runs.
    """
    big = ["2x4x16", "1x4x8"] if plan.quick else ["8x8x128", "4x8x128"]
    for model, text, micros in (("llama-30m", big[0], (16, 64)), ("qwen2.5-0.5b", big[1], (4, 8, 32))):
        work = work_of(text, model=model, rewards=COIN, rows=8)
        few = plan.quick or len(plan.micros) == 1  # one that is known to be the fastest
        here = replace(plan, micros=micros[:1] if few else micros)
        other = theirs(work, here, 2, swept(work, here, out), watch=True)
        mine = partial(ours, work, plan, 2, watch=True)
        sides: Sides = {"ours": ("micro-batch 8 rows", mine), "TRL": other}
        out.pair(str(work), sides, max(1, plan.pairs // 2), [STEP, MEMORY])


def learner(plan: Plan, out: Result) -> None:
    """The learner alone at several lengths, and the memory of log-probs at vocabulary 151,936 as the length doubles.

    An update of rows of one length, a fifth of it prompt, in the product's own precision and micro-batches. Log-probs
    with their gradients at Qwen2.5-0.5B's width, in chunks and plainly; memory is what the call adds to the process.
    """
    measured, rows = machine(plan), []
    for model, lengths in (("base-mini", (64, 128, 256, 512, 1024)), ("llama-30m", (128, 512))):
        work = Work(1, 1, 1, model=model)
        for length in lengths[:2] if plan.quick else lengths:
            count = max(1, (2048 if plan.quick else 16384) // length)
            run = side("learn", "learn", threads=plan.threads, model=work.folder, length=length, rows=count, rounds=3)
            rows.append(
                {"model": model, "length": length, "rows": count, **learned(run, work, length, count, measured)}
            )
            out.table("The learner: one update", rows)
    rows = []
    for n in (64, 128) if plan.quick else (256, 512, 1024, 2048, 4096):
        row: dict[str, Any] = {"tokens": n}
        for form in ("in chunks", "plainly"):
            check = form == "in chunks" and n <= 512
            run = side("logp", "logp", threads=plan.threads, length=n, plain=form == "plainly", check=check)
            row |= {f"MiB {form}": run.get("mib"), f"seconds {form}": run.get("seconds")}
            row |= {"relative difference": run["difference"]} if "difference" in run else {}
            row |= {"failed": run["error"]} if "error" in run else {}
        rows.append({"relative difference": None, "failed": "", **row})
        out.table("Log-probs and gradients at vocabulary 151,936", rows)


def learned(run: Run, work: Work, length: int, rows: int, measured: Run) -> dict[str, Any]:
    """An update's seconds and tokens a second, and its share of the computed limit."""
    if "error" in run or "error" in measured:
        return {"failed": run.get("error") or measured["error"]}
    shape, width = limits.shape_of(work.folder), 2 if run["dtype"] == "bfloat16" else 4
    once = limits.forward(shape, [length] * rows, run["masked"], width)
    parts = (once, limits.backward(once), limits.optimizer(shape))
    least = sum(limits.bound(part, measured, run["dtype"])[0] for part in parts)
    took = statistics.median(run["seconds"])
    return {
        "precision": run["dtype"], "seconds": took, "least": min(run["seconds"]), "greatest": max(run["seconds"]),
        "tokens a second": rows * length / took, "limit, seconds": least, "share of the limit": least / took,
    }  # fmt: skip


def bounds(plan: Plan, out: Result) -> None:
    """What a step must cost on this machine by multiply-adds and bytes moved, and our share of that, by phase.

    The machine's speed is measured on large matrix products, at whichever of MKL (torch.mm) and oneDNN is faster, and on
    copies of 256 MiB. Counted for a step is what its own prompts and answers need, not their padding. The clocks within
    sampling and update are put there by the bench.
    """
    measured = machine(plan)
    if "error" in measured:
        raise SystemExit(f"the machine could not be measured: {measured['error']}")
    out.table("The machine, measured", [
        {"threads": measured["threads"], "float32 GFLOP/s": measured["float32"] / 1e9,
         "by torch.mm": measured["float32 by torch.mm"] / 1e9, "bfloat16 GFLOP/s": measured["bfloat16"] / 1e9,
         "copies GB/s": measured["bandwidth"] / 1e9},
    ])  # fmt: skip
    shaped = [] if plan.quick else [work_of("4x8x128", model="qwen2.5-0.5b", rewards=COIN, rows=8)]
    for work in [*map(work_of, plan.works), *shaped]:
        steps = 2 if work in shaped else plan.steps
        run = ours(work, plan, steps, 0, phases=True)
        if "error" in run:
            out.table(f"By phase: {work}", [{"failed": run["error"]}])
            continue
        counted = slice(1 if steps > 1 else 0, None)
        found = limits.phases(
            limits.shape_of(work.folder), measured, run["dtype"], run["rollouts"][counted], run["rows"][counted],
            run["phases"][counted], sampled_in("auto", run["dtype"], 4 * limits.shape_of(work.folder).parameters),
        )  # fmt: skip
        whole, n = found[-1]["seconds"], len(run["rows"][counted])
        out.table(f"By phase: {work}; the learner in {run['dtype']}", [by_phase(p, whole, n) for p in found])
    one = side("profile", "profile", threads=1, rows=256)
    rows = [
        {"of": of, "work": kind, "seconds": seconds, "share": seconds / sum(told.values())}
        for of, told in one.get("profile", {}).items() for kind, seconds in told.items()
    ]  # fmt: skip
    out.table(
        "Where one thread's time goes: base-mini, 32 x 8, at most 96 tokens", rows or [{"failed": one.get("error")}]
    )


def by_phase(p: limits.Phase, whole: float, n: int) -> dict[str, Any]:
    """A row of the table: one phase, a step of `n`."""
    known = "bound" in p
    return {
        "phase": p["name"], "part of": p["of"] or "step", "seconds": p["seconds"] / n,
        "share of the step": p["seconds"] / whole, "GFLOP": p["flops"] / n / 1e9 if known else None,
        "MB": p["bytes"] / n / 1e6 if known else None, "limit, seconds": p["bound"] / n if known else None,
        "set by": p["by"] if known else "",
        "share of the limit": p["bound"] / p["seconds"] if known and p["seconds"] else None,
    }  # fmt: skip


def gpu(plan: Plan, out: Result) -> None:
    """GRPO steps of the 0.5B and 1.5B shapes of Qwen2.5 on a GPU at length 1,024 and 4,096, beside TRL.

    TRL with its transformers and its continuous-batching generation. Not part of `make bench`: name it on a machine
    with a CUDA GPU. Memory is what torch reserved of the GPU at most.
    """
    here = replace(plan, device="cuda", precisions=("bfloat16",), micros=(4, 16))
    card: Figure = ("GPU peak MiB", "lower", lambda run: run["gpu_mib"])
    rate: Figure = ("tokens a second", "higher", lambda run: sum(run["tokens"][1:]) / sum(run["seconds"][1:]))
    for model in ("qwen2.5-0.5b", "qwen2.5-1.5b"):
        for limit in (128,) if plan.quick else (1024, 4096):
            work = work_of(f"4x8x{limit}", model=model, rewards=COIN, rows=4)
            other = theirs(work, here, 3, swept(work, here, out))
            mine = partial(ours, work, here, 3)
            sides: Sides = {"ours": ("micro-batch 4 rows", mine), "TRL": other}
            out.pair(str(work), sides, max(1, plan.pairs // 2), [STEP, rate, card])


COMPARISONS: dict[str, Callable[[Plan, Result], None]] = {
    "step": step, "rise": rise, "memory": memory, "sampling": sampling, "shapes": shapes, "learner": learner,
    "limits": bounds, "gpu": gpu,
}  # fmt: skip
