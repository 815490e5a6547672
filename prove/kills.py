"""Kills at random moments: a run that is killed and resumed ends with the bytes of the run never stopped.

    python prove/kills.py [--base base-mini] [--kills 20] [--set rl.max_steps=6] [--dir DIR]
    python prove/kills.py --recipe r1-tiny --every-stage

One run goes through. Others are killed (SIGKILL) at a moment drawn anew for each start, in preflight, evaluation,
rollout, update or while a file is written, or once inside every stage; each is gone on with by `--resume` until it is
done. Compared for every stage: metrics without what the clock says, rollouts, checkpoints, models, best, data sets and
results; for the run its summary with the table. Prints one line of JSON; exits 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

KEPT = (
    "results.json",
    "best.json",
    "state.json",
    "done.json",
    "model.safetensors",
    "training.safetensors",
    "config.json",
)
CLOCK = ("train_seconds", "evaluate_seconds", "cost", "core_hours", "peak_memory_mib")  # what a summary has from it


def fingerprint(run: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on how often it was stopped."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run).as_posix()
        if any(part.endswith((".tmp", ".old", ".dropped")) for part in path.relative_to(run).parts):
            continue  # what a kill left behind and nobody reads
        if path.parts[-3] == "checkpoints" and "save_steps" not in (path.parents[2] / "stage.json").read_text():
            continue  # saved by the clock
        if path.name == "summary.json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k not in CLOCK}
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
        elif path.name in KEPT or path.name.endswith(".jsonl.zst"):
            found[name] = path.read_bytes()
    return found


def where(run: Path) -> str:
    """The stage that a run was in: the last that has begun and is not done."""
    begun = [p.parent for p in run.glob("*/stage.json") if not (p.parent / "done.json").exists()]
    return max(begun, key=lambda p: (p / "stage.json").stat().st_mtime).name if begun else "between stages"


class Runs:
    """Starts of one command in a folder of ours."""

    def __init__(self, folder: Path, recipe: str, sets: list[str]):
        self.folder, self.recipe, self.sets = folder, recipe, [x for s in sets for x in ("--set", s)]
        self.names: list[str] = []  # of the runs that are killed

    def another(self) -> str:
        self.names.append(f"killed-{len(self.names) + 1}")
        return self.names[-1]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        run = self.folder / name
        more = ["--resume"] if (run / "run.json").exists() else self.sets
        command = [sys.executable, "-m", "incentive", "run", self.recipe, "--run", str(run), "--plain", *more]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def finish(self, child: subprocess.Popen[bytes], name: str) -> None:
        if child.wait() != 0:
            text = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
            raise SystemExit(f"{name} ended with code {child.returncode}: " + " / ".join(text[-3:]))

    def opened(self, child: subprocess.Popen[bytes], name: str) -> None:
        """Wait until the process holds the run directory: what comes before has nothing to lose."""
        lock = self.folder / name / "lock"
        while child.poll() is None and not (lock.exists() and lock.read_text().startswith(f"pid {child.pid} ")):
            time.sleep(0.002)


def killed_at_random(runs: Runs, span: float, kills: int, rng: random.Random) -> Counter[str]:
    """Kill runs `killed-1`, `killed-2`, ... at moments drawn anew until there were so many; where each was."""
    moments: Counter[str] = Counter()
    while moments.total() < kills:
        name = runs.another()
        while True:
            child = runs.start(name)
            if moments.total() < kills:
                runs.opened(child, name)
                # a quarter of the whole: late enough to get on, so that later starts are killed deeper in the run
                try:
                    child.wait(timeout=rng.uniform(0, span / 4))
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                    moments[where(runs.folder / name)] += 1
                    continue
            runs.finish(child, name)
            break
    return moments


def killed_in_each(runs: Runs, lengths: dict[str, float], rng: random.Random) -> Counter[str]:
    """Kill a run once inside every stage, at a moment drawn from the time that the stage took; where each was. A stage
    that ends before its kill comes is tried again in another run. A check that was stopped goes on where it was."""
    kept = runs.folder / "kills.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"left": dict(lengths), "moments": {}, "names": []}
    left, moments, runs.names = state["left"], Counter(state["moments"]), state["names"]
    while left or not (runs.folder / runs.names[-1] / "done.json").exists():
        unfinished = runs.names and not (runs.folder / runs.names[-1] / "done.json").exists()
        name = runs.names[-1] if unfinished else runs.another()
        while True:
            begun = where(runs.folder / name)  # by an earlier start: nobody sees when it goes on
            child = runs.start(name)
            runs.opened(child, name)
            while child.poll() is None and ((stage := where(runs.folder / name)) == begun or stage not in left):
                time.sleep(0.002)
            if child.poll() is not None:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=rng.uniform(0, 0.6 * left[stage]))
            child.kill()
            child.wait()
            if stage != (hit := where(runs.folder / name)):
                left[stage] /= 2  # too late: sooner, in the next run
            left.pop(hit, None)
            moments[hit] += 1
            kept.write_text(json.dumps({"left": left, "moments": moments, "names": runs.names}))
        runs.finish(child, name)
    return moments


def lengths_of(run: Path) -> dict[str, float]:
    """Seconds that each stage of a finished run took."""
    found = {
        p.parent.name: (p.stat().st_mtime, (p.parent / "stage.json").stat().st_mtime) for p in run.glob("*/done.json")
    }
    return {name: done - began for name, (done, began) in sorted(found.items(), key=lambda item: item[1])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="zero-tiny")
    parser.add_argument("--base", default="base-mini")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every-stage", action="store_true", help="in place of --kills: once inside every stage")
    parser.add_argument("--seed", type=int, help="of the moments; by default the clock's")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--dir", type=Path, help="keep the runs here, or go on with them")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else time.time_ns() % 2**32
    rng, began = random.Random(seed), time.monotonic()
    base = str(Path(args.base).resolve()) if Path(args.base).is_dir() else args.base
    folder = (args.dir or Path(tempfile.mkdtemp(prefix="incentive-kills-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    runs = Runs(folder, args.recipe, [f"base={base}", *args.sets])

    if not (folder / "through/done.json").exists():  # never stopped, or not at all
        shutil.rmtree(folder / "through", ignore_errors=True)
        child = runs.start("through")
        runs.opened(child, "through")
        runs.finish(child, "through")
    want = fingerprint(folder / "through")
    lengths = lengths_of(folder / "through")
    span = (folder / "through/done.json").stat().st_mtime - (folder / "through/run.json").stat().st_mtime
    moments = killed_in_each(runs, lengths, rng) if args.every_stage else killed_at_random(runs, span, args.kills, rng)
    differ = []
    for name in runs.names:
        got = fingerprint(folder / name)
        differ += [f"{name}/{n}" for n in sorted(want.keys() | got.keys()) if want.get(n) != got.get(n)]
    report = {
        "kills": moments.total(), "identical": not differ, "runs": len(runs.names), "stages": len(lengths),
        "killed_in": dict(moments), "compared": len(want), "differences": differ[:20], "recipe": args.recipe,
        "base": args.base, "seed": seed, "dir": str(folder), "uninterrupted_seconds": round(span, 1),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    print(json.dumps(report))
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
