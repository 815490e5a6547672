"""A made-up run directory of the whole pipeline in the real schema, for tests of the report and for looking at it:

python tests/pipeline_fixture.py DIR
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from random import Random
from typing import Any

from report_fixture import row

from incentive.calibration import of_labels, of_pairs
from incentive.files import write_json
from incentive.measure import wilson
from incentive.stage import Stage

TASKS = (
    "countdown3",
    "countdown3-zh",
    "logic",
    "program",
    "program-zh",
    "choice",
    "choice-zh",
    "instruct",
    "general",
    "harm",
)
SCORES = {  # model -> share right by the first word of the task
    "base": (0.10, 0.05, 0.30, 0.10, 0.08, 0.10), "zero": (0.55, 0.22, 0.42, 0.09, 0.07, 0.08),
    "dev1": (0.40, 0.20, 0.40, 0.35, 0.12, 0.10), "dev2": (0.58, 0.30, 0.45, 0.36, 0.11, 0.12),
    "dev3": (0.57, 0.29, 0.46, 0.52, 0.30, 0.45), "r1": (0.60, 0.33, 0.47, 0.55, 0.52, 0.91),
    "student": (0.45, 0.20, 0.40, 0.48, 0.28, 0.44),
}  # fmt: skip
KINDS = ("countdown", "program", "choice", "instruct", "general", "harm")
CONSISTENT = {"base": 0.62, "zero": 0.71, "dev1": 0.97, "dev2": 0.99, "dev3": 0.98, "r1": 0.995, "student": 0.96}
BASE, SMALL = "ba5e" * 4, "5ea1" * 4


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def stage(
    run: Path, name: str, kind: str, section: dict[str, Any] | None = None, start: str = "", data: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None, done: bool = True, **given: Any,
) -> Stage:  # fmt: skip
    """A stage's folder with stage.json and, where it is done, done.json; start and data are keys."""
    (run / name).mkdir(parents=True)
    of = {"stage": name, "section": section or {}, "inputs": {"start": start or None, "data": list(data), **given}}
    write_json(run / name / "stage.json", {"key": key(f"{name} of"), "of": of})
    if done:
        inputs = [k for k in (start, *data, given.get("continue_from")) if k]
        about = {"schema": 1, "key": key(f"{name} of"), "artifact": key(name), "steps": None, "kind": kind, "path": "x"}
        write_json(run / name / "done.json", about | {"inputs": inputs, "meta": meta or {}})
    return Stage(run / name)


def reinforced(
    run: Path, name: str, start: str, steps: int, first: int = 0, done: bool = True, tasks: dict[str, float] | None = None,
    **given: Any,
) -> None:  # fmt: skip
    section = {"tasks": tasks or {"countdown3": 1.0, "program": 1.0}, "rewards": {"accuracy": 1.0, "language": 0.3},
               "problems_per_step": 32, "num_generations": 8}  # fmt: skip
    made, rng = (
        stage(run, name, "weights", section, start, meta={"steps": first + steps}, done=done, **given),
        Random(name),
    )
    for step in range(first + 1, first + steps + 1):
        told = row(rng, step, (step - first) / steps)
        made.record(told | {"emergence/consistent": min(1.0, 0.6 + 0.4 * (step - first) / steps)})


