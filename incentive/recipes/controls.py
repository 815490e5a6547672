"""Is it real? R1-Zero on three seeds beside its controls, on one test split, collected whichever way they fall.

Each arm is a run of its own in DIR/arms/NAME, killed and resumed like any other; two run at a time, one thread each,
which on two cores is faster than one run on both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incentive.files import RunError, write_json
from incentive.recipes.base import Recipe, Show
from incentive.run import Run

JOBS = 2
SEEDS = (21, 22, 23)  # of the reported runs; development used others
TASKS = ("countdown3", "countdown4")
UNSEEN = {
    "countdown5": 1000,
    "countdown4-large": 600,
    "countdown3-large": 297,
}  # the test split has not many more with large targets


@dataclass(frozen=True)
class Arm:
    """One run: a recipe with settings; `{name}` in a setting is the model that the arm of that name made."""

    name: str
    recipe: str
    sets: tuple[str, ...] = ()
    seed: int = SEEDS[0]
    needs: tuple[str, ...] = field(default=())


def arms() -> list[Arm]:
    """Every arm; an arm comes after those that it needs."""
    paired = ("eval.problems=1000", "eval.samples=4", "eval.also_t1=false")
    both = "eval.tasks=" + json.dumps(TASKS)
    many = (
        "eval.problems=100",
        "eval.samples=256",
        "eval.also_t1=false",
        both,
        "eval.sampling.temperature=1.0",
        "eval.sampling.top_p=1.0",
    )

    def only(name: str, base: str, sets: tuple[str, ...]) -> Arm:
        needs = (base[1:-1],) if base.startswith("{") else ()
        return Arm(name, "evaluate-mini", (f"base={base}", *sets), needs=needs)

    bases = [
        Arm(f"base-dose-{d}", "base-mini", (f"pretrain.retry_dose={v}",), seed=0)
        for d, v in (("0", 0.0), ("10", 0.1), ("50", 0.5))
    ]
    bases += [
        Arm("base-blind", "base-mini", ("pretrain.verify=false",), seed=0),
        Arm("base-other", "base-mini", seed=1),
    ]
    zeros = [Arm(f"zero-{s}", "zero-mini", paired, seed=s) for s in SEEDS]
    rl = [
        Arm("zero-other-base", "zero-mini", (*paired, "base={base-other}"), needs=("base-other",)),
        Arm("coin", "zero-mini", (*paired, "rl.rewards={coin=1.0}")),
        Arm("format", "zero-mini", (*paired, "rl.rewards={format=1.0}")),
        Arm("blind", "zero-mini", (*paired, "base={base-blind}"), needs=("base-blind",)),
        Arm("dose-0", "zero-mini", (*paired, "base={base-dose-0}"), needs=("base-dose-0",)),
        Arm(
            "dose-0-hot",
            "zero-mini",
            (*paired, "base={base-dose-0}", "rl.sampling.temperature=1.3"),
            needs=("base-dose-0",),
        ),
        Arm("dose-10", "zero-mini", (*paired, "base={base-dose-10}"), needs=("base-dose-10",)),
        Arm("dose-50", "zero-mini", (*paired, "base={base-dose-50}"), needs=("base-dose-50",)),
        Arm("sft-1", "rejection-mini", paired),
        Arm("sft-3", "rejection-mini", (*paired, "collect.rounds=3")),
        Arm("sft-3-long", "rejection-mini", (*paired, "collect.rounds=3", "collect.tokens=0")),
    ]
    first = f"{{zero-{SEEDS[0]}}}"
    looks = [
        only("passk-base", "base-mini", many), only("passk-zero", first, many),
    ]  # fmt: skip
    for task, n in UNSEEN.items():
        asked = (f"eval.problems={n}", "eval.samples=4", "eval.also_t1=false", f"eval.tasks={json.dumps([task])}")
        looks += [only(f"{task}-base", "base-mini", asked), only(f"{task}-zero", first, asked)]
    return [*zeros, *bases, *rl, *looks]


def model_of(folder: Path) -> Path:
    """The model that an arm made."""
    return next(
        p
        for p in (folder / "zero/model", folder / "base/model", folder / "sft-3/model", folder / "sft-1/model")
        if p.exists()
    )


def start(arm: Arm, root: Path) -> None:
    """Run an arm to its end, in a process of its own.

    Raises:
        RunError: it failed; the message names its log.
    """
    folder = root / arm.name
    if (folder / "done.json").exists():
        return
    made = {f"{{{n}}}": str(model_of(root / n)) for n in arm.needs}
    sets = [f"base={made[s.removeprefix('base=')]}" if s.removeprefix("base=") in made else s for s in arm.sets]
    command = [
        sys.executable,
        "-m",
        "incentive",
        "run",
        arm.recipe,
        "--plain",
        "--run",
        str(folder),
        "--seed",
        str(arm.seed),
    ]
    command += [x for s in (*sets, "threads=1") for x in ("--set", s)]
    log = root / f"{arm.name}.log"
    root.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        code = subprocess.run(
            [*command, *(["--resume"] if (folder / "run.json").exists() else [])], stdout=out, stderr=out
        ).returncode
    if code:
        raise RunError(
            f"the arm {arm.name!r} stopped with exit code {code}; its words are in {log}\nGo on with --resume."
        )


def controls_mini() -> dict[str, Any]:
    """R1-Zero on three seeds and another base, beside its controls: SFT on own right answers, a coin for a reward, format
    alone, a base that cannot verify, doses of the retry habit, pass@k to 256, unseen difficulty. Hours on two cores."""
    return {"eval": {"tasks": list(TASKS), "problems": 1000, "samples": 4, "also_t1": False}}


def evaluate_mini() -> dict[str, Any]:
    """Evaluation of one model, with every answer kept: give it with --set base=FOLDER."""
    return {"eval": {"tasks": list(TASKS), "sampling": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 320}}}


def pipeline(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:  # noqa: ARG001
    """Run all arms that are not done, then write controls.json."""
    from incentive.recipes import findings

    root, all_arms = run.dir / "arms", arms()
    (run.dir / "digests").mkdir(exist_ok=True)
    done: dict[str, Any] = {}
    with ThreadPoolExecutor(JOBS) as pool:

        def go(arm: Arm) -> None:
            for name in arm.needs:
                done[name].result()
            if run.interrupt is None or not run.interrupt.requested:
                start(arm, root)
                write_json(run.dir / "digests" / f"{arm.name}.json", findings.digest(root / arm.name))

        for arm in all_arms:
            done[arm.name] = pool.submit(go, arm)
        for n, arm in enumerate(all_arms, start=1):
            done[arm.name].result()
            show({"phase": "arms", "done": n, "total": len(all_arms)})
    found = findings.collect(run.dir / "digests")
    write_json(run.dir / "controls.json", found)
    findings.write_page(run.dir / "results.md", found)
    return {"arms": [a.name for a in all_arms], "paragraph": found["paragraph"]}