def curated(run: Path, name: str, start: str, data: tuple[str, ...] = (), **given: Any) -> None:
    def told(rows: int, mean: float, problems: int, dropped: dict[str, int], added: int = 0) -> dict[str, Any]:
        return {"rows": rows, "turns": 1.0, "tokens": int(rows * mean), "mean_tokens": mean, "problems": problems,
                "samples": problems * 4, "added": added, "dropped": dropped}  # fmt: skip

    domains = {
        "countdown3": told(610, 88.0, 700, {"wrong": 1800, "language": 210, "more": 180}),
        "program": told(240, 131.5, 600, {"wrong": 2000, "repetition": 90, "code": 12, "near-duplicate": 58}),
    }
    if data:
        domains["general"] = told(290, 41.0, 0, {"contaminated: general": 10}, 300)
    dropped: dict[str, int] = {}
    for d in domains.values():
        for why, n in d["dropped"].items():
            dropped[why] = dropped.get(why, 0) + n
    total = told(sum(d["rows"] for d in domains.values()), 93.0, 1300, dropped, 300 if data else 0)
    total["tokens"] = sum(d["tokens"] for d in domains.values())
    results = {"domains": domains, "total": total, "held": {"countdown3": 200, "general": 200}, "ngram": 10}
    section = {"readable": {"run": 40}, "samples": 4}
    made = stage(run, name, "dataset", section, start, data, {"kept": total["rows"], "results": results}, **given)
    made.record(
        {"step": 1, "kept": total["rows"], "tokens/sampled": 400_000, "tokens/prompt": 60_000, "time/sample": 61.0}
    )
    write_json(run / name / "results.json", results)


def tuned(run: Path, name: str, start: str, data: str, seconds: float) -> None:
    section = {"epochs": 2, "tokens_per_step": 8192}
    made = stage(run, name, "weights", section, start, (key(data),), {"rows": 1140, "steps": 30})
    for step in range(1, 31):
        made.record(
            {"step": step, "nll": 2.0 / step, "grad_norm": 1.0, "time/step": seconds / 30, "tokens/trained": 8000}
        )


def rewarded(run: Path, name: str, data: str, pairwise: bool) -> None:
    section = {"kind": "pairwise" if pairwise else "pointwise", "epochs": 1}
    made, rng = (
        stage(run, name, "weights", section, key("dev3"), (key(data),), {"accuracy": 0.8, "steps": 8}),
        Random(name),
    )
    for step in range(1, 9):
        made.record({"step": step, "loss": 0.7 / step, "accuracy": 0.8, "grad_norm": 1.0, "time/step": 1.2})
    if pairwise:
        chosen, rejected = [rng.gauss(1, 1) for _ in range(90)], [rng.gauss(0, 1) for _ in range(90)]
        found = of_pairs(chosen, rejected, [(20 + i % 9, 25) for i in range(90)])
    else:
        safe = [i % 3 > 0 for i in range(90)]
        found = of_labels([rng.gauss(2 if s else -2, 2) for s in safe], safe, [20 + i % 7 for i in range(90)])
    about = {"kind": section["kind"], "scores": "summary" if pairwise else "response", "trained": 800, "held_out": 90}
    write_json(run / name / "results.json", about | found)


def evaluated(run: Path, model: str, start: str, problems: int = 200, contaminated: int = 0) -> None:
    out: dict[str, Any] = {}
    made = stage(run, f"eval-{model}", "eval", {"samples": 4, "split": "test"}, start)
    for n, task in enumerate(TASKS, 1):
        word = "countdown" if task.startswith("logic") else task.removesuffix("-zh").rstrip("0123456789")
        p = SCORES[model][KINDS.index(word)]
        low, high = wilson(p * problems, problems)
        seen = {"met": contaminated, "of": problems, "ngram": 10, "sets": {"corpus": 0, "zero": contaminated}}
        said = {"thoughts": 4 * problems, "wordless": 0.1, "share": 0.95, "consistent": CONSISTENT[model]}
        out[task] = {"problems": problems, "samples": 4, "pass@1": p, "pass@4": min(1.0, 1.5 * p), "ci95": [low, high],
                     "mean_tokens": 30 + 90 * p, "language": said, "contaminated": seen, "temperature": 0.6, "top_p": 0.95}  # fmt: skip
        made.record({"step": n, "task": task, "tokens/sampled": 40_000, "tokens/prompt": 9_000, "time/evaluate": 2.5})
    write_json(run / f"eval-{model}" / "results.json", out)


def make_pipeline(run: Path, until: str = "") -> Path:
    """Write a run of r1-mini; `until` names the stage that is running, with nothing after it."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text(
        'recipe = "r1-mini"\nbase = "runs/base-wide/base/model"\nstudent = "small-base"\nthreads = 2\n'
    )
    write_json(run / "run.json", {"schema": 1, "recipe": "r1-mini", "seed": 0, "created": "2026-01-05T10:00:00+00:00"})
    write_json(run / "environment.json", {"schema": 1, "cores": 2, "threads": 2})
    training = {
        "corpus": {"rows": 210_000, "met": {}},
        "zero": {"rows": 3840, "met": {}},
        "dev3": {"rows": 1140, "met": {}},
    }
    write_json(run / "contamination.json", {"ngram": 10, "near": 0.8, "evaluation": dict.fromkeys(TASKS, 200), "training": training})  # fmt: skip
    reinforced(run, "zero", BASE, 120, done=until != "zero")
    if until == "zero":
        return run
    curated(run, "cold-start", key("zero"), rewrite="incentive.restyle.restyle")
    tuned(run, "dev1", BASE, "cold-start", 21.0)
    reinforced(run, "dev2", key("dev1"), 60, done=until != "dev2")
    if until == "dev2":
        for model in ("base", "zero"):
            evaluated(run, model, BASE if model == "base" else key(model))
        return run
    stage(run, "rows", "dataset", meta={"rows": 300, "written_by": "a program"}, n=300, seed=0)
    curated(run, "rejection-sampling", key("dev2"), (key("rows"),))
    tuned(run, "dev3", BASE, "rejection-sampling", 44.0)
    counts = {
        "candidates": 900,
        "empty": 9,
        "same": 20,
        "repeated": 0,
        "no_verdict": 0,
        "unclear": 301,
        "length": 52,
        "kept": 518,
    }
    judge = {
        "pairs": 880,
        "agreement": 0.71,
        "swapped": 0.7,
        "unanimous": 0.44,
        "unanimous_ci95": [0.41, 0.47],
        "first_place": 0.01,
    }
    lengths = {"chosen_before": 46.4, "rejected_before": 28.6, "chosen_longer_before": 0.71, "chosen": 36.0, "rejected": 35.5, "chosen_longer": 0.5}  # fmt: skip
    made = stage(
        run,
        "pairs",
        "dataset",
        {"threshold": 1.0, "calls": 4},
        key("dev3"),
        meta=counts,
        judge="incentive.proxy.Helpful 0",
    )
    made.record({"step": 1, "time/sample": 30.0, "tokens/sampled": 90_000})
    write_json(run / "pairs/results.json", {"counts": counts, "judge": judge, "lengths": lengths})
    made = stage(
        run, "labels", "dataset", {"threshold": 1.0, "calls": 4}, key("dev3"), meta={"answers": 512, "safe": 300}
    )
    made.record({"step": 1, "time/sample": 12.0, "tokens/sampled": 30_000})
    write_json(run / "labels/results.json", {"counts": {"answers": 512, "safe": 300}})
    rewarded(run, "helpful", "pairs", True)
    rewarded(run, "safety", "labels", False)
    reinforced(run, "r1-reasoning", key("dev3"), 20)
    grade = f"incentive.recipes.r1.Routed {{'accuracy': 1.0}} {key('helpful')} {key('safety')}"
    reinforced(run, "r1", key("dev3"), 30, 20, continue_from=key("r1-reasoning"), grade=grade)
    tuned(run, "student", SMALL, "rejection-sampling", 15.0)
    for model in SCORES:
        evaluated(run, model, BASE if model == "base" else key(model))
    write_json(run / "summary.json", {"train_seconds": 700.0})
    write_json(run / "done.json", {"schema": 1})
    return run


if __name__ == "__main__":
    from incentive.report import write_report

    print(write_report(make_pipeline(Path(sys.argv[1]))))
